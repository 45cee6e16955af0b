"""Two or more towers that share one space: pictures, texts and sounds that belong together lie close to each other.

CLIP (Radford et al. 2021), SigLIP (Zhai et al. 2023), LiT (Zhai et al. 2022) and what else `zoo.contrast` puts together
of the families here. A tower is a model with head="pool"; behind it stands a projection into the common space.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree

from zoo.models.base import Model
from zoo.models.bert.model import VARIANTS as BERT
from zoo.models.bert.model import BertConfig
from zoo.models.family import Family
from zoo.models.registry import family
from zoo.models.tower_config import CLASSES, INPUTS, KIND, MODALITIES, ContrastiveConfig, Tower
from zoo.models.vit.model import VARIANTS as VIT
from zoo.models.vit.model import ViTConfig
from zoo.nn.init import Initializer
from zoo.nn.losses.contrastive import clip_loss, siglip_loss
from zoo.preprocessing.multimodal import MultimodalProcessor
from zoo.utils.errors import did_you_mean


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

    def initialize(self, draw: Initializer) -> None:
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
        parts = {name: self.tower(name).preprocess or self.tower(name).default_preprocess() for name in self.modalities}
        return MultimodalProcessor(**parts) if any(parts.values()) else None

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

        options: what `zoo.nn.losses` takes: chunk, group, positives.
        """
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
