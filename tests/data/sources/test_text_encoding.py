"""Encodings of text files: by mark, UTF-8, guessed for older programs, and what cannot be decoded."""

import codecs
from types import SimpleNamespace

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


def test_an_encoding_that_puts_signs_into_words_is_no_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    """The matches that charset-normalizer gave for 600 German reviews with prices: mac_roman has the least disorder."""
    matches = [
        SimpleNamespace(encoding="mac_roman", chaos=0.13, coherence=0.56, could_be_from_charset=["mac_roman"]),
        SimpleNamespace(encoding="cp1250", chaos=0.17, coherence=0.60, could_be_from_charset=["cp1250", "cp1252"]),
    ]
    monkeypatch.setattr("charset_normalizer.from_bytes", lambda *args, **kwargs: matches)
    text = "Kommentar;Note\nschöne Küche und trübe Soße, 34,61 €;1\n"
    found = decode_text(text.encode("cp1252"), "a.csv")
    assert (found.encoding, found.text) == ("cp1252", text)


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
