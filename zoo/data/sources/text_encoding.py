"""The encoding of a text file: by its byte order mark, as UTF-8, or guessed for files of older programs."""

import codecs
import re
from dataclasses import dataclass

from zoo.data.sources.letter_frequencies import likely_encoding
from zoo.utils.errors import DataError

_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
          (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))  # fmt: skip
_CHINESE_AND_KOREAN = ["gb18030", "big5", "cp949"]
_SAMPLE = 1 << 16  # bytes of the lines that the guess looks at
_HIGH = re.compile(rb"[\x80-\xff]")
_ALONE = re.compile(rb"(?<![\x80-\xff])[\x80-\xff](?![\x80-\xff])")
_KANA = re.compile("[\u3041-\u30ff]")  # without the half-width forms, which other encodings decode to as well
_TYPOGRAPHIC = re.compile(r"[\x00-\x7f‘’‚“”„«»‹›–—…€£§°©®™•·\xa0]*")  # of English texts
_LETTER = r"[^\W\d_²³¹¼½¾]"  # superscripts and fractions are word characters of `re`
_IN_WORDS = re.compile(rf"(?<={_LETTER}){_LETTER}|{_LETTER}(?={_LETTER})|[‘’“”„«»–—…€£§°©®™•·¿¡]")


@dataclass(frozen=True)
class DecodedText:
    """The text of a file, with the encoding that it was read in.

    Attributes:
        text: The text, without a byte order mark.
        encoding: Name of the encoding, as Python writes it.
        example: If the encoding is a guess, the first line with a character that depends on it; else empty.
    """

    text: str
    encoding: str
    example: str = ""


def decode_text(raw: bytes, where: str, encoding: str = "auto") -> DecodedText:
    """Decode the bytes of a text file.

    Args:
        raw: The bytes.
        where: The file, for messages.
        encoding: Name of the encoding. `auto` goes by the byte order mark, else it is UTF-8 if the bytes are valid
            UTF-8, else guessed.

    Raises: DataError for bytes that the encoding does not have, with their line; a text with NUL characters.
    """
    guess = ""
    if encoding == "auto":
        encoding, guess = _find(raw, where)
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise _invalid(raw, where, error, encoding) from None
    except LookupError:
        raise DataError(f"encoding={encoding}: expected 'auto' or an encoding of Python, such as 'utf-8', 'cp1252' or "
                         f"'utf-16'") from None  # fmt: skip
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(f"{where}, line {line}: it has a NUL character, so that it is damaged or not a text file")
    return DecodedText(text.removeprefix("\ufeff"), encoding, _example(text) if guess else "")


def _find(raw: bytes, where: str) -> tuple[str, str]:
    """(encoding, "guess" if it is one)."""
    for mark, name in _MARKS:
        if raw.startswith(mark):
            return name, ""
    if name := _utf16_without_mark(raw):
        return name, "guess"
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        if name := _guess(raw):
            return name, "guess"
        raise _invalid(raw, where, error, "utf-8") from None
    return "utf-8", ""


def _invalid(raw: bytes, where: str, error: UnicodeDecodeError, name: str) -> DataError:
    line = raw.count(b"\n", 0, error.start) + 1
    name = "UTF-8" if name == "utf-8" else name
    return DataError(f"{where}, line {line}: byte {raw[error.start]:#x} is not valid {name}; save the file as UTF-8, "
                     f"or name its encoding, e.g. encoding=cp1252")  # fmt: skip


def _utf16_without_mark(raw: bytes) -> str:
    """UTF-16 without a byte order mark: every other byte of its ASCII characters is zero. Empty for other bytes."""
    sample = raw[: 1 << 12]
    if len(raw) % 2 or len(sample) < 4:
        return ""
    even, odd = (sample[start::2].count(0) / (len(sample) // 2) for start in (0, 1))
    if max(even, odd) < 0.3 or min(even, odd) > 0.01:
        return ""
    return "utf-16-le" if odd > even else "utf-16-be"


def _guess(raw: bytes) -> str:
    """An encoding of older programs, e.g. cp1252; empty if the bytes are rather damaged UTF-8, or fit to none.

    Encodings with one byte for each letter are compared by `likely_encoding`; those of Chinese and Korean, whose
    letters are too many for that, by charset-normalizer.
    """
    from charset_normalizer import from_bytes

    as_utf8 = raw.decode(errors="replace")
    broken = as_utf8.count("\ufffd")
    if sum(1 for c in as_utf8 if c > "\x7f") > 2 * broken:
        return ""
    lines = dict.fromkeys(line for line in re.split(rb"[\r\n]+", raw) if _HIGH.search(line))
    sample = b"\n".join(lines)[:_SAMPLE]
    if _TYPOGRAPHIC.fullmatch(sample.decode("cp1252", errors="replace")):
        return "cp1252"
    alone = len(_ALONE.findall(sample)) > 0.5 * len(_HIGH.findall(sample))  # as accents are in words of Latin letters
    if name := ("" if alone else _japanese(raw, sample)) or likely_encoding(sample, raw):
        return name
    for match in from_bytes(sample, cp_isolation=_CHINESE_AND_KOREAN, threshold=0.6):
        if _is_plausible(raw, sample, match.encoding):
            return match.encoding
    return ""


def _japanese(raw: bytes, sample: bytes) -> str:
    """The Japanese encoding that gives kana, which charset-normalizer takes for Korean or Chinese; else empty."""
    for name in ("cp932", "euc_jp"):
        text = sample.decode(name, errors="replace")
        if len(_KANA.findall(text)) > 0.2 * sum(1 for c in text if c > "\x7f") and _is_plausible(raw, sample, name):
            return name
    return ""


def _is_plausible(raw: bytes, sample: bytes, name: str) -> bool:
    """Whether all bytes decode, and most characters other than ASCII are in words or common punctuation."""
    try:
        raw.decode(name)
    except UnicodeDecodeError:
        return False
    text = sample.decode(name, errors="replace")
    return sum(1 for c in _IN_WORDS.findall(text) if c > "\x7f") >= 0.5 * sum(1 for c in text if c > "\x7f")


def _example(text: str) -> str:
    """`line 7: 'the café was'`: the first character other than ASCII with the words around it."""
    found = re.search(r"[^\x00-\x7f]", text)
    if not found:
        return "line 1"
    line = text.count("\n", 0, found.start()) + 1
    start = text.rfind("\n", 0, found.start()) + 1
    before = text[max(start, found.start() - 15) : found.start()]
    after = re.split(r"[\r\n]", text[found.start() : found.start() + 15])[0]
    return f"line {line}: {(before + after).strip()!r}"
