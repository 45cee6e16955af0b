"""Mamba (Gu and Dao 2023): a decoder of selective state spaces, without attention, MLPs and positions."""

from dataclasses import dataclass
from typing import Any, ClassVar

from zoo.models.family import Family
from zoo.models.mamba.mapping import TRANSFORMERS
from zoo.models.text import DecoderConfig, TextDecoder
from zoo.nn.block_config import BlockConfig
from zoo.nn.frontends.text import TextEmbedding


@dataclass(frozen=True, kw_only=True)
class StateSpaceConfig(DecoderConfig):
    """Base config of Mamba and Mamba-2.

    state, conv, expand, bias, conv_bias: options of the mixer, see `zoo.nn.mixers`. mixer: None for the mixer of the
    family in all layers; a list such as ["mamba", "attention"] makes a hybrid. kv_heads, head_dim, attention: of such
    attention layers. mlp_dim: None for blocks without an MLP. max_length: the longest texts that the model was trained
    on; it reads longer ones. See DecoderConfig for the other fields.
    """

    own_mixer: ClassVar[str]

    vocab_size: int = 50280
    max_length: int = 2048
    width: int = 768
    depth: int = 24
    act: str = "silu"
    conv: int = 4
    expand: float = 2
    bias: bool = False
    conv_bias: bool = True

    def mixer_options(self) -> dict[str, Any]:
        """The options of the family's mixer."""
        raise NotImplementedError

    def mixers(self) -> Any:
        """`mixer`, in which the family's mixer has its options."""
        own = {"kind": self.own_mixer} | self.mixer_options()
        if isinstance(self.mixer, tuple):
            return tuple(own if kind == self.own_mixer else kind for kind in self.mixer)
        return own if self.mixer in (None, self.own_mixer) else self.mixer


@dataclass(frozen=True, kw_only=True)
class MambaConfig(StateSpaceConfig):
    """dt_rank: rank of the time steps (None: width / 16). heads: of attention layers. See StateSpaceConfig."""

    own_mixer = "mamba"

    heads: int = 1
    state: int = 16
    dt_rank: int | None = None

    def mixer_options(self) -> dict[str, Any]:
        names = ("state", "conv", "expand", "dt_rank", "bias", "conv_bias", "act")
        return {name: getattr(self, name) for name in names}


class StateSpaceModel(TextDecoder):
    """forward(input_ids [B, N], attention_mask) -> logits of the next token [B, N, V]."""

    def __init__(self, config: StateSpaceConfig) -> None:
        super().__init__(config)
        c = config
        self.tokens = TextEmbedding(c.vocab_size, c.width, dropout=c.dropout)
        spec = BlockConfig.of(c, norm="rms", causal=True, mlp_dim=c.mlp_dim or 0, mixer=c.mixers())
        self.blocks = spec.stack(c.depth)
        self.head = self.make_head()


class Mamba(StateSpaceModel):
    """forward(input_ids [B, N], attention_mask) -> logits of the next token [B, N, V]."""


PUBLISHED = dict(bos_token_id=0, eos_token_id=0, pad_token_id=0)  # of the tokenizer of GPT-NeoX

VARIANTS: dict[str, dict[str, Any]] = {
    "mamba_130m": PUBLISHED,
    "mamba_370m": PUBLISHED | dict(width=1024, depth=48),
    "mamba_790m": PUBLISHED | dict(width=1536, depth=48),
    "mamba_1_4b": PUBLISHED | dict(width=2048, depth=48),
    "mamba_2_8b": PUBLISHED | dict(width=2560, depth=64),
    "mamba_nano": dict(vocab_size=256, max_length=256, width=128, depth=4),
}

SOURCES = {
    "mamba_130m": "hf-hub:state-spaces/mamba-130m-hf",
    "mamba_370m": "hf-hub:state-spaces/mamba-370m-hf",
    "mamba_790m": "hf-hub:state-spaces/mamba-790m-hf",
    "mamba_1_4b": "hf-hub:state-spaces/mamba-1.4b-hf",
    "mamba_2_8b": "hf-hub:state-spaces/mamba-2.8b-hf",
}

FAMILY = Family("mamba", Mamba, MambaConfig, "text", VARIANTS, SOURCES, {"transformers": TRANSFORMERS})
