"""Gated cross-attention between the blocks of any text decoder (Flamingo, Alayrac et al. 2022)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from zoo.models.bridge.features import real_features
from zoo.models.encoder_decoder import check_cross_attention, padding_mask
from zoo.models.text import CrossInputs, last_real
from zoo.nn.block_config import BlockConfig
from zoo.nn.gated_cross import GatedCrossAttention, TanhGate, images_seen
from zoo.nn.kv_cache import EncoderDecoderState, StackState, check_state
from zoo.nn.masks import TensorMask
from zoo.nn.mlp import MLP
from zoo.nn.padding import real_tokens
from zoo.nn.recurrent_core import RecurrentCore
from zoo.preprocessing.modality import MODALITIES


@dataclass(frozen=True)
class CrossFeatures:
    """Features of images.

    values: [K, T, W] of K images in the order of their tokens in the ids, or [B, I, T, W] of I images of each row, of
    which a row may have fewer. keep [K, T]: True at real ones, None for all. seen [B, N, I]: which images each token
    sees; None: as `sees` of the config says.
    """

    values: Tensor
    keep: Tensor | None = None
    seen: Tensor | None = None

    def __len__(self) -> int:
        return len(self.values.flatten(0, -3))


class GatedCrossBlocks(nn.Module):
    """Gated cross-attention for a text tower: `blocks.i` runs before its block i * interval.

    The blocks have the norms and the form of the MLP of the text tower.
    """

    def __init__(self, config: Any, text: Any, memory_width: int) -> None:
        super().__init__()
        self.interval, self.memory_width = config.cross_interval, memory_width
        spec = spec_like(text, config)
        depth = -(-len(text.blocks) // self.interval)
        self.blocks = nn.ModuleList(self.make_block(config, spec, layer, depth) for layer in range(depth))

    def make_block(self, c: Any, spec: BlockConfig, layer: int, depth: int) -> GatedCrossAttention:
        cross = spec.attend(layer, depth, c.cross_attention, cross=True, memory_width=self.memory_width)
        check_cross_attention(cross.core)
        if isinstance(cross.core, RecurrentCore):
            raise ValueError(
                f"cross_attention={cross.core.kind!r} sums over all images and cannot hide those from a token that it "
                "does not see: use softmax, additive or another kind with attention weights"
            )
        mlp_dim = 4 * spec.width if spec.mlp_dim is None else spec.mlp_dim
        mlp = MLP(spec.width, mlp_dim, spec.act, spec.gated_mlp, bias=False)
        gate = partial(TanhGate, spec.width if c.gate == "channel" else None, c.gate_value, c.gate_std)
        return GatedCrossAttention(cross, mlp, spec.make_norm, gate, spec.dropout)

    @property
    def before(self) -> dict[int, nn.Module]:
        """{number of a block of the text tower: what runs before it}."""
        return {i * self.interval: block for i, block in enumerate(self.blocks)}


def spec_like(text: Any, config: Any) -> BlockConfig:
    """The configuration of gated blocks for a text tower: its width, heads, norms and MLP, without biases."""
    norm, mlp, own = text.blocks[0].norm1, text.blocks[0].mlp, text.config
    known: dict[str, Any] = {}
    if type(mlp) is MLP:
        known = {"mlp_dim": mlp.up.out_features, "act": mlp.act_name, "gated_mlp": mlp.gate is not None}
    heads = config.cross_heads or getattr(own, "heads", None) or max(1, own.width // 64)
    same = config.cross_heads is None and config.cross_head_dim is None
    return BlockConfig(
        width=own.width,
        heads=heads,
        head_dim=getattr(own, "head_dim", None) if same else config.cross_head_dim,
        norm="layer" if isinstance(norm, nn.LayerNorm) else "rms",
        norm_eps=getattr(norm, "eps", None) or 1e-6,
        bias=False,
        qk_norm=config.cross_qk_norm,
        dropout=getattr(own, "dropout", 0.0),
        attention_dropout=getattr(own, "attention_dropout", 0.0),
        **known,
    )


# --- Features ---------------------------------------------------------------------------------------------------------


def read_images(model: Any, batch: Mapping[str, Any], seen: Tensor | None) -> CrossFeatures:
    """The features of images, from the inputs of the encoder under its own names.

    pixel_values: [K, C, H, W], or [B, I, C, H, W] as transformers' Idefics takes them: then images that no token sees
    are not encoded. seen [B, N, I]: see `CrossFeatures`.
    """
    check_seen(seen)
    pixels = batch.get("pixel_values")
    if not isinstance(pixels, Tensor) or pixels.ndim != 5:
        return CrossFeatures(*connected(model, batch), seen)
    if seen is not None and (seen.shape[0], seen.shape[2]) != pixels.shape[:2]:
        raise ValueError(
            f"image_attention_mask is {tuple(seen.shape)} and pixel_values {tuple(pixels.shape)}: expected [B, N, I] "
            "and [B, I, C, H, W], with as many rows and images"
        )
    images, used = pixels.flatten(0, 1), None
    if seen is not None and not torch.compiler.is_compiling() and not pixels.is_meta:
        used = seen.bool().any(1).flatten()
        images = images[used]
    if not images.shape[0]:  # all of them are padding
        none = pixels.new_zeros(len(pixels), 0, 0, model.gated_cross.memory_width)
        return CrossFeatures(none, None, None if seen is None else seen[..., :0])
    values, _ = connected(model, dict(batch) | {"pixel_values": images})
    if used is not None and len(images) < len(used):
        values = values.new_zeros(len(used), *values.shape[1:]).index_copy(0, used.nonzero()[:, 0], values)
    return CrossFeatures(values.unflatten(0, pixels.shape[:2]), None, seen)


def connected(model: Any, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor | None]:
    """(features [K, T, W] after the resampler, if there is one; which of them are real [K, T], None for all)."""
    x, counts = model.encoder_features(**batch)
    keep = None if counts is None else real_features(x, counts)
    if model.config.resampler_tokens is None:
        return x, keep
    return model.connector(x, keep), None


def check_seen(seen: Tensor | None) -> None:
    """Raise ValueError for an image_attention_mask that is none."""
    if seen is not None and (not isinstance(seen, Tensor) or seen.ndim != 3 or seen.is_floating_point()):
        given = f"{tuple(seen.shape)} of {seen.dtype}" if isinstance(seen, Tensor) else type(seen).__name__
        raise ValueError(f"image_attention_mask: expected [B, N, I], 1 where a token sees an image, given {given}")


def example_without_markers(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The batch of `example_batch`, of which each row has an image that all of its tokens see."""
    ids = batch["input_ids"]
    return {
        "input_ids": ids,
        "pixel_values": batch["pixel_values"][:, None],
        "image_attention_mask": ids.new_ones(*ids.shape, 1),
    }


def place_images(
    features: CrossFeatures, where: Tensor, sees: str, what: str, token: str
) -> tuple[Tensor | None, Tensor]:
    """(memory [B, M, W] of each row, None without images; which of it each token sees [B, N, M]).

    where [B, N]: True at the tokens that mark images. what, token: the names of images and of these in messages.
    Raises ValueError unless there are as many of them as images.
    """
    values, keep, counts = features.values, features.keep, where.sum(1)
    if values.ndim == 3:
        check_count(int(counts.sum()), len(values), what, token)
        rows, most = len(where), int(counts.max())
        places = torch.arange(most, device=values.device) < counts[:, None]
        index = places.flatten().nonzero()[:, 0]
        whole = values.new_zeros(rows * most, *values.shape[1:])
        values = whole.index_copy(0, index, values).unflatten(0, (rows, most))
        if keep is not None:
            keep = keep.new_zeros(rows * most, keep.shape[1]).index_copy(0, index, keep).view(rows, -1)
    elif features.seen is None and (counts > values.shape[1]).any():
        row = int(counts.argmax())
        raise ValueError(
            f"row {row} has {int(counts[row])} tokens {token}, but pixel_values have {values.shape[1]} {what} a row: "
            "expected one token for each, where it stands in the text"
        )
    seen = features.seen
    if seen is None:
        seen = images_seen(where, values.shape[1], sees)  # type: ignore[arg-type]
    elif seen.shape != (*where.shape, values.shape[1]):
        raise ValueError(
            f"image_attention_mask is {tuple(seen.shape)}, expected {(*where.shape, values.shape[1])}: each token of "
            f"the batch, and the greatest number of {what} of a row"
        )
    seen = seen.bool().repeat_interleave(values.shape[2], -1)
    if keep is not None:
        seen = seen & keep[:, None]
    return (values.flatten(1, 2) if values.shape[1] else None), seen


def check_count(places: int, images: int, what: str, token: str) -> None:
    """Raise ValueError unless as many tokens mark images as there are."""
    if places != images:
        raise ValueError(
            f"input_ids have {places or 'no'} tokens {token}, but there are {images or 'no'} {what}: expected one "
            "token for each, where it stands in the text, as model.preprocess writes them"
        )


# --- Reading ----------------------------------------------------------------------------------------------------------


class CrossState(EncoderDecoderState):
    """Cache of a decoder with gated cross-attention. The images are those of the first ids that it reads; later tokens
    see what the last of these sees."""


def new_cross_state(model: Any, layers: StackState, batch: int) -> CrossState:
    """The cache of the text tower, for `batch` rows without images so far."""
    return CrossState(layers, model.tokens.word.weight.new_zeros(batch, 0, model.gated_cross.memory_width), None)


def cross_inputs(
    model: Any, ids: Tensor, keep: Tensor | None, features: CrossFeatures | None
) -> tuple[CrossInputs, Tensor | None]:
    """(what the text tower attends to while it reads ids [B, N]; which of it each token sees [B, N, M]).

    keep [B, N]: 1 for real tokens.
    """
    c, token = model.config, model.config.feature_token_id
    where = torch.zeros_like(ids, dtype=torch.bool) if token is None else ids == token
    where = where if keep is None else where & keep.bool()
    before, names = model.gated_cross.before, (MODALITIES[c.encoder].plural, f"{token} ({c.encoder}_token_id)")
    if features is None:
        check_count(int(where.sum()), 0, *names)
        return CrossInputs(before), None
    if token is None and features.seen is None and len(features):
        raise ValueError(f"the config has no {c.encoder}_token_id: pass image_attention_mask [B, N, I] with the images")
    memory, seen = place_images(features, where, c.sees, *names)
    return CrossInputs(before, memory, None if memory is None else TensorMask(seen[:, None])), seen


def cross_of_state(model: Any, ids: Tensor, keep: Tensor | None, state: StackState) -> CrossInputs:
    """What the text tower attends to while it reads the next ids [B, N]; keep [B, M] covers all tokens so far.

    The first ids have the images of the state's features.
    """
    state = check_state(state, CrossState)
    features: Any = state.features
    state.features = None
    if not state.length:
        given, seen = cross_inputs(model, ids, keep, features)
        if given.memory is not None and seen is not None:
            state.memory, state.memory_mask = given.memory, real_tokens(last_real(seen, keep))
        return given
    if features is not None:
        raise ValueError(
            "a bridge with cross-attention reads its images with the first tokens of a text: put all of them there"
        )
    memory = state.memory if state.memory.shape[1] else None
    return CrossInputs(model.gated_cross.before, memory, padding_mask(state.memory_mask))
