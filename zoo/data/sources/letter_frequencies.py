"""Which encoding with one byte for each letter gives words of a language: by how frequent its letters are."""

import math
import re
from collections import Counter
from collections.abc import Iterator

# The letters of each language from frequent to rare, by the part of the world whose encodings have them.
_WESTERN = {
    "German": "enisratdhulcgmobwfkzüväpößjyxq", "French": "esaitnrulodcmpévqfbghjàxèyêzâçîùôûkwœïëæÿüáöñíó",
    "Spanish": "eaosrnidltcumpbgvyqóíhfzjéáñxúüwk", "Portuguese": "aeosrindmutclpvgãhqbfçázjéóíêõxúâôàwkyü",
    "Italian": "eaionlrtscdupmvghfbqzèàùòìéóíkwxyj", "Swedish": "eantrsildomkgväfhupåöbcyjxwzéqàü",
    "Danish": "enrtdisalogmkfvubhpåæyøcjwzéxq", "Finnish": "aintesloukämrvjhypdögbfcwåzšxžqéü",
    "Dutch": "enatirodslghvkmubpwjczfxyëéóqïüèöáç", "Estonian": "aiestlunkodrmvgpjhäbõüföyšžczwxq",
    "Icelandic": "arnieutðslgmofhkvíþyáæbjdópöúéýcxzwq", "Catalan": "easrilntoucdmpvgbàqéfxèhíòjóçzúïyükw",
}  # fmt: skip
_CENTRAL = {
    "Polish": "iaoezrnwcsytdkmłpjuląęgbhóżśćfńźvqx", "Czech": "oeantsilvrdkumpíchzyjběáéřžčšůýúgfťďňwóxqö",
    "Slovak": "aoeinvrstlkmdpuchjáybzíýéčšžťgľúňôďfäóxŕĺwqö", "Hungarian": "eatlsnkrozigámédyvbhjőfpuöócüíúűxwq",
    "Romanian": "eiarntulocsdpmăfvîgbşţzhâjxkyw", "Croatian": "aioenrsjtuklvdmpzgbcčhšžćfđyxwq",
    "Slovenian": "eaionrsltjvkdpmuzbghčcšžfyxwq", "Albanian": "etisnrauëhokmldjpgcfbqvyçzxw",
}  # fmt: skip
_TURKISH = {"Turkish": "aeinrlıkdmutyosbüşzgçhğvcöpfjâîûwxq"}
_BALTIC = {"Lithuanian": "iasoretnukmlpvdjgėbyųšžcąįūčęzfhxwq", "Latvian": "aisteurnkolmdpvzāīgjbšcēfžūņļķģčhōxwq"}
_CYRILLIC = {
    "Russian": "оеаинтсрвлкмдпугяызбйьчхжцюшщэфъё", "Ukrainian": "оаніирвтесклудмпзяьбгйчхцїжєюшщфґ",
    "Bulgarian": "аиоентрсвлкдпмзгяъубчцйжщхфшюьѝ", "Serbian": "аиоенрсуткјвдмплгзбцшњхжчћљфђџ",
    "Macedonian": "аоиетнрсвдклпмујзгбчшцжфќхњѓџљѕ", "Belarusian": "аніеорслтквдямупзыўьчгбцйшжхёюфэ",
}  # fmt: skip
_GREEK = {"Greek": "ατοιενρσκηπςυμλίόάγέδήωχθύώβφξζψϊϋΐΰ"}
_HEBREW = {"Hebrew": "יוהלרבתמאשנעםדקחפסכגטצןזךץף"}
_ARABIC = {
    "Arabic": "اليمونرتبةعدسفهكقأحجشطصىخإذزثضغظئءؤآ", "Farsi": "ایردنهومتبسلکشزفگعخقجآپحطصضغذثظژئأء",
    "Urdu": "ایرنوکےہمتسلدںبپگعحجقشٹخچزھفڑصضئغڈظؤءذثژ",
}  # fmt: skip
_ENCODINGS = {  # from common to rare, since texts of a few letters fit to several
    "cp1252": _WESTERN, "cp1250": _CENTRAL, "cp1251": _CYRILLIC, "iso8859_2": _CENTRAL, "cp1254": _TURKISH,
    "cp1253": _GREEK, "cp1255": _HEBREW, "cp1256": _ARABIC, "koi8_r": _CYRILLIC, "cp1257": _BALTIC,
    "mac_roman": _WESTERN, "cp850": _WESTERN,
}  # fmt: skip
_OTHER_SCRIPTS = (_CYRILLIC, _GREEK, _HEBREW, _ARABIC)
_DECAY = 9.0  # a letter is e times as frequent as the one 9 places behind it
_RARE = 0.003  # what every letter of the language has, of the first one's frequency
_FOREIGN = math.log(2e-5)  # a letter that the language does not have, or a sign within a word
_SIGN = math.log(1e-3)  # punctuation other than ASCII
_CAPITAL = math.log(1e-3)  # a capital within a word
_LATIN = -0.5  # a letter of a word of ASCII characters, in a language of another script
_RARER = math.log(0.7)  # each encoding against the one before it
_LETTERS = 3  # that a text has to have: one letter alone is a word of several languages
_LEAST = -4.8  # the mean of a letter in texts of the language is about -3.2, in most wrong encodings below -7
_SIGNS = set("‘’‚“”„«»‹›–—…€£§°©®™•·\xa0¿¡´")
_WORD = re.compile("[a-zA-Z\x80-\uffff]+")


def likely_encoding(sample: bytes, raw: bytes) -> str:
    """The encoding whose words are most probable by the frequencies of their letters in one of its languages.

    Words of ASCII characters alone are the same in each encoding; they count a little against languages of other
    scripts. Controls of ISO 8859 and letters that a language does not have are as improbable as signs within words.

    Args:
        sample: The lines with characters other than ASCII.
        raw: All bytes, which the encoding must have.

    Returns: its name; empty if none gives words of a language.
    """
    best, name = -math.inf, ""
    for place, (encoding, languages) in enumerate(_ENCODINGS.items()):
        try:
            raw.decode(encoding)
        except UnicodeDecodeError:
            continue
        counts = Counter(_characters(sample.decode(encoding, errors="replace")))
        latin = counts.pop("latin", 0)
        if counts.total() + latin < _LETTERS:
            continue
        fit = max(_log_likelihood(counts, _log_frequencies(letters)) for letters in languages.values())
        total = fit + place * _RARER + (latin * _LATIN if languages in _OTHER_SCRIPTS else 0)
        if fit >= _LEAST * counts.total() and total > best:
            best, name = total, encoding
    return name


def _characters(text: str) -> Iterator[str]:
    """`latin` for each letter of ASCII words; of other words letters in lower case, `sign`, `capital`, `foreign`."""
    for found in _WORD.finditer(text):
        word = found[0]
        if word.isascii():
            yield from ["latin"] * len(word)
            continue
        for i, c in enumerate(word):
            within = 0 < i < len(word) - 1 and word[i - 1].isalpha() and word[i + 1].isalpha()
            if c.isalpha() and c not in "ªº":
                yield c.lower()
                if i and c.isupper() and not word.isupper():
                    yield "capital"
            elif c in _SIGNS and (not within or c == "’"):
                yield "sign"
            else:
                yield "foreign"


def _log_frequencies(letters: str) -> dict[str, float]:
    weights = {c: math.exp(-i / _DECAY) + _RARE for i, c in enumerate(letters)}
    total = sum(weights.values())
    return {c: math.log(weight / total) for c, weight in weights.items()} | {"sign": _SIGN, "capital": _CAPITAL}


def _log_likelihood(counts: Counter[str], frequencies: dict[str, float]) -> float:
    return sum(n * frequencies.get(c, _FOREIGN) for c, n in counts.items())
