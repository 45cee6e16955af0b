"""T5 (Raffel et al. 2020), T5 v1.1 and mT5 (Xue et al. 2021), FLAN-T5 (Chung et al. 2022): encoder-decoders with
relative positions."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from zoo.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig, Side
from zoo.models.family import Family
from zoo.models.t5.mapping import MT5_MAPPING, T5_MAPPING
from zoo.nn.context import Context
from zoo.nn.frontends.text import TextEmbedding, WordEmbedding
from zoo.nn.heads import LMHead
from zoo.nn.masks import CAUSAL
from zoo.nn.position_biases import T5RelativeBias
from zoo.nn.stack import Stack


@dataclass(frozen=True, kw_only=True)
class T5Config(EncoderDecoderConfig):
    """Config of T5; see EncoderDecoderConfig. decoder_depth=0 with head=None: the encoder alone.

    max_length: the longest texts that the model was trained on; it reads longer ones, whose tokens further apart than
    relative_attention_max_distance are as far apart as that. relative_attention_num_buckets: rows of the tables of
    biases. scale_decoder_outputs: the inputs of the head are multiplied by width ** -0.5 (T5, whose head has the word
    embeddings).
    """

    vocab_size: int = 32128
    max_length: int = 512
    width: int = 512
    depth: int = 6
    heads: int = 8
    head_dim: int | None = 64
    mlp_dim: int | None = 2048
    act: str = "relu"
    gated_mlp: bool = False
    norm_eps: float = 1e-6
    dropout: float = 0.1
    attention_dropout: float = 0.1
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    scale_decoder_outputs: bool = True
    pad_token_id: int | None = 0
    eos_token_id: int | tuple[int, ...] | None = 1
    decoder_start_token_id: int | None = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        buckets, distance = self.relative_attention_num_buckets, self.relative_attention_max_distance
        # half for each direction in the encoder, and half of these for one distance each
        if buckets < 4 or buckets % 4:
            raise ValueError(f"relative_attention_num_buckets={buckets}: expected a multiple of 4")
        if distance <= buckets // 2:
            raise ValueError(
                f"relative_attention_max_distance={distance}: expected more than {buckets // 2}, half of "
                f"relative_attention_num_buckets={buckets}"
            )


class T5Side(Side):
    """A side of T5. relative_attention_bias: of all its layers, a value for each bucket of distances and each head."""

    def __init__(self, tokens: nn.Module, blocks: Stack, config: T5Config, heads: int) -> None:
        super().__init__(tokens, blocks)
        self.relative_attention_bias = nn.Embedding(config.relative_attention_num_buckets, heads)
        self.max_distance = config.relative_attention_max_distance

    def bias(self, *, bidirectional: bool) -> T5RelativeBias:
        return T5RelativeBias(self.relative_attention_bias.weight, bidirectional, self.max_distance)


class T5(EncoderDecoder):
    """T5; see EncoderDecoder. No layer has biases, and q . k is not scaled."""

    overflows_in_float16 = True
    encoder: T5Side
    decoder: T5Side | None

    def make_side(self, name: str) -> Side:
        c = self.config
        tokens = TextEmbedding(c.vocab_size, c.width, dropout=c.dropout)
        # as in T5's code; with less a tied head, whose inputs are scaled down, learns slowly
        tokens.word = WordEmbedding(c.vocab_size, c.width, std=1.0)
        blocks = self.make_blocks(name, norm="rms", bias=False, scale=1.0)
        return T5Side(tokens, blocks, c, c.side(name)["heads"])

    def encoder_context(self, positions: Tensor) -> Context:
        return Context(bias=self.encoder.bias(bidirectional=True))

    def decoder_context(self, positions: Tensor) -> Context:
        assert self.decoder is not None
        return Context(mask=CAUSAL, bias=self.decoder.bias(bidirectional=False))

    def make_head(self) -> nn.Module | None:
        c = self.config
        if c.head is None:
            return None
        tied = self.tokens.word if c.tie_word_embeddings else None
        return LMHead(c.width, c.vocab_size, tied, scale=c.width**-0.5 if c.scale_decoder_outputs else 1.0)


BASE: dict[str, Any] = dict(width=768, depth=12, heads=12, mlp_dim=3072)
LARGE: dict[str, Any] = dict(width=1024, depth=24, heads=16, mlp_dim=4096)
GATED: dict[str, Any] = dict(
    gated_mlp=True, act="gelu_tanh", tie_word_embeddings=False, scale_decoder_outputs=False
)  # fmt: skip
GATED_SIZES: dict[str, dict[str, Any]] = {
    "small": GATED | dict(depth=8, heads=6, mlp_dim=1024),
    "base": GATED | BASE | dict(mlp_dim=2048),
    "large": GATED | LARGE | dict(mlp_dim=2816),
    "xl": GATED | dict(width=2048, depth=24, heads=32, mlp_dim=5120),
    "xxl": GATED | dict(width=4096, depth=24, heads=64, mlp_dim=10240),
}
MULTILINGUAL: dict[str, Any] = dict(vocab_size=250112, max_length=1024)

VARIANTS: dict[str, dict[str, Any]] = {
    "t5_nano": dict(vocab_size=256, max_length=128, width=128, depth=2, heads=4, head_dim=32, mlp_dim=512)
    | dict(dropout=0.0, attention_dropout=0.0),
    "t5_small": {},
    "t5_base": BASE,
    "t5_large": LARGE,
    "t5_3b": LARGE | dict(heads=32, head_dim=128, mlp_dim=16384),
    "t5_11b": LARGE | dict(heads=128, head_dim=128, mlp_dim=65536),
    **{f"t5_v1_1_{size}": GATED_SIZES[size] for size in ("small", "base", "large", "xl")},
    **{f"flan_t5_{size}": GATED_SIZES[size] for size in ("small", "base", "large", "xl", "xxl")},
    **{f"mt5_{size}": GATED_SIZES[size] | MULTILINGUAL for size in ("small", "base")},
}

SOURCES = {
    **{f"t5_{size}": f"hf-hub:google-t5/t5-{size}" for size in ("small", "base", "large", "3b", "11b")},
    **{f"t5_v1_1_{size}": f"hf-hub:google/t5-v1_1-{size}" for size in ("small", "base", "large", "xl")},
    **{f"flan_t5_{size}": f"hf-hub:google/flan-t5-{size}" for size in ("small", "base", "large", "xl", "xxl")},
    **{f"mt5_{size}": f"hf-hub:google/mt5-{size}" for size in ("small", "base")},
}

FAMILY = Family("t5", T5, T5Config, "text", VARIANTS, SOURCES, {"transformers": (T5_MAPPING, MT5_MAPPING)})
