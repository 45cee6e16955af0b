"""Times of parts of a step: on the host as they are, on a GPU from events that are read when they are there."""

import time
from typing import Any

import pytest
import torch

from zoo.utils.stopwatch import Stopwatch


def test_times_on_the_host_add_up_also_of_a_call_that_fails() -> None:
    watch = Stopwatch()
    assert watch.time(lambda x, y: x + y, 1, y=2) == 3
    with pytest.raises(ZeroDivisionError):
        watch.time(lambda: (time.sleep(0.02), 1 // 0))
    assert 0.02 <= watch.seconds < 5
    watch.reset()
    assert watch.seconds == 0.0


def test_calls_on_a_gpu_are_sampled_and_never_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    class Event:
        done = False

        def __init__(self, enable_timing: bool) -> None:
            made.append(self)

        def record(self) -> None: ...

        def query(self) -> bool:
            return self.done

        def elapsed_time(self, end: "Event") -> float:
            assert end.done, "waits for the GPU"
            return 4.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    watch = Stopwatch()
    results = [watch.time(lambda i=i: i, on_gpu=True) for i in range(20)]
    assert results == list(range(20)) and len(made) == 6 and watch.seconds == 0.0
    for event in made[:4]:
        event.done = True
    assert watch.seconds == pytest.approx(20 * 0.004)
