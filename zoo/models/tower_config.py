"""Config of a model with several towers: the family and config of each, and what joins them."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal, Self

from zoo.models.config import Config, foreign_names
from zoo.models.foreign_names import ConfigDict
from zoo.models.registry import family
from zoo.preprocessing.modality import MODALITIES
from zoo.utils.errors import did_you_mean

TOWERS = ("image", "text", "audio")  # fields of TowersConfig
NO_CLASSIFIER = "a contrastive model has no classifier; use zoo.zero_shot(model, labels)"
# Fields that are set in all towers if no tower is named.
EVERYWHERE = ("attention", "mixer", "dropout", "attention_dropout", "drop_path")


@dataclass(frozen=True, kw_only=True)
class Part:
    """A model within a model: its family and its config."""

    family: str
    config: Config

    def to_dict(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)} | {"config": self.config.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`. Raises ValueError naming an unknown or missing key."""
        known = [f.name for f in fields(cls)]
        if odd := [name for name in values if name not in known]:
            raise ValueError(f"a tower has no key {odd[0]!r}{did_you_mean(odd[0], known)}")
        if missing := [name for name in known if name not in values]:
            raise ValueError(f"a tower lacks the key {missing[0]!r}")
        config = family(values["family"]).config.from_dict(values["config"])
        return cls(**{**values, "config": config})


@dataclass(frozen=True, kw_only=True)
class Tower(Part):
    """A tower of a contrastive model: its family, its config (with head="pool") and the projection of its features into
    the shared space: "linear" (without bias), "affine" (with bias) or None."""

    proj: Literal["linear", "affine"] | None = "linear"


@dataclass(frozen=True, kw_only=True)
class TowersConfig(Config):
    """Base config of models of several towers: image, text and audio, each None or a `Part`.

    Overrides name their tower, `replace(**{"text.attention": "performer"})`. A field that only one tower has needs no
    tower name; attention, mixer, dropout, attention_dropout and drop_path without one are set in all towers.
    """

    tower_class: ClassVar[type[Part]] = Part
    no_classifier: ClassVar[str] = "the model has no classifier"

    image: Any = None
    text: Any = None
    audio: Any = None

    @property
    def towers(self) -> dict[str, Any]:
        """The towers of the model by modality."""
        return {name: tower for name in TOWERS if (tower := getattr(self, name)) is not None}

    @property
    def parts(self) -> dict[str, Config]:
        return {name: tower.config for name, tower in self.towers.items()}

    def part_of(self, name: str) -> Config:
        """The config of the tower that takes the input `name`."""
        named = {m: (*MODALITIES[m].inputs.values(), *MODALITIES[m].alternatives) for m in self.towers}
        return next((self.parts[m] for m in self.towers if name in named[m]), self)

    def flat(self) -> dict[str, Any]:
        """All fields by name, those of towers as `tower.field`."""
        values = {name: value for name, value in super().flat().items() if name not in TOWERS}
        for name, tower in self.towers.items():
            own = {f.name: getattr(tower, f.name) for f in fields(tower) if f.name not in ("family", "config")}
            values |= {name: tower.family} | {f"{name}.{field}": value for field, value in own.items()}
            values |= {f"{name}.{field}": value for field, value in tower.config.flat().items()}
        return values

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types, towers as nested objects."""
        towers = {name: tower.to_dict() for name, tower in self.towers.items()}
        return ConfigDict(super().to_dict() | towers)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`. Raises ValueError naming an unknown or missing key, at any level."""
        read = {
            name: cls.tower_class.from_dict(value) if name in TOWERS and value is not None else value
            for name, value in values.items()
        }
        if odd := [name for name in read if name not in cls.names()]:
            raise ValueError(f"{cls.__name__} has no field {odd[0]!r}{did_you_mean(odd[0], cls.names())}")
        return super().from_dict(read)

    @classmethod
    def check_names(cls, values: Mapping[str, Any]) -> None:
        """Nothing: the known names depend on the towers, see `replace`."""

    def replace(self, **overrides: Any) -> Self:
        """A copy with other values; fields of towers are named as described in the class."""
        own: dict[str, Any] = {}
        by_tower: dict[str, dict[str, Any]] = {}
        for name, value in overrides.items():
            if name in self.names():
                own[name] = value
                continue
            for tower, field in self.targets(name):
                by_tower.setdefault(tower, {})[field] = value
        for name, changes in by_tower.items():
            before: Part = own.get(name) or self.towers[name]
            own[name] = replace(before, config=before.config.replace(**changes))
        values = {name: getattr(self, name) for name in self.names()}
        return type(self)(**(values | own))

    def targets(self, name: str) -> list[tuple[str, str]]:
        """The (tower, field) pairs that an override sets. Raises ValueError for an unknown or ambiguous name."""
        prefix, _, field = name.partition(".")
        if field and prefix in self.towers:
            return [(prefix, field)]
        if name in ("num_classes", "labels"):
            raise ValueError(f"{name}: {self.no_classifier}")
        takers = [(tower, name) for tower, config in self.parts.items() if name in config.names()]
        if not takers:
            known = [*self.names(), *(f"{t}.{n}" for t, c in self.parts.items() for n in c.names())]
            near = did_you_mean(name, known, self.foreign_names())
            raise ValueError(f"{type(self).__name__} has no field {name!r}{near} (towers: {', '.join(self.towers)})")
        if len(takers) > 1 and name not in EVERYWHERE:
            choices = " or ".join(f"{tower}.{name}" for tower, _ in takers)
            raise ValueError(f"{name} is a field of several towers: use {choices}")
        return takers

    def uses_attention(self, name: str = "attention") -> bool:
        return any(self.parts[tower].uses_attention(field) for tower, field in self.targets(name))

    def foreign_names(self) -> dict[str, str]:
        """{name in another library: our field}, with the name of the tower where it is needed."""
        result = foreign_names(self.names()) | self.own_foreign_names()
        for tower, config in self.parts.items():
            fields = foreign_names(config.names()).items()
            result = {theirs: f"{tower}.{ours}" for theirs, ours in fields} | result
        return result

    def own_foreign_names(self) -> dict[str, str]:
        """{name in another library: our field} of fields outside the towers."""
        return {}


@dataclass(frozen=True, kw_only=True)
class ContrastiveConfig(TowersConfig):
    """image, text, audio: two or three towers; width: of the shared embedding space; loss: "clip" or "siglip"."""

    tower_class: ClassVar[type[Part]] = Tower
    no_classifier: ClassVar[str] = NO_CLASSIFIER

    image: Tower | None = None
    text: Tower | None = None
    audio: Tower | None = None
    width: int = 256
    loss: Literal["clip", "siglip"] = "clip"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head is not None:
            raise ValueError(f"head={self.head!r}: a contrastive model has no head; its towers have head='pool'. "
                             f"A model of a single tower is needed for this head")  # fmt: skip
        if len(self.towers) < 2:
            raise ValueError(f"expected two or three towers of {', '.join(TOWERS)}, got {list(self.towers)}")
        for name, tower in self.towers.items():
            if tower.config.head != "pool":
                raise ValueError(f"the {name} tower has head={tower.config.head!r}, expected head='pool'")

    def own_foreign_names(self) -> dict[str, str]:
        return {"projection_dim": "width"}
