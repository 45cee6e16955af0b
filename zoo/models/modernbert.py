"""ModernBERT (Warner et al. 2024): rotary positions, a gated MLP, no biases, and windows in two of three layers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from ..errors import LoadError
from ..formats.dialect import Dialect
from ..frontends.tokens import Tokens
from ..heads import MaskedToken, PerToken, PoolTokens
from ..nn.context import Context
from ..nn.positions import rotary
from ..nn.spec import BlockSpec
from .base import Family
from .text import HEADS, TextConfig, TextModel


@dataclass(frozen=True, kw_only=True)
class ModernBertConfig(TextConfig):
    """See TextConfig. attention None, as published: every `global_every`-th layer sees all, the others the tokens
    within window / 2; any other kind is that of all layers. rope, local_rope: the bases of rotary positions in the
    one and the other, also where their attention is another. pooler: activation of the map behind pooling. unit:
    pooled features have length 1. tied: the word table is also the last map. pad_id: whose tokens pad."""

    head: str | None = "masked_lm"
    vocab_size: int = 50368
    max_length: int = 8192
    width: int = 768
    depth: int = 22
    heads: int = 12
    hidden: int | None = 1152
    eps: float = 1e-5
    attention: Any = None
    window: int = 128
    global_every: int = 3
    rope: float = 160000.0
    local_rope: float = 10000.0
    pooler: Literal["gelu", "silu", "tanh", "relu"] = "gelu"
    unit: bool = False
    tied: bool = True
    pad_id: int | None = 50283

    def __post_init__(self) -> None:
        super().__post_init__()
        self.allow_heads("masked_lm", *HEADS)
        if self.window < 2 or self.global_every < 1:
            raise ValueError(f"window={self.window}, global_every={self.global_every}: at least 2 and 1")

    def is_local(self, layer: int) -> bool:
        return layer % self.global_every > 0


class ModernBert(TextModel):
    """forward(input_ids [B, N], attention_mask) -> what the head answers; see TextModel."""

    def __init__(self, config: ModernBertConfig) -> None:
        super().__init__(config)
        c = config
        local = {"kind": "local", "window": c.window}
        published = tuple(local if c.is_local(layer) else "softmax" for layer in range(c.depth))
        spec = BlockSpec.of(
            c,
            gated=True,
            norm="layer_unbiased",
            bias=False,
            attention=published if c.attention is None else c.attention,
        )
        self.make_norm = spec.make_norm
        self.tokens = Tokens(c.vocab_size, c.width, norm=spec.make_norm(), dropout=c.dropout)
        self.blocks = spec.stack(c.depth)
        self.blocks[0].norm1 = nn.Identity()  # what the tokens' own norm did already
        self.head = self.make_head()

    def make_head(self) -> nn.Module | None:
        c = self.config
        dense: dict[str, Any] = dict(dense=c.pooler, norm=self.make_norm(), dense_bias=False)
        if c.head == "masked_lm":
            word = self.tokens.word if c.tied else None
            return MaskedToken(c.width, c.vocab_size, self.make_norm(), act=c.pooler, tied=word, dense_bias=False)
        if c.head in ("token", "qa"):
            return PerToken(c.width, c.num_classes if c.head == "token" else 2, c.dropout, **dense)
        if c.head == "pool":
            return PoolTokens(c.pool, c.width, unit=c.unit)
        return self.common_head(**dense)

    def context(self, positions: Tensor) -> Context:
        c = self.config
        width = c.head_dim or c.width // c.heads
        whole, near = (rotary(positions, width, base) for base in (c.rope, c.local_rope))
        return Context(rotary=tuple(near if c.is_local(layer) else whole for layer in range(c.depth)))


VARIANTS: dict[str, dict[str, Any]] = {
    "modernbert_tiny": dict(width=192, depth=6, heads=3, hidden=288),
    "modernbert_small": dict(width=384, depth=12, heads=6, hidden=576),
    "modernbert_base": {},
    "modernbert_large": dict(width=1024, depth=28, heads=16, hidden=2624),
}

SOURCES = {
    "modernbert_base": "hf-hub:answerdotai/ModernBERT-base",
    "modernbert_large": "hf-hub:answerdotai/ModernBERT-large",
}

# --- transformers -----------------------------------------------------------------------------------------------------

KEYS = """
    vocab_size        = vocab_size
    max_length        = max_position_embeddings
    width             = hidden_size
    depth             = num_hidden_layers
    heads             = num_attention_heads
    hidden            = intermediate_size
    act               = hidden_activation      gelu_new=gelu_tanh gelu_pytorch_tanh=gelu_tanh swish=silu
    eps               = norm_eps
    attention_dropout = attention_dropout
    window            = local_attention
    pool              = classifier_pooling
    pooler            = classifier_activation  swish=silu
    tied              = tie_word_embeddings
    pad_id            = pad_token_id
"""

TABLE = """
    tokens.word.weight          = ~embeddings.tok_embeddings.weight
    tokens.norm.weight          = ~embeddings.norm.weight
    blocks.*.norm1.weight       = ~layers.*.attn_norm.weight
    blocks.*.mixer.{q,k,v}.@    = ~layers.*.attn.Wqkv.@
    blocks.*.mixer.out.@        = ~layers.*.attn.Wo.@
    blocks.*.norm2.weight       = ~layers.*.mlp_norm.weight
    blocks.*.mlp.{gate,up}.@    = ~layers.*.mlp.Wi.@
    blocks.*.mlp.down.@         = ~layers.*.mlp.Wo.@
    blocks.norm.weight          = ~final_norm.weight
    head.dense.weight           = head.dense.weight
    head.norm.weight            = head.norm.weight
    -                           = decoder.weight
"""

HEAD_TABLES: dict[str | None, str] = {
    "masked_lm": "head.proj.weight = decoder.weight \n head.proj.bias = decoder.bias",
    "classify": "head.proj.@ = classifier.@",
    "token": "head.proj.@ = classifier.@",
    "qa": "head.proj.@ = classifier.@",
}

ROPE = {"full_attention": ("rope", "global_rope_theta"), "sliding_attention": ("local_rope", "local_rope_theta")}


def read(fields: dict[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Which layers are local, and their rotary bases, in the older and the newer way of saying it."""
    ours: dict[str, Any] = {"global_every": theirs.get("global_attn_every_n_layers", 3)}
    if types := theirs.get("layer_types"):
        whole = [layer for layer, kind in enumerate(types) if kind == "full_attention"]
        ours["global_every"] = whole[1] if len(whole) > 1 else max(len(types), 1)
        if whole != list(range(0, len(types), ours["global_every"])):
            raise LoadError(
                f"modernbert: layer_types={types} is not supported, only every n-th layer of full attention"
            )
    for kind, (field, older) in ROPE.items():
        said = (theirs.get("rope_parameters") or {}).get(kind) or {}
        if said.get("rope_type", "default") != "default":
            raise LoadError(f"modernbert: rope_type={said['rope_type']!r} is not supported, only 'default'")
        ours[field] = float(said.get("rope_theta", theirs.get(older, fields[field])))
    if theirs.get("mlp_dropout") or theirs.get("embedding_dropout"):
        ours["dropout"] = max(theirs.get("mlp_dropout", 0.0), theirs.get("embedding_dropout", 0.0))
    return ours


def write(config: Any) -> dict[str, Any]:
    kinds = ["sliding_attention" if config.is_local(i) else "full_attention" for i in range(config.depth)]
    bases = {kind: {"rope_type": "default", "rope_theta": getattr(config, field)} for kind, (field, _) in ROPE.items()}
    return {
        "layer_types": kinds,
        "rope_parameters": bases,
        "mlp_dropout": config.dropout,
        "embedding_dropout": config.dropout,
        "classifier_dropout": config.dropout,
    }


def shortest(config: Any) -> Any:
    """The layers that are there do not tell how many apart the next global one would be."""
    return config.replace(global_every=min(config.global_every, config.depth))


MODERNBERT = Dialect(
    name="modernbert",
    base="model.",
    keys=KEYS,
    table=TABLE,
    head_tables=HEAD_TABLES,
    embeds={},
    only={
        "attention_bias": (False,),
        "mlp_bias": (False,),
        "norm_bias": (False,),
        "decoder_bias": (True,),
        "classifier_bias": (False,),
    },
    heads={
        "ModernBertModel": {"head": None},
        "ModernBertForMaskedLM": {"head": "masked_lm"},
        "ModernBertForSequenceClassification": {"head": "classify"},
        "ModernBertForTokenClassification": {"head": "token"},
        "ModernBertForQuestionAnswering": {"head": "qa"},
    },
    read=read,
    write=write,
    rewrite=shortest,
)

FAMILY = Family("modernbert", ModernBert, ModernBertConfig, "text", VARIANTS, SOURCES, {"transformers": MODERNBERT})
