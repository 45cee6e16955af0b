"""What the recipes of pairs may be told. Torch-free."""

from dataclasses import dataclass, field
from typing import Literal

from zoo.data.pairs_settings import PairDataSettings, SoundPairSettings
from zoo.run.settings import RunSettings, _within


@dataclass(frozen=True, kw_only=True)
class TowerSettings:
    """One tower. Any field of its model is aimed at it: `image.depth=6`, `text.attention=linear`.

    Attributes:
        name: Its model: a name that `zoo list` prints, drawn anew; or a folder or hub name, loaded.
        locked: Keep it as it is while the other learns (LiT); its projection learns all the same.
        unlocked: Groups of a locked tower that learn, from its output on: each block is one, the front end the last.
    """

    name: str = ""
    locked: bool = False
    unlocked: int = 0

    def __post_init__(self) -> None:
        _within("unlocked", self.unlocked, 0, float("inf"))
        if self.unlocked and not self.locked:
            raise ValueError(f"unlocked={self.unlocked} is of a locked tower: give locked=true with it")


@dataclass(frozen=True, kw_only=True)
class ContrastSettings:
    """The objective of two towers.

    Attributes:
        loss: `clip` (find the partner among all of the batch) or `siglip` (judge each pair by itself).
        duplicates: What captions that stand twice in a batch do: `name` says so and goes on, `refuse` ends, `positives`
            takes each for a partner, `ignore` takes the others for strangers in silence.
        cached: Pairs that go through the towers at a time, with the gradients of the whole batch (two passes); 0 takes
            the batch at once. A small machine so trains with a large batch.
        chunk: Rows of the loss's scores that are held at a time; 0 takes a number that suits a cache.
        patience: End after so many validations in a row that are not the best; 0 goes on to the last step.
    """

    loss: Literal["clip", "siglip"] = "clip"
    duplicates: Literal["name", "refuse", "positives", "ignore"] = "name"
    cached: int = 0
    chunk: int = 0
    patience: int = 0

    def __post_init__(self) -> None:
        for name in ("cached", "chunk", "patience"):
            _within(name, getattr(self, name), 0, float("inf"))


@dataclass(frozen=True, kw_only=True)
class ClipSettings(RunSettings):
    """Two towers, of pictures and of texts."""

    image: TowerSettings = field(default_factory=TowerSettings)
    text: TowerSettings = field(default_factory=TowerSettings)
    data: PairDataSettings = field(default_factory=PairDataSettings)
    task: ContrastSettings = field(default_factory=ContrastSettings)


@dataclass(frozen=True, kw_only=True)
class ClapSettings(RunSettings):
    """Two towers, of sounds and of texts."""

    audio: TowerSettings = field(default_factory=TowerSettings)
    text: TowerSettings = field(default_factory=TowerSettings)
    data: SoundPairSettings = field(default_factory=SoundPairSettings)
    task: ContrastSettings = field(default_factory=ContrastSettings)
