"""The predictions of a window of inputs, and what a user has to know about the inputs of all of them."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

from zoo.inference.probabilities import Prediction

SHOWN = 5  # failures that a report names


@dataclass
class Window:
    """The predictions for the inputs of a window, in their order; indices count from its first input.

    predictions: None for an input that was skipped. failures: {index: what is wrong with the input, naming it}.
    truncated: {index: number of tokens} of the texts that were too long for the model. unfinished: the same of texts
    that the model has not written to their end.
    """

    predictions: list[Prediction | None]
    failures: dict[int, str] = field(default_factory=dict)
    truncated: dict[int, int] = field(default_factory=dict)
    unfinished: dict[int, int] = field(default_factory=dict)


@dataclass
class Report:
    """What a user has to know about the inputs of all windows so far.

    failures: of the first few inputs that failed. first, first_unfinished: name and number of tokens of the first text
    that was truncated, or not written to its end.
    """

    on_error: str = "raise"
    inputs: int = 0
    failed: int = 0
    failures: list[str] = field(default_factory=list)
    truncated: int = 0
    first: tuple[str, int] = ("", 0)
    max_length: int = 0
    unfinished: int = 0
    first_unfinished: tuple[str, int] = ("", 0)

    def add(self, window: Window, names: Sequence[str] | None = None) -> None:
        """Count a window; names: of its inputs, default "text 0" and so on."""
        for kind, place in (("truncated", "first"), ("unfinished", "first_unfinished")):
            if (found := getattr(window, kind)) and not getattr(self, kind):
                index, tokens = next(iter(found.items()))
                setattr(self, place, (names[index] if names else f"text {self.inputs + index}", tokens))
            setattr(self, kind, getattr(self, kind) + len(found))
        self.inputs += len(window.predictions)
        self.failed += len(window.failures)
        self.failures += list(window.failures.values())[: SHOWN - len(self.failures)]

    def messages(self) -> list[str]:
        """Sentences about truncated, unfinished and failed texts; empty if there are none."""
        found = []
        if self.truncated:
            name, tokens = self.first
            found.append(
                f"{self.truncated:,} of {self.inputs:,} texts are truncated to max_length={self.max_length} tokens: "
                f"the first is {name} with {tokens:,} tokens"
            )
        if self.unfinished:
            name, tokens = self.first_unfinished
            found.append(
                f"{self.unfinished:,} of {self.inputs:,} generated texts have no end after max_new_tokens={tokens}: "
                f"the first is of {name}; give a greater max_new_tokens in generate_kwargs"
            )
        if self.failed:
            what = "skipped" if self.on_error == "skip" else "labeled with their error"
            found.append(
                f"{self.failed:,} of {self.inputs:,} inputs are {what}: {'; '.join(self.failures)}"
                f"{' ...' * (self.failed > len(self.failures))}"
            )
        return found

    def warn(self, stacklevel: int) -> None:
        """Warn with each message."""
        for message in self.messages():
            warnings.warn(message, stacklevel=stacklevel + 1)
