"""When a run ends, estimated from its steps and validations so far."""

import math

from zoo.utils.console import clock_time, format_duration

SHORT = 60.0  # seconds: the end of what takes less is not printed
TOLERANCE = 0.2  # of the remaining time; a correction is printed if the expected end is off by more
FORWARD = 1 / 3  # of a training step: the time of a forward pass, until a validation has been measured


class ExpectedEnd:
    """Estimates the remaining time of a run, without the first step, which is slower than the others.

    Args:
        budget: Seconds of the time budget (`max_minutes=`); None is unlimited.
    """

    def __init__(self, budget: float | None = None):
        self.budget = budget
        self._started = self._since = self._quiet_until = 0.0
        self._step = 0
        self._first_step: int | None = None  # that has ended
        self._training = self._validating = 0.0  # seconds, training from the first step on
        self._validations = 0
        self._printed: float | None = None  # the end that the user knows of, as a time of the clock

    def start(self, now: float, step: int, expected: float | None = None) -> None:
        """Training starts at this step, and is expected to take so many seconds, which the banner shows."""
        self._started = self._since = now
        self._first_step, self._step = None, step
        self._printed = None if expected is None else now + expected
        self._quiet_until = now + 5  # the first seconds say little

    def step(self, now: float, step: int) -> None:
        """A step has ended."""
        if self._first_step is None:
            self._first_step = step
        else:
            self._training += now - self._since
        self._step, self._since = step, now

    def validation(self, now: float, started: float) -> None:
        """A validation that started at some time has ended."""
        self._validating += now - started
        self._validations += 1
        self._since += now - started

    @property
    def seconds_per_step(self) -> float | None:
        """The mean of the steps after the first one."""
        return self._training / self._steps if self._steps else None

    @property
    def _steps(self) -> int:
        """Steps after the first one."""
        return 0 if self._first_step is None else self._step - self._first_step

    def remaining(self, now: float, steps: int, validations: int, batches: float) -> float | None:
        """Seconds until the end of `steps`, of `validations` of so many batches, and of the test.

        None before the second step.
        """
        per_step = self.seconds_per_step
        if per_step is None:
            return None
        per_validation = self._validating / self._validations if self._validations else FORWARD * batches * per_step
        seconds = steps * per_step + (validations + 1) * per_validation
        if not math.isfinite(seconds):  # a data set of unknown length
            return None
        if self.budget is not None:
            seconds = min(seconds, max(0.0, self._started + self.budget - now))
        return seconds

    def correction(self, now: float, remaining: float | None) -> str | None:
        """A line if the end that the user knows of is off by more than 20 % of the time from now, else None."""
        before = self._printed
        if remaining is None or self._steps < 5 or now < self._quiet_until:
            return None
        if remaining < SHORT and (before is None or before - now < 2 * SHORT):  # minutes are worth a correction
            return None
        if before is not None and abs(now + remaining - before) <= TOLERANCE * remaining:
            return None
        self.printed(now, remaining)
        instead = "" if before is None else f", not {clock_time(before - now)}"
        return f"expected end {clock_time(remaining)}{instead} (in about {format_duration(remaining)})"

    def printed(self, now: float, remaining: float | None) -> None:
        """This end has been printed; a correction follows a minute later at the earliest."""
        if remaining is not None:
            self._printed, self._quiet_until = now + remaining, now + 60


def end_text(remaining: float | None) -> str:
    """`expected end 14:05`; empty if it is not known or less than a minute away."""
    return "" if remaining is None or remaining < SHORT else f"expected end {clock_time(remaining)}"
