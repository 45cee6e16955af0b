"""The config of a model of several towers: the family and config of each, and the common space."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

from zoo.models.config import FOREIGN_NAMES, Config, plain
from zoo.models.registry import family
from zoo.utils.errors import did_you_mean

MODALITIES = ("image", "text", "audio")
# What a tower's family must be of, and the names of its inputs in a model of several towers.
KIND = {"image": "vision", "text": "text", "audio": "audio"}
INPUTS = {
    "image": {"pixel_values": "pixel_values"},
    "text": {"input_ids": "input_ids", "attention_mask": "attention_mask"},
    "audio": {"input_values": "input_values", "attention_mask": "audio_attention_mask"},
}
CLASSES = "a contrastive model has no classifier; zoo.zero_shot(model, labels) compares with texts of the classes"
# Fields that reach every tower when they are not aimed at one.
EVERYWHERE = ("attention", "mixer", "dropout", "attention_dropout", "drop_path")


@dataclass(frozen=True, kw_only=True)
class Tower:
    """One tower: its family and config (head="pool"), and how its features enter the common space: "linear" without a
    bias, "affine" with one, None as they are."""

    family: str
    config: Config
    proj: Literal["linear", "affine"] | None = "linear"

    def to_dict(self) -> dict[str, Any]:
        return {"family": self.family, "config": self.config.to_dict(), "proj": self.proj}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`. An unknown or a missing key is an error that names it."""
        known = [f.name for f in fields(cls)]
        if odd := [name for name in values if name not in known]:
            raise ValueError(f"a tower has no key {odd[0]!r}{did_you_mean(odd[0], known)}")
        if missing := [name for name in known if name not in values]:
            raise ValueError(f"a tower lacks the key {missing[0]!r}")
        config = family(values["family"]).config.from_dict(values["config"])
        return cls(family=values["family"], config=config, proj=values["proj"])


@dataclass(frozen=True, kw_only=True)
class ContrastiveConfig(Config):
    """image, text, audio: the towers that there are; width: of the common space; loss: "clip" or "siglip".

    Overrides are aimed at a tower, `replace(**{"text.attention": "performer"})`; a field that one tower alone has needs
    no aim, and attention, mixer and the chances of dropping reach every tower.
    """

    image: Tower | None = None
    text: Tower | None = None
    audio: Tower | None = None
    width: int = 256
    loss: Literal["clip", "siglip"] = "clip"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head is not None:
            raise ValueError(f"head={self.head!r}: a contrastive model has none; its towers pool")
        if len(self.towers) < 2:
            raise ValueError(f"expected two towers or three of {', '.join(MODALITIES)}, given {list(self.towers)}")
        for name, tower in self.towers.items():
            if tower.config.head != "pool":
                raise ValueError(f"the {name} tower has head={tower.config.head!r}, which pools nothing: head='pool'")

    @property
    def towers(self) -> dict[str, Tower]:
        """The towers that there are, by modality."""
        return {name: tower for name in MODALITIES if (tower := getattr(self, name)) is not None}

    @property
    def parts(self) -> dict[str, Config]:
        return {name: tower.config for name, tower in self.towers.items()}

    def part_of(self, name: str) -> Config:
        """The config of the tower that an input called `name` goes to."""
        return next((self.parts[m] for m in self.towers if name in INPUTS[m].values()), self)

    def flat(self) -> dict[str, Any]:
        """Every field by its name, those of towers as `tower.field`."""
        values = {name: value for name, value in super().flat().items() if name not in MODALITIES}
        for name, tower in self.towers.items():
            values |= {name: tower.family, f"{name}.proj": tower.proj}
            values |= {f"{name}.{field}": value for field, value in tower.config.flat().items()}
        return values

    def to_dict(self) -> dict[str, Any]:
        """JSON types, towers as nested objects."""
        values = {name: getattr(self, name) for name in self.names()}
        return {name: value.to_dict() if isinstance(value, Tower) else plain(value) for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`. An unknown or a missing key, at any level, is an error that names it."""
        read = {
            name: Tower.from_dict(value) if name in MODALITIES and value is not None else value
            for name, value in values.items()
        }
        if odd := [name for name in read if name not in cls.names()]:
            raise ValueError(f"{cls.__name__} has no field {odd[0]!r}{did_you_mean(odd[0], cls.names())}")
        return super().from_dict(read)

    @classmethod
    def refuse_unknown(cls, values: Mapping[str, Any]) -> None:
        """Nothing: which names there are depends on the towers, see `replace`."""

    def replace(self, **overrides: Any) -> Self:
        """A copy with other values; names are aimed at towers, see the class."""
        own: dict[str, Any] = {}
        aimed: dict[str, dict[str, Any]] = {}
        for name, value in overrides.items():
            if name in self.names():
                own[name] = value
                continue
            for tower, field in self.aims(name):
                aimed.setdefault(tower, {})[field] = value
        for name, changes in aimed.items():
            before: Tower = own.get(name) or self.towers[name]
            own[name] = Tower(family=before.family, config=before.config.replace(**changes), proj=before.proj)
        values = {name: getattr(self, name) for name in self.names()}
        return type(self)(**(values | own))

    def aims(self, name: str) -> list[tuple[str, str]]:
        """(tower, field) that an override called `name` is for; an unknown or ambiguous one raises."""
        aim, _, field = name.partition(".")
        if field and aim in self.towers:
            return [(aim, field)]
        if name in ("num_classes", "labels"):
            raise ValueError(f"{name}: {CLASSES}")
        takers = [(tower, name) for tower, config in self.parts.items() if name in config.names()]
        if not takers:
            known = [*self.names(), *(f"{t}.{n}" for t, c in self.parts.items() for n in c.names())]
            near = did_you_mean(name, known, FOREIGN_NAMES)
            raise ValueError(f"{type(self).__name__} has no field {name!r}{near} (towers: {', '.join(self.towers)})")
        if len(takers) > 1 and name not in EVERYWHERE:
            ways = " or ".join(f"{tower}.{name}" for tower, _ in takers)
            raise ValueError(f"{name} is a field of several towers: say {ways}")
        return takers
