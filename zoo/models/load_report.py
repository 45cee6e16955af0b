"""What loading a checkpoint did, tensor by tensor."""

from dataclasses import dataclass, field


@dataclass
class LoadReport:
    """What loading did, tensor by tensor. Prints as one line.

    mapped: our tensors that came from the file. dropped: theirs that have no place in the model, by name.
    initialized: ours that the file does not hold, drawn anew. resampled: ours that were fitted to another size.
    notes: what else was not taken as it stands.
    """

    source: str = ""
    mapped: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    initialized: list[str] = field(default_factory=list)
    resampled: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def plain(self) -> bool:
        """Whether the file and the model were the same thing: nothing dropped, drawn, resampled or worth a note."""
        return not (self.dropped or self.initialized or self.resampled or self.notes)

    def __str__(self) -> str:
        parts = [f"{len(self.mapped)} tensors mapped"]
        for what in ("dropped", "initialized", "resampled"):
            if names := getattr(self, what):
                parts.append(f"{len(names)} {what} ({_some(names, 4)})")
        return f"{self.source}: " * bool(self.source) + "; ".join(parts + self.notes)


def _some(names: list[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
