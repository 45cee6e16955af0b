"""RWKV-4 (Peng et al. 2023): a decoder of time mixing and channel mixing, both recurrent, without attention."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from zoo.models.family import Family
from zoo.models.rwkv.mapping import TRANSFORMERS
from zoo.models.text import DecoderConfig, TextDecoder
from zoo.nn.block import NO_CONTEXT, Block
from zoo.nn.block_config import BlockConfig
from zoo.nn.context import Context
from zoo.nn.frontends.text import TextEmbedding
from zoo.nn.kv_cache import LayerState
from zoo.nn.mixers.base import MixerConfig
from zoo.nn.mixers.rwkv4 import ChannelMixing
from zoo.nn.mlp import activation
from zoo.nn.stack import Stack


@dataclass(frozen=True, kw_only=True)
class RwkvConfig(DecoderConfig):
    """Config of RWKV-4; see DecoderConfig.

    heads * head_dim: channels of the time mixing, which has no heads; `heads` is for other mixers in its place, such as
    mixer=["rwkv4", "attention"], and `attention` for the layers of "attention". mlp_dim: hidden size of the channel
    mixing (None: 4 * width; 0: none). max_length: length of the texts that the model was trained on; there is no limit.
    rescale_every: in evaluation, the hidden states are halved after each so many layers, as transformers does against
    overflow in float16 (0: never). This changes outputs only by the eps of the norms.
    """

    vocab_size: int = 50277
    max_length: int = 1024
    width: int = 768
    depth: int = 12
    heads: int = 1
    act: str = "relu_squared"
    rescale_every: int = 0
    tie_word_embeddings: bool = False
    mixer: Any = "rwkv4"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.act != "relu_squared":
            activation(self.act)  # names a typo
            raise ValueError(f"act={self.act!r}: the channel mixing of RWKV-4 has act='relu_squared' and no other")
        if self.rescale_every < 0:
            raise ValueError(f"rescale_every={self.rescale_every}: expected a number of layers, or 0 for never")


class Halved(nn.Module):
    """In evaluation, a branch of a block whose input has been halved `times`."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def forward(self, y: Tensor) -> Tensor:
        return y if self.training else y * 0.5**self.times


class RwkvBlock(Block):
    """A block whose output is halved in evaluation, if `halves`."""

    def __init__(
        self,
        mixer: nn.Module,
        mlp: nn.Module | None,
        norm: Callable[[], nn.Module],
        *,
        every: int,
        layer: int,
        **options: Any,
    ) -> None:
        super().__init__(mixer, mlp, norm, **options)
        self.halves = every > 0 and (layer + 1) % every == 0
        if every > 0 and layer >= every:
            self.scale1, self.scale2 = Halved(layer // every), Halved(layer // every)

    def forward(self, x: Tensor, context: Context = NO_CONTEXT, state: LayerState | None = None) -> Tensor:
        x = super().forward(x, context, state)
        return x / 2 if self.halves and not self.training else x


class RWKV(TextDecoder):
    """forward(input_ids [B, N], attention_mask) -> logits of the next token [B, N, V]."""

    def __init__(self, config: RwkvConfig) -> None:
        super().__init__(config)
        c, spec = config, BlockConfig.of(config, causal=True)
        self.tokens = TextEmbedding(c.vocab_size, c.width, norm=spec.make_norm(), dropout=c.dropout)
        self.blocks = Stack((self.make_block(spec, layer) for layer in range(c.depth)), spec.make_norm())
        self.head = self.make_head()

    def make_block(self, spec: BlockConfig, layer: int) -> Block:
        """Layer number `layer`, with channel mixing as its MLP."""
        c = self.config
        block = replace(spec, mlp_dim=0).block(layer, c.depth)
        hidden = 4 * c.width if c.mlp_dim is None else c.mlp_dim
        mlp = ChannelMixing(MixerConfig(spec, layer, c.depth), hidden) if hidden else None
        options = dict(width=c.width, dropout=c.dropout, drop_path=block.drop_path)
        return RwkvBlock(block.mixer, mlp, spec.make_norm, every=c.rescale_every, layer=layer, **options)


PUBLISHED = dict(rescale_every=6, bos_token_id=0, eos_token_id=0)

VARIANTS: dict[str, dict[str, Any]] = {
    "rwkv_4_169m_pile": PUBLISHED,
    "rwkv_4_430m_pile": PUBLISHED | dict(width=1024, depth=24),
    "rwkv_4_1b5_pile": PUBLISHED | dict(width=2048, depth=24),
    "rwkv_4_3b_pile": PUBLISHED | dict(width=2560, depth=32),
    "rwkv_4_7b_pile": PUBLISHED | dict(width=4096, depth=32),
    "rwkv_4_14b_pile": PUBLISHED | dict(width=5120, depth=40),
    "rwkv_nano": dict(vocab_size=256, max_length=256, width=192, depth=6),
}

SOURCES = {name: f"hf-hub:RWKV/{name.replace('_', '-')}" for name in VARIANTS if name.endswith("_pile")}

FAMILY = Family("rwkv", RWKV, RwkvConfig, "text", VARIANTS, SOURCES, {"transformers": TRANSFORMERS})
