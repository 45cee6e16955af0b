"""Decoding in threads and processes: every item once, broken ones in their order, the first error ends the work."""

import multiprocessing
import os
import sys
import warnings

import pytest
import torch

from zoo.data.sources import decode_all as decoding
from zoo.data.sources.decode_all import decode_all, shared_buffer
from zoo.utils import progress as progress_module
from zoo.utils.errors import DataError


def test_every_item_is_decoded_and_broken_ones_are_listed_in_order() -> None:
    seen = [0] * 500

    def decode_one(i: int) -> str:
        seen[i] += 1
        return f"file {i} is odd." if i % 100 == 7 else ""

    broken = decode_all(500, decode_one, "image", "skip")
    assert seen == [1] * 500 and list(broken) == [7, 107, 207, 307, 407] and broken[7] == "file 7 is odd"
    with pytest.raises(
        DataError, match=r"^file \d*7 is odd\. Fix or remove it, or pass on_error=skip to skip broken im"
    ):
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


# --- processes --------------------------------------------------------------------------------------------------------

forks = pytest.mark.skipif(sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2, reason="needs two cores")


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes for any amount of work."""
    monkeypatch.setattr(decoding, "WORTH_PROCESSES", -1.0)


@forks
@pytest.mark.usefixtures("always")
def test_processes_write_to_shared_memory_and_name_what_is_broken() -> None:
    values = torch.frombuffer(shared_buffer(8 * 500), dtype=torch.int64)
    processes = torch.frombuffer(shared_buffer(8 * 500), dtype=torch.int64)

    def decode_one(i: int) -> str:
        values[i] += i + 1
        processes[i] = os.getpid()
        return f"file {i} is odd." if i % 100 == 7 else ""

    broken = decode_all(500, decode_one, "image", "skip", processes=True)
    assert values.tolist() == list(range(1, 501)) and os.getpid() not in processes[64:].tolist()
    assert broken == {i: f"file {i} is odd" for i in (7, 107, 207, 307, 407)}
    with pytest.raises(DataError, match=r"^file 7 is odd\. Fix or remove it"):
        decode_all(500, decode_one, "image", "raise", processes=True)
    with pytest.raises(DataError, match=r"^300\. Fix"):
        decode_all(500, lambda i: "300" if i == 300 else "", "image", "raise", processes=True)
    assert not multiprocessing.active_children()


@forks
@pytest.mark.usefixtures("always")
def test_filters_of_warnings_stay_as_they_are() -> None:
    before = list(warnings.filters)
    decode_all(500, lambda i: "", "image", "raise", processes=True)
    assert list(warnings.filters) == before


@forks
@pytest.mark.usefixtures("always")
def test_a_process_that_the_system_ends_is_a_clear_error() -> None:
    with pytest.raises(DataError, match="was ended by the system, most likely because the memory is full"):
        decode_all(500, lambda i: os._exit(9) if i == 400 else "", "image", "skip", processes=True)  # type: ignore[func-returns-value]


def test_short_work_starts_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "ProcessPoolExecutor", lambda *args: pytest.fail("started processes"))
    assert decode_all(500, lambda i: "", "image", "raise", processes=True) == {}
