"""NomicBERT (Nussbaum et al. 2024): BERT with rotary positions, a gated MLP and no biases in its blocks."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from zoo.models.bert.model import BertConfig
from zoo.models.family import Family
from zoo.models.nomic_bert.mapping import NOMIC_BERT
from zoo.models.text import TextModel
from zoo.nn.block_config import BlockConfig
from zoo.nn.context import Context
from zoo.nn.frontends.text import TextEmbedding
from zoo.nn.heads import MaskedLMHead, TextPooling
from zoo.nn.rotary import rotary


@dataclass(frozen=True, kw_only=True)
class NomicBertConfig(BertConfig):
    """rope_base: base of the rotary frequencies. See BertConfig for the other fields."""

    vocab_size: int = 30528
    max_length: int = 2048
    act: str = "silu"
    dropout: float = 0.0
    attention_dropout: float = 0.0
    rope_base: float = 1000.0


class NomicBert(TextModel):
    """forward(input_ids [B, N], attention_mask, token_type_ids) -> output of the head; see TextModel."""

    inputs: ClassVar[tuple[str, ...]] = ("input_ids", "attention_mask", "token_type_ids", "document_ids")

    def __init__(self, config: NomicBertConfig) -> None:
        super().__init__(config)
        c = config
        spec = BlockConfig.of(c, order="post", gated_mlp=True, bias=False)
        self.tokens = TextEmbedding(
            c.vocab_size, c.width, types=c.type_vocab_size, norm=spec.make_norm(), dropout=c.dropout
        )
        self.blocks = spec.stack(c.depth)
        self.head = self.make_head()

    def make_head(self) -> nn.Module | None:
        c = self.config
        if c.head == "masked_lm":
            word = self.tokens.word if c.tie_word_embeddings else None
            return MaskedLMHead(c.width, c.vocab_size, nn.LayerNorm(c.width, c.norm_eps), act=c.act, tied=word)
        if c.head == "pool":
            return TextPooling(c.pool, c.width, c.pooler, normalize=c.normalize)
        return self.common_head(dense=c.pooler)

    def context(self, positions: Tensor) -> Context:
        c = self.config
        return Context(rotary=rotary(positions, c.head_dim or c.width // c.heads, c.rope_base))


VARIANTS: dict[str, dict[str, Any]] = {
    "nomic_bert_tiny": dict(width=128, depth=2, heads=2, mlp_dim=256),
    "nomic_bert_base": {},
    "nomic_embed_text": dict(head="pool", pool="mean", pooler=None, normalize=True),
}

FAMILY = Family("nomic_bert", NomicBert, NomicBertConfig, "text", VARIANTS, {}, {"transformers": NOMIC_BERT})
