"""Contrastive models: towers for images, texts and audio with a shared embedding space.

CLIP (Radford et al. 2021), SigLIP (Zhai et al. 2023), LiT (Zhai et al. 2022), and other combinations of families, made
by `zoo.contrast`. A tower is a model with head="pool", followed by a projection into the shared space.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree

from zoo.models.base import Model
from zoo.models.bert.model import VARIANTS as BERT
from zoo.models.bert.model import BertConfig
from zoo.models.family import Family
from zoo.models.tower_config import NO_CLASSIFIER, TOWERS, ContrastiveConfig, Tower
from zoo.models.towers import TowersModel, build_tower
from zoo.models.tracing import trace_error
from zoo.models.vit.model import VARIANTS as VIT
from zoo.models.vit.model import ViTConfig
from zoo.nn.init import Initializer
from zoo.nn.lengths import AnyLengths
from zoo.nn.losses.contrastive import clip_loss, siglip_loss
from zoo.nn.losses.temperature import initialize_temperature
from zoo.preprocessing.modality import MODALITIES
from zoo.utils.errors import did_you_mean


@dataclass(frozen=True)
class ContrastiveOutput:
    """Output of a contrastive model.

    image_features, text_features, audio_features: [B, width], L2-normalized; None without input of that modality.
    logit_scale: the exponentiated temperature parameter. logit_bias: None for the CLIP loss.
    """

    image_features: Tensor | None
    text_features: Tensor | None
    audio_features: Tensor | None
    logit_scale: Tensor
    logit_bias: Tensor | None

    def features(self, modality: str) -> Tensor:
        """Features [B, width] of one modality. Raises ValueError if there are none."""
        if modality not in TOWERS:
            raise ValueError(f"no modality {modality!r}{did_you_mean(modality, TOWERS)}")
        if (found := getattr(self, f"{modality}_features")) is None:
            raise ValueError(f"the batch has no {modality} input; its features are of {', '.join(self.present)}")
        return found

    @property
    def present(self) -> tuple[str, ...]:
        """The modalities with features."""
        return tuple(name for name in TOWERS if getattr(self, f"{name}_features") is not None)

    def pairs(self) -> list[tuple[str, str]]:
        """All pairs of present modalities: [("image", "text"), ...]."""
        return [(a, b) for i, a in enumerate(self.present) for b in self.present[i + 1 :]]

    def logits(self, of: str, to: str) -> Tensor:
        """Scaled similarities [B, B'] between the items of two modalities, plus the bias if there is one."""
        scores = self.logit_scale * self.features(of) @ self.features(to).mT
        return scores if self.logit_bias is None else scores + self.logit_bias


_pytree.register_dataclass(ContrastiveOutput)  # so that FSDP and torch.compile find the tensors in the output


class Contrastive(TowersModel):
    """forward(pixel_values, input_ids, attention_mask, input_values, audio_attention_mask) -> ContrastiveOutput.

    Modalities without input have no features. encode_image, encode_text and encode_audio return those of one modality.
    lengths, audio_lengths: of the rows of `input_ids` and `input_values`, see `Model.check_lengths`.
    """

    has_loss = True

    def __init__(self, config: ContrastiveConfig, towers: Mapping[str, Model] | None = None) -> None:
        """towers: existing models to use, with the configs in `config`; others are created."""
        super().__init__(config)
        for name in TOWERS:
            tower = proj = None
            if (spec := config.towers.get(name)) is not None:
                tower = (towers or {}).get(name) or build_tower(name, spec)
                proj = projection(name, spec.proj, tower.num_features, config.width)
            setattr(self, name, tower)
            setattr(self, f"{name}_proj", proj)
        self.logit_scale = nn.Parameter(torch.empty(()))
        self.logit_bias = nn.Parameter(torch.empty(())) if config.loss == "siglip" else None
        self.inputs = tuple(name for m in self.modalities for name in self.tower_inputs(m).values())

    def initialize(self, generator_for: Initializer) -> None:
        """The published initial values: a temperature of 0.07 (CLIP), or 0.1 with a bias of -10 (SigLIP)."""
        initialize_temperature(self.logit_scale, self.logit_bias)

    # --- features -------------------------------------------------------------------------------------------------

    def encode_image(self, pixel_values: Tensor | Sequence[Tensor], normalize: bool = True) -> Tensor:
        """Images [B, C, H, W], or a list of [C, H, W] of several sizes (see ViT and preprocess.image.whole) ->
        [B, width], L2-normalized unless normalize=False."""
        return self.features("image", normalize, pixel_values=pixel_values)

    def encode_text(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        normalize: bool = True,
        lengths: AnyLengths | None = None,
    ) -> Tensor:
        """Token ids [B, N] -> [B, width], L2-normalized unless normalize=False."""
        return self.features("text", normalize, input_ids=input_ids, attention_mask=attention_mask, lengths=lengths)

    def encode_audio(
        self,
        input_values: Tensor,
        audio_attention_mask: Tensor | None = None,
        normalize: bool = True,
        audio_lengths: AnyLengths | None = None,
    ) -> Tensor:
        """Spectrograms [B, T, F] or waveforms [B, S] -> [B, width], L2-normalized unless normalize=False."""
        return self.features(
            "audio", normalize, input_values=input_values, attention_mask=audio_attention_mask, lengths=audio_lengths
        )

    def features(self, modality: str, normalize: bool, **batch: Any) -> Tensor:
        """Features [B, width] of one modality, from the inputs of its tower."""
        tower, proj = self.tower(modality), getattr(self, f"{modality}_proj")
        given = {name: value for name, value in batch.items() if value is not None}
        for name, value in given.items():
            first = value[0] if isinstance(value, list) and value else value
            if name != "lengths" and not isinstance(first, Tensor | list):
                call = f"model.preprocess({MODALITIES[modality].argument}=...)"
                raise ValueError(f"{name} is a {type(first).__name__}, expected a tensor: {call}")
        if unknown := [name for name in given if name not in tower.inputs]:
            raise ValueError(
                f"the {modality} tower ({tower.family}) takes {', '.join(tower.inputs)}, but not {unknown[0]}"
            )
        x = tower(**given)
        x = x if proj is None else proj(x)
        return F.normalize(x, dim=-1) if normalize else x

    def encode(self, **batch: Any) -> dict[str, Any]:
        """Inputs of `forward` -> {modality: hidden states [B, N, D] of its tower}; `layers=` as in Model.encode."""
        layers = {"layers": batch.pop("layers")} if "layers" in batch else {}
        return {name: self.tower(name).encode(**given, **layers) for name, given in self.by_tower(batch).items()}

    def by_tower(self, batch: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """{modality: inputs of its tower, under the names of the tower}, of the modalities with inputs."""
        found = {
            m: {own: batch[name] for own, name in MODALITIES[m].inputs.items() if batch.get(name) is not None}
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
        lengths: AnyLengths | None = None,
        audio_lengths: AnyLengths | None = None,
        **unknown: Any,
    ) -> ContrastiveOutput:
        given = {
            "pixel_values": pixel_values,
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "input_values": input_values,
            "audio_attention_mask": audio_attention_mask,
            "lengths": lengths,
            "audio_lengths": audio_lengths,
        }
        if type(unknown) is not dict:
            raise trace_error(self)
        given = unknown | {name: value for name, value in given.items() if value is not None}
        if any(name not in self.inputs for name in given):
            given = self.known_inputs(given)
        found = {m: self.features(m, True, **batch) for m, batch in self.by_tower(given).items()}
        if not found:
            raise ValueError(f"nothing to encode: expected some of {', '.join(self.inputs)}")
        image, text, audio = (found.get(m) for m in TOWERS)
        return ContrastiveOutput(image, text, audio, self.logit_scale.exp(), self.logit_bias)

    def loss(self, output: ContrastiveOutput, **options: Any) -> Tensor:
        """The loss of the config, a scalar: the mean over all pairs of present modalities.

        options: of the losses in `zoo.nn.losses`: chunk, group, positives.
        """
        if not (pairs := output.pairs()):
            raise ValueError(f"the batch has only {', '.join(output.present)} inputs: the loss needs two modalities")
        total = output.logit_scale.new_zeros(())
        for name, other_name in pairs:
            one, other = output.features(name), output.features(other_name)
            if output.logit_bias is None:
                total = total + clip_loss(one, other, output.logit_scale, **options)
            else:
                total = total + siglip_loss(one, other, output.logit_scale, output.logit_bias, **options)
        return total / len(pairs)

    def make_head(self) -> None:
        return None

    def reset_head(self, num_classes: int, seed: int = 0) -> None:
        raise ValueError(NO_CLASSIFIER)


def projection(modality: str, kind: str | None, features: int, width: int) -> nn.Linear | None:
    """The projection of a tower's features into the shared space."""
    if kind is None:
        if features != width:
            raise ValueError(
                f"the {modality} tower has {features} features and no projection, but the shared space has "
                f"width={width}: set proj='linear' or width={features}"
            )
        return None
    if kind not in ("linear", "affine"):
        raise ValueError(f"proj={kind!r} of the {modality} tower: expected 'linear', 'affine' or None")
    return nn.Linear(features, width, kind == "affine")


TINY = {
    "image": Tower(family="vit", config=ViTConfig(**VIT["vit_cifar_tiny"] | {"num_classes": 0, "head": "pool"})),
    "text": Tower(family="bert", config=BertConfig(**BERT["bert_tiny"], head="pool", pool="mean", pooler=None)),
}

FAMILY = Family("contrast", Contrastive, ContrastiveConfig, "multimodal", {"contrast_tiny": TINY})
