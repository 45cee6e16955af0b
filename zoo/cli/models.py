"""Models that a command line names. Torch is imported when one is loaded."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zoo.models.base import Model


def load_model(source: str) -> "Model":
    """The model of a folder, a run folder or a hub repository."""
    from zoo.checkpoints.load import load

    return load(source)
