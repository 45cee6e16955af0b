"""Decoding in threads: every item once, broken ones in their order, and the first error ends the work."""

import pytest

from zoo.data.sources.decode_all import decode_all
from zoo.utils import progress as progress_module
from zoo.utils.errors import DataError


def test_every_item_is_decoded_and_broken_ones_are_listed_in_order() -> None:
    seen = [0] * 500

    def decode_one(i: int) -> str:
        seen[i] += 1
        return f"file {i} is odd." if i % 100 == 7 else ""

    broken = decode_all(500, decode_one, "image", "skip")
    assert seen == [1] * 500 and list(broken) == [7, 107, 207, 307, 407] and broken[7] == "file 7 is odd"
    with pytest.raises(DataError, match=r"broken image file \d*7 is odd\. Fix or remove it, or pass on_error=skip"):
        decode_all(500, decode_one, "image", "raise")


def test_nothing_that_can_be_read_is_an_error() -> None:
    with pytest.raises(DataError, match="no audio file can be read; the first is a"):
        decode_all(3, lambda i: "abc"[i], "audio file", "skip")
    with pytest.raises(DataError, match="the first is missing"):
        decode_all(0, lambda i: "", "image", "raise")


def test_long_work_prints_a_line_a_minute(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setattr(progress_module, "MINUTE", 0.0)
    decode_all(100, lambda i: "", "image", "raise")
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(",")[0] for line in lines] == ["reading images: 64 of 100", "reading images: 100 of 100"]
