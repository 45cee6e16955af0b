"""Timers in place of that of zoo.optimize, so that a test decides which candidate is the fastest."""

from collections.abc import Callable

import pytest

from zoo.inference import kernel_choice
from zoo.inference.kernel_choice import Trial


def fake_timer(monkeypatch: pytest.MonkeyPatch, seconds: Callable[[Trial], float]) -> list[Trial]:
    """Time every candidate by a function; returns the list of what is timed. Each is called once."""
    trials: list[Trial] = []
    called: set[Trial] = set()

    def timer(trial: Trial) -> float:
        if trial not in called:
            trial.call()
        called.add(trial)
        trials.append(trial)
        return seconds(trial)

    monkeypatch.setattr(kernel_choice, "seconds_of", timer)
    return trials


def fastest(monkeypatch: pytest.MonkeyPatch, *names: str) -> list[Trial]:
    """Make candidates the fastest: "onednn" is also "joined_onednn" and "linear_onednn". Others are as created."""

    def seconds(trial: Trial) -> float:
        return 0.5 if any(trial.candidate in (n, f"joined_{n}", f"linear_{n}") for n in names) else 1.0

    return fake_timer(monkeypatch, seconds)
