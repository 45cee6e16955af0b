"""GPT-2 (Radford et al. 2019): learned positions, a pre-norm causal stack, the word table as the last map."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..formats.dialect import Dialect
from ..frontends.tokens import Tokens
from ..heads import NextToken
from ..nn.context import Context
from ..nn.masks import CAUSAL
from ..nn.spec import BlockSpec
from .base import Family
from .text import DecoderConfig, TextModel


@dataclass(frozen=True, kw_only=True)
class GPT2Config(DecoderConfig):
    """See DecoderConfig."""

    vocab_size: int = 50257
    max_length: int = 1024
    width: int = 768
    depth: int = 12
    heads: int = 12
    act: str = "gelu_tanh"
    dropout: float = 0.1
    attention_dropout: float = 0.1


class GPT2(TextModel):
    """forward(input_ids [B, N], attention_mask) -> scores of the next token [B, N, V]."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        c = config
        self.tokens = Tokens(c.vocab_size, c.width, max_length=c.max_length, dropout=c.dropout)
        spec = BlockSpec.of(c, causal=True)
        self.blocks = spec.stack(c.depth)
        self.head = self.make_head()

    def make_head(self) -> nn.Module | None:
        c = self.config
        if c.head == "lm":
            return NextToken(c.width, c.vocab_size, self.tokens.word if c.tied else None)
        return self.common_head(bias=c.head != "classify")

    def context(self, positions: Tensor) -> Context:
        return Context(mask=CAUSAL)


PUBLISHED = dict(bos_token_id=50256, eos_token_id=50256)

VARIANTS: dict[str, dict[str, Any]] = {
    "gpt2": PUBLISHED,
    "gpt2_medium": PUBLISHED | dict(width=1024, depth=24, heads=16),
    "gpt2_large": PUBLISHED | dict(width=1280, depth=36, heads=20),
    "gpt2_xl": PUBLISHED | dict(width=1600, depth=48, heads=25),
    "gpt_nano": dict(vocab_size=256, max_length=128, width=192, depth=6, heads=6, dropout=0.0, attention_dropout=0.0),
}

SOURCES = {
    "gpt2": "hf-hub:openai-community/gpt2",
    "gpt2_medium": "hf-hub:openai-community/gpt2-medium",
    "gpt2_large": "hf-hub:openai-community/gpt2-large",
    "gpt2_xl": "hf-hub:openai-community/gpt2-xl",
}

KEYS = """
    vocab_size        = vocab_size
    max_length        = n_positions
    width             = n_embd
    depth             = n_layer
    heads             = n_head
    hidden            = n_inner
    act               = activation_function      gelu_new=gelu_tanh gelu_pytorch_tanh=gelu_tanh swish=silu
    eps               = layer_norm_epsilon
    dropout           = resid_pdrop
    attention_dropout = attn_pdrop
    tied              = tie_word_embeddings
    bos_token_id      = bos_token_id
    eos_token_id      = eos_token_id
    pad_token_id      = pad_token_id
"""

# Published files hold the causal mask of each layer, and some the last map beside the word table it is tied to.
TABLE = """
    tokens.word.weight          = ~wte.weight
    tokens.positions            = ~wpe.weight
    blocks.*.norm1.@            = ~h.*.ln_1.@
    blocks.*.mixer.{q,k,v}.@    = ~h.*.attn.c_attn.@             T
    blocks.*.mixer.out.@        = ~h.*.attn.c_proj.@             T
    blocks.*.norm2.@            = ~h.*.ln_2.@
    blocks.*.mlp.up.@           = ~h.*.mlp.c_fc.@                T
    blocks.*.mlp.down.@         = ~h.*.mlp.c_proj.@              T
    blocks.norm.@               = ~ln_f.@
    -                           = ~h.*.attn.bias
    -                           = ~h.*.attn.masked_bias
    -                           = lm_head.weight
"""

TRANSFORMERS = Dialect(
    name="gpt2",
    base="transformer.",
    keys=KEYS,
    table=TABLE,
    head_tables={
        "lm": "head.proj.weight = lm_head.weight",
        "classify": "head.proj.weight = score.weight",
        "token": "head.proj.@ = classifier.@",
        "qa": "head.proj.@ = qa_outputs.@",
    },
    defaults={"bos_token_id": 50256, "eos_token_id": 50256},
    heads={
        "GPT2LMHeadModel": {"head": "lm"},
        "GPT2Model": {"head": None},
        "GPT2ForSequenceClassification": {"head": "classify", "pool": "last"},
        "GPT2ForTokenClassification": {"head": "token"},
        "GPT2ForQuestionAnswering": {"head": "qa"},
    },
    only={
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
    },
    write=lambda config: {"embd_pdrop": config.dropout},
)

FAMILY = Family("gpt2", GPT2, GPT2Config, "text", VARIANTS, SOURCES, {"transformers": TRANSFORMERS})
