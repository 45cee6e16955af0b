"""Report of how the tensors of a checkpoint were loaded."""

from dataclasses import dataclass, field
from typing import Any

import torch

from zoo.utils import renamed
from zoo.utils.escape import printable


@renamed.with_old_attributes
@dataclass
class LoadReport:
    """Report of how the tensors of a checkpoint were loaded. Prints as one line.

    mapped: tensors of the model that were read from the file. dropped: tensors of the file that the model does not
    have. initialized: tensors of the model that the file does not have, initialized randomly. resampled: tensors of
    the model that were resized. notes: further changes, as text.
    """

    source: str = ""
    mapped: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    initialized: list[str] = field(default_factory=list)
    resampled: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def plain(self) -> bool:
        """Whether the file fit the model exactly: nothing dropped, initialized or resampled, and no notes."""
        return not (self.dropped or self.initialized or self.resampled or self.notes)

    def __str__(self) -> str:
        parts = [f"{len(self.mapped)} tensors mapped"]
        for kind in ("dropped", "initialized", "resampled"):
            if names := getattr(self, kind):
                parts.append(f"{len(names)} {kind} ({listed(names, 4)})")
        return printable(f"{self.source}: " * bool(self.source) + "; ".join(parts + self.notes))


def listed(names: list[str], most: int = 8) -> str:
    """The first `most` names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def float16_notes(model: Any) -> list[str]:
    """Says for a model in float16 that its family's hidden states may exceed the range of that type."""
    if not (model.overflows_in_float16 and model.dtype is torch.float16):
        return []
    return [f"the sums in the layers of {model.family} can exceed the range of float16, and its outputs can be NaN: "
            "load it with dtype=torch.bfloat16 or torch.float32"]  # fmt: skip
