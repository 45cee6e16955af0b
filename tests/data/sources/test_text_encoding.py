"""Encodings of text files: by mark, UTF-8, guessed for older programs, and what cannot be decoded."""

import codecs

import pytest

from zoo.data.sources.text_encoding import decode_text
from zoo.utils.errors import DataError

SAMPLES = {
    "cp1252": ["très bon café", "Das Essen war köstlich", "El niño comió mañana", "não é bom"],
    "cp1250": ["Bardzo dobry film, polecam każdemu", "świetna książka", "Nie podobał mi się"],
    "cp1251": ["Очень хороший фильм", "Не понравилось"],
    "koi8_r": ["Очень хороший фильм", "Не понравилось"],
    "cp1253": ["Πολύ καλή ταινία", "δεν μου άρεσε"],
    "cp932": ["とても良い映画でした", "つまらなかった"],
    "euc_jp": ["とても良い映画でした", "つまらなかった"],
    "gb18030": ["这部电影非常好看", "不喜欢", "一般般，没什么意思"],
    "big5": ["這部電影非常好看", "不喜歡"],
    "cp949": ["정말 좋은 영화였습니다", "별로예요"],
}


@pytest.mark.parametrize("encoding", SAMPLES)
def test_encodings_of_older_programs_are_guessed(encoding: str) -> None:
    text = "text;label\n" + "".join(
        f"plain english words;{i}\n{line};{i}\n" for i, line in enumerate(SAMPLES[encoding])
    )
    found = decode_text(text.encode(encoding), "reviews.csv")
    assert (found.text, found.encoding) == (text, encoding)
    assert found.example.startswith("line 3: ")


def test_a_single_accent_and_the_quotes_of_word_processors() -> None:
    for line in ("the café was fine", "It’s great – really", "“Wow” … €5"):
        found = decode_text(("text\n" + "plain words\n" * 50 + line + "\n").encode("cp1252"), "a.csv")
        assert (found.encoding, line in found.text) == ("cp1252", True)
    assert decode_text("text\nthe café was fine, she\n".encode("cp1252"), "a").example == (
        "line 2: 'the café was fine, she'")  # fmt: skip


def test_superscripts_are_not_letters() -> None:
    text = "nummer;prüfer\n" + "".join(f"{i:04d};Jürgen\n" for i in range(8)) + "0099;Ü\n"  # pr³fer in cp850
    assert decode_text(text.encode("cp1252"), "a.csv").text == text


def test_an_encoding_that_puts_signs_into_words_is_no_candidate() -> None:
    text = "Kommentar;Note\nschöne Küche und trübe Soße, 34,61 €;1\n"
    found = decode_text(text.encode("cp1252"), "a.csv")
    assert (found.encoding, found.text) == ("cp1252", text)


SENTENCES = {
    "Czech": [
        "Příliš žluťoučký kůň úpěl ďábelské ódy",
        "Film se mi velmi líbil, herci byli skvělí",
        "Už nikdy víc, ztráta času",
    ],
    "Polish": [
        "Bardzo dobry film, polecam każdemu",
        "Książka jest świetna, choć trochę za długa",
        "Źle się to czyta, nie będę polecać",
    ],
    "Hungarian": [
        "Nagyon jó film, mindenkinek ajánlom",
        "A főszereplő gyönyörűen játszik",
        "Szörnyű volt, két óra időpocsékolás",
    ],
    "Slovak": [
        "Výborná kniha, vrelo odporúčam všetkým",
        "Žiaľ, príbeh je veľmi nudný a dlhý",
        "Herci boli skvelí, ešte raz by som šiel",
    ],
    "Croatian": [
        "Izvrstan film, preporučujem svima",
        "Knjiga je dosadna i predugačka, nažalost",
        "Još ću ga pogledati sljedeći tjedan",
    ],
    "Slovenian": [
        "Odličen film, priporočam vsem",
        "Knjiga je žal dolgočasna in predolga",
        "Še enkrat bi si ga ogledal z veseljem",
    ],
    "Romanian": [
        "Un film foarte bun, îl recomand tuturor",
        "Cartea este plăcută, dar puţin cam lungă",
        "Nu mi-a plăcut deloc, o pierdere de vreme şi bani",
    ],
    "Turkish": [
        "Çok güzel bir film, herkese tavsiye ederim",
        "Kitap sıkıcı ve gereğinden uzun",
        "İyi oyunculuk, kötü senaryo, yazık olmuş",
    ],
    "Lithuanian": [
        "Labai geras filmas, rekomenduoju visiems",
        "Knyga nuobodi ir per ilga, bet graži",
        "Aktoriai puikiai vaidina, žiūrėčiau dar sykį",
    ],
    "Hebrew": [
        "סרט טוב מאוד, מומלץ לכולם, אראה אותו שוב עם הילדים",
        "הספר משעמם וארוך מדי",
        "השחקנים היו נהדרים, אצפה בו שוב",
    ],
    "Arabic": ["فيلم جيد جدا أنصح به الجميع", "الكتاب ممل وطويل", "كان الممثلون رائعين وسأشاهده مرة أخرى"],
    "Greek": ["Πολύ καλή ταινία, τη συνιστώ σε όλους", "Το βιβλίο είναι βαρετό και μεγάλο"],
    "Russian": ["Очень хороший фильм, советую всем", "Книга скучная и слишком длинная"],
    "Ukrainian": ["Дуже гарний фільм, раджу всім", "Книга нудна й надто довга, шкода її читати"],
    "German": [
        "Sehr schöner Film, für alle geeignet",
        "Das Buch ist öde und viel zu lang",
        "Großartige Schauspieler, würde ich wieder ansehen",
    ],
    "French": [
        "Très bon film, à voir absolument",
        "Le livre est ennuyeux et trop long, hélas",
        "Où est passée l’intrigue ? Ça déçoit",
    ],
    "Spanish": [
        "Muy buena película, la recomiendo a todos",
        "¿Por qué es tan aburrido? ¡Qué lástima!",
        "Los niños se durmieron, mañana devuelvo el libro",
    ],
    "Portuguese": ["Um filme muito bom, recomendo a todos, não percam", "A história é fraca e a duração, excessiva"],
    "Italian": ["È un bel film, perché no", "Il libro è noioso e così lungo, però utile"],
    "Finnish": ["Erittäin hyvä elokuva, suosittelen kaikille", "Kirja on tylsä ja liian pitkä, ääni särisi"],
    "Swedish": ["Mycket bra film, jag såg den två gånger", "Boken är tråkig och på tok för lång"],
    "Icelandic": ["Mjög góð mynd, ég mæli með henni við alla", "Bókin er leiðinleg og allt of löng, því miður"],
}
WRITTEN_IN = {
    "cp1250": "Czech Polish Hungarian Slovak Croatian Slovenian Romanian",
    "iso8859_2": "Czech Polish Hungarian Slovak Croatian Slovenian Romanian",
    "cp1252": "German French Spanish Portuguese Italian Finnish Swedish Icelandic",
    "mac_roman": "German French Spanish Portuguese", "cp850": "German French Spanish Portuguese",
    "cp1251": "Russian Ukrainian", "koi8_r": "Russian", "cp1253": "Greek", "cp1254": "Turkish", "cp1255": "Hebrew",
    "cp1256": "Arabic", "cp1257": "Lithuanian",
}  # fmt: skip
PAIRS = [(encoding, language) for encoding, languages in WRITTEN_IN.items() for language in languages.split()]


@pytest.mark.parametrize(("encoding", "language"), PAIRS)
def test_the_words_of_each_language_decide(encoding: str, language: str) -> None:
    """The text counts: encodings that have the same letters at the same places are as good as each other."""
    text = "text;label\n" + "".join(f"{line};{i}\n" for i, line in enumerate(SENTENCES[language]))
    raw = text.replace("’", "'" if encoding == "cp850" else "’").encode(encoding)
    assert decode_text(raw, "reviews.csv").text == raw.decode(encoding)


@pytest.mark.parametrize(
    "language",
    [language for name, language in PAIRS if name in ("cp1250", "cp1252", "cp1255") and language != "Slovenian"],
)
def test_single_lines(language: str) -> None:
    for line in SENTENCES[language]:
        encoding = next(name for name, languages in WRITTEN_IN.items() if language in languages)
        assert decode_text(line.encode(encoding), "a.txt").text == line


def test_a_sentence_with_the_controls_of_iso_8859_is_not_in_it() -> None:
    line = "Już źle się śpi, może później"  # with 0x9c and 0x9f, controls of ISO 8859-2
    assert decode_text(line.encode("cp1250"), "a").encoding == "cp1250"
    assert decode_text(line.encode("iso8859_2"), "a").encoding == "iso8859_2"


def test_english_words_do_not_outweigh_the_letters_of_other_scripts() -> None:
    text = "url;comment\n" + "https://example.org/reviews/list.html;Очень хороший фильм\n" * 3
    assert decode_text(text.encode("cp1251"), "a.csv").encoding == "cp1251"
    assert decode_text("è un bel film".encode("cp1252"), "a").encoding == "cp1252"  # a word of Russian in cp1251


@pytest.mark.parametrize(("encoding", "mark"), [
    ("utf-8", codecs.BOM_UTF8), ("utf-16-le", codecs.BOM_UTF16_LE), ("utf-16-be", codecs.BOM_UTF16_BE),
    ("utf-32-le", codecs.BOM_UTF32_LE), ("utf-32-be", codecs.BOM_UTF32_BE), ("utf-16-le", b""), ("utf-16-be", b""),
    ("utf-8", b""),
])  # fmt: skip
def test_unicode_with_and_without_a_mark(encoding: str, mark: bytes) -> None:
    text = "text,label\nçok güzel 好,1\n"
    found = decode_text(mark + text.encode(encoding), "a.csv")
    assert found.text == text and bool(found.example) == (not mark and encoding != "utf-8")
    assert found.encoding == (encoding if not mark or encoding == "utf-8" else encoding[:6])


def test_an_encoding_by_option() -> None:
    assert decode_text("naïve".encode("mac_roman"), "a", "mac_roman").text == "naïve"
    assert decode_text(codecs.BOM_UTF8 + b"a", "a", "utf-8").text == "a"
    with pytest.raises(DataError, match=r"a\.csv, line 2: byte 0xe9 is not valid UTF-8; .* encoding=cp1252"):
        decode_text("text\ncafé au lait\n".encode("cp1252"), "a.csv", "utf-8")
    with pytest.raises(DataError, match="line 1: byte 0x81 is not valid cp1252"):
        decode_text(b"\x81", "a.csv", "cp1252")


@pytest.mark.parametrize("raw", [
    "text\nçok güzel\n好的很\n".encode() + b"caf\xe9\n",  # UTF-8 with one damaged line
    b"text,label\na,0\n\xff,1\n",  # a byte that stands alone in no language
])  # fmt: skip
def test_damaged_utf8_is_not_guessed(raw: bytes) -> None:
    with pytest.raises(DataError, match=r"line [34]: byte 0x(e9|ff) is not valid UTF-8"):
        decode_text(raw, "a.csv")


def test_a_nul_character_is_named_by_its_line() -> None:
    with pytest.raises(DataError, match=r"a\.csv, line 3: it has a NUL character"):
        decode_text(b"text,label\na,1\nb\0c,0\n", "a.csv")
