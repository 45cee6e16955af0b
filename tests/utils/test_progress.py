"""Progress without a terminal: a line a minute, and nothing within another progress."""

from functools import partial
from types import SimpleNamespace

import pytest

from zoo.utils import progress as module
from zoo.utils.progress import is_shown, progress


def test_a_line_a_minute(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    with progress("predicting", 1000, done=100) as advance:
        assert is_shown()
        with progress("inner", 10) as inner:
            inner(5)
        for _ in range(9):
            clock[0] += 25
            advance(50)
    assert not is_shown()
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(", until")[0] for line in lines] == [
        f"predicting: {count} of 1,000, 2 a second" for count in (250, 400, 550)
    ]
    with progress("reading", None) as advance:
        clock[0] += 60
        advance(30)
    assert capsys.readouterr().err == "reading: 30, 0.5 a second\n"
    with progress("reading", None, enabled=False) as advance:
        clock[0] += 60
        advance(30)
    assert capsys.readouterr().err == ""


def test_an_error_ends_it() -> None:
    with pytest.raises(KeyError), progress("predicting", 3):
        raise KeyError
    assert not is_shown()


def test_short_work_shows_no_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    for seconds, shown in ((1.0, False), (3.0, True)):
        clock = [0.0]
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=partial(clock.__getitem__, 0)))
        with progress("reading", 100, delay=2.0) as advance:
            clock[0] = seconds
            advance(50)
        assert ("50/100" in capsys.readouterr().err) == shown


def test_other_ranks_are_quiet(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(module, "MINUTE", 0.0)
    with progress("reading", 100) as advance:
        advance(50)
    assert capsys.readouterr().err == ""
