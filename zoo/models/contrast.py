"""Two or more towers that share one space: pictures, texts and sounds that belong together lie close to each other.

CLIP (Radford et al. 2021), SigLIP (Zhai et al. 2023), LiT (Zhai et al. 2022) and what else `zoo.contrast` puts together
of the families here. A tower is a model with head="pool"; behind it stands a projection into the common space.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree

from ..errors import did_you_mean
from ..nn.init import Draw
from .base import THEIR_WORDS, Config, Family, Model, plain
from .bert import VARIANTS as BERT
from .bert import BertConfig
from .vit import VARIANTS as VIT
from .vit import ViTConfig

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
        from ..registry import family

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
            near = did_you_mean(name, known, THEIR_WORDS)
            raise ValueError(f"{type(self).__name__} has no field {name!r}{near} (towers: {', '.join(self.towers)})")
        if len(takers) > 1 and name not in EVERYWHERE:
            ways = " or ".join(f"{tower}.{name}" for tower, _ in takers)
            raise ValueError(f"{name} is a field of several towers: say {ways}")
        return takers


@dataclass(frozen=True)
class ContrastiveOutput:
    """What the towers answer. Features [B, width] of length 1, None where there was no input; logit_scale is
    exponentiated already; logit_bias None where the loss has none."""

    image_features: Tensor | None
    text_features: Tensor | None
    audio_features: Tensor | None
    logit_scale: Tensor
    logit_bias: Tensor | None

    def features(self, modality: str) -> Tensor:
        """[B, width] of one modality. Raises ValueError where there are none."""
        if modality not in MODALITIES:
            raise ValueError(f"no modality {modality!r}{did_you_mean(modality, MODALITIES)}")
        if (found := getattr(self, f"{modality}_features")) is None:
            raise ValueError(f"the batch held no {modality} input: there are features of {', '.join(self.present)}")
        return found

    @property
    def present(self) -> tuple[str, ...]:
        """The modalities that there are features of."""
        return tuple(name for name in MODALITIES if getattr(self, f"{name}_features") is not None)

    def pairs(self) -> list[tuple[str, str]]:
        """Every two modalities present: [("image", "text"), ...]."""
        return [(a, b) for i, a in enumerate(self.present) for b in self.present[i + 1 :]]

    def logits(self, of: str, to: str) -> Tensor:
        """How well each of one modality goes with each of the other, [B, B']: scaled, with the bias if there is one."""
        scores = self.logit_scale * self.features(of) @ self.features(to).mT
        return scores if self.logit_bias is None else scores + self.logit_bias


_pytree.register_dataclass(ContrastiveOutput)  # sharding and compiling look for tensors in what a model returns


class Contrastive(Model):
    """forward(pixel_values, input_ids, attention_mask, input_values, audio_attention_mask) -> ContrastiveOutput, of
    those modalities that inputs were given for; encode_image, encode_text and encode_audio give one."""

    def __init__(self, config: ContrastiveConfig, towers: Mapping[str, Model] | None = None) -> None:
        """towers: ready-made ones, of the configs that `config` names."""
        super().__init__(config)
        self.locked: dict[str, int] = {}
        for name in MODALITIES:
            tower = proj = None
            if (told := config.towers.get(name)) is not None:
                tower = (towers or {}).get(name) or build_tower(name, told)
                proj = project(name, told.proj, tower.num_features, config.width)
            setattr(self, name, tower)
            setattr(self, f"{name}_proj", proj)
        self.logit_scale = nn.Parameter(torch.empty(()))
        self.logit_bias = nn.Parameter(torch.empty(())) if config.loss == "siglip" else None
        taken = [INPUTS[m][n] for m in self.modalities for n in self.tower(m).inputs if n in INPUTS[m]]
        setattr(self, "inputs", tuple(taken))  # noqa: B010 (of the class elsewhere, of the object here)

    def initialise(self, draw: Draw) -> None:
        """The published starts: a temperature of 0.07 (CLIP), and of 0.1 with a bias of -10 (SigLIP)."""
        siglip = self.logit_bias is not None
        nn.init.constant_(self.logit_scale, math.log(10) if siglip else math.log(1 / 0.07))
        if self.logit_bias is not None:
            nn.init.constant_(self.logit_bias, -10.0)

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.config.towers)

    def tower(self, modality: str) -> Model:
        """The tower of a modality; one that is not there raises ValueError."""
        found = getattr(self, modality, None) if modality in MODALITIES else None
        if found is None:
            raise ValueError(f"the model has no {modality} tower; it has {', '.join(self.modalities)}")
        return found

    def default_preprocess(self) -> Any:
        """What the towers are given their inputs by, as far as they know without files."""
        from ..pairing import PairPreprocess

        parts = {name: self.tower(name).preprocess or self.tower(name).default_preprocess() for name in self.modalities}
        return PairPreprocess(**parts) if any(parts.values()) else None

    # --- features -------------------------------------------------------------------------------------------------

    def encode_image(self, pixel_values: Tensor | Sequence[Tensor], normalize: bool = True) -> Tensor:
        """Pictures [B, C, H, W], or a list of [C, H, W] of several sizes (see ViT; preprocess.image.whole makes one),
        -> [B, width], of length 1 unless normalize=False."""
        return self.features("image", normalize, pixel_values=pixel_values)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor | None = None, normalize: bool = True) -> Tensor:
        """Token ids [B, N] -> [B, width], of length 1 unless normalize=False."""
        return self.features("text", normalize, input_ids=input_ids, attention_mask=attention_mask)

    def encode_audio(
        self, input_values: Tensor, audio_attention_mask: Tensor | None = None, normalize: bool = True
    ) -> Tensor:
        """Spectrograms [B, T, F] or waveforms [B, S] -> [B, width], of length 1 unless normalize=False."""
        return self.features("audio", normalize, input_values=input_values, attention_mask=audio_attention_mask)

    def features(self, modality: str, normalize: bool, **batch: Tensor | Sequence[Tensor] | None) -> Tensor:
        """[B, width] of one modality, from its tower's own inputs."""
        tower, proj = self.tower(modality), getattr(self, f"{modality}_proj")
        given = {name: value for name, value in batch.items() if value is not None}
        for name, value in given.items():
            if not isinstance(one := value[0] if isinstance(value, list) and value else value, Tensor | list):
                words = {"image": "images"}.get(modality, modality)
                raise ValueError(f"{name} is a {type(one).__name__}, expected a tensor: model.preprocess({words}=...)")
        if odd := [name for name in given if name not in tower.inputs]:
            raise ValueError(f"the {modality} tower ({tower.family}) takes {', '.join(tower.inputs)}, and no {odd[0]}")
        x = tower(**given)
        x = x if proj is None else proj(x)
        return F.normalize(x, dim=-1) if normalize else x

    def encode(self, **batch: Any) -> dict[str, Any]:
        """What `forward` takes -> {modality: hidden states [B, N, D] of its tower}; with `layers=` as towers answer."""
        layers = {"layers": batch.pop("layers")} if "layers" in batch else {}
        return {name: self.tower(name).encode(**given, **layers) for name, given in self.by_tower(batch).items()}

    def by_tower(self, batch: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """The inputs of each tower that any are for, under its own names."""
        found = {
            m: {own: batch[name] for own, name in INPUTS[m].items() if batch.get(name) is not None}
            for m in self.modalities
        }
        return {m: given for m, given in found.items() if given}

    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        input_values: Tensor | None = None,
        audio_attention_mask: Tensor | None = None,
    ) -> ContrastiveOutput:
        given = {
            "pixel_values": pixel_values,
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "input_values": input_values,
            "audio_attention_mask": audio_attention_mask,
        }
        found = {m: self.features(m, True, **batch) for m, batch in self.by_tower(given).items()}
        if not found:
            raise ValueError(f"nothing to encode: expected some of {', '.join(self.inputs)}")
        image, text, audio = (found.get(m) for m in MODALITIES)
        return ContrastiveOutput(image, text, audio, self.logit_scale.exp(), self.logit_bias)

    def loss(self, output: ContrastiveOutput, **options: Any) -> Tensor:
        """The loss that the config names, a scalar: the mean over the pairs of modalities that the batch has.

        options: what `zoo.losses` takes: chunk, group, positives.
        """
        from ..losses import clip_loss, siglip_loss

        if not (pairs := output.pairs()):
            raise ValueError(f"a batch of {', '.join(output.present)} alone: a loss needs two modalities")
        total = output.logit_scale.new_zeros(())
        for a, b in pairs:
            one, other = output.features(a), output.features(b)
            if output.logit_bias is None:
                total = total + clip_loss(one, other, output.logit_scale, **options)
            else:
                total = total + siglip_loss(one, other, output.logit_scale, output.logit_bias, **options)
        return total / len(pairs)

    # --- locking --------------------------------------------------------------------------------------------------

    def lock(self, modality: str, unlocked: int = 0) -> None:
        """Keep a tower as it is while the others learn: no gradients, evaluation mode (LiT).

        unlocked: how many groups, from the output on, learn all the same: each block is one (the last with the final
        norm and the head), the front end is the first. The projection always learns.
        """
        tower: Any = self.tower(modality)
        blocks = list(tower.blocks)
        if not 0 <= unlocked <= len(blocks) + 1:
            raise ValueError(f"unlocked={unlocked}: the {modality} tower has {len(blocks) + 1} groups")
        self.locked[modality] = unlocked
        tower.requires_grad_(False)
        for module in self.unlocked_parts(modality):
            module.requires_grad_(True)
        self.train(self.training)

    def unlocked_parts(self, modality: str) -> list[nn.Module]:
        """The modules of a locked tower that learn."""
        tower: Any = self.tower(modality)
        blocks, count = list(tower.blocks), self.locked[modality]
        if count > len(blocks):
            return [tower]
        ends = [tower.blocks.norm, tower.head] if count else []
        return [part for part in [*blocks[len(blocks) - count :], *ends] if part is not None]

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for modality in self.locked:
            self.tower(modality).train(False)
            for module in self.unlocked_parts(modality):
                module.train(mode)
        return self

    def make_head(self) -> None:
        return None

    def reset_head(self, num_classes: int, seed: int = 0) -> None:
        raise ValueError(CLASSES)


def build_tower(modality: str, tower: Tower) -> Model:
    from ..registry import family

    found = family(tower.family)
    if found.modality != KIND[modality]:
        raise ValueError(f"the {modality} tower is of family {tower.family!r}, which takes {found.modality}")
    return found.model(tower.config)


def project(modality: str, how: str | None, features: int, width: int) -> nn.Linear | None:
    """The map from a tower's features into the common space."""
    if how is None:
        if features != width:
            raise ValueError(
                f"the {modality} tower gives {features} features and has no projection, the common space has "
                f"width={width}: give it proj='linear', or width={features}"
            )
        return None
    if how not in ("linear", "affine"):
        raise ValueError(f"proj={how!r} of the {modality} tower: expected 'linear', 'affine' or None")
    return nn.Linear(features, width, how == "affine")


TINY = {
    "image": Tower(family="vit", config=ViTConfig(**VIT["vit_cifar_tiny"] | {"num_classes": 0, "head": "pool"})),
    "text": Tower(family="bert", config=BertConfig(**BERT["bert_tiny"], head="pool", pool="mean", pooler=None)),
}

FAMILY = Family("contrast", Contrastive, ContrastiveConfig, "multimodal", {"contrast_tiny": TINY})
