"""BigBird (Zaheer et al. 2020): BERT with attention within blocks of neighbors, global blocks and random blocks."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo.models.bert.model import Bert, BertConfig
from zoo.models.bigbird.attention import BlockSparseAttention
from zoo.models.bigbird.mapping import BIGBIRD
from zoo.models.family import Family
from zoo.models.tracing import trace_error
from zoo.nn.attention import Attention
from zoo.nn.block_config import BlockConfig
from zoo.nn.heads import TextClassificationHead
from zoo.nn.lengths import AnyLengths
from zoo.nn.mlp import MLP


@dataclass(frozen=True, kw_only=True)
class BigBirdConfig(BertConfig):
    """attention: None for the published one, over blocks of `block_size` tokens; "softmax" for full attention
    (transformers' attention_type="original_full"); any other kind replaces it in all layers.

    num_random_blocks: blocks that each block sees at random. random_attention: "always", or "training" as in
    transformers, where evaluation has no random blocks and counts the first block once more for each of them.
    rescale_embeddings: the word embeddings are multiplied by sqrt(width). qkv_bias: whether q, k and v have a bias.
    sep_token_id: the token that ends a question. See BertConfig for the other fields.
    """

    vocab_size: int = 50358
    max_length: int = 4096
    act: str = "gelu_tanh"
    attention: Any = None
    block_size: int = 64
    num_random_blocks: int = 3
    random_attention: Literal["always", "training"] = "always"
    rescale_embeddings: bool = False
    qkv_bias: bool = True
    sep_token_id: int = 66

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.block_size < 1 or self.num_random_blocks < 0:
            raise ValueError(
                f"block_size={self.block_size}, num_random_blocks={self.num_random_blocks}: expected at least 1 and 0"
            )

    @property
    def embedding_scale(self) -> float:
        return self.width**0.5 if self.rescale_embeddings else 1.0


class QuestionAnsweringHead(nn.Module):
    """An MLP with a residual and a norm, and scores of the start and the end of the answer [B, N, 2]."""

    def __init__(self, spec: BlockConfig) -> None:
        super().__init__()
        self.mlp = MLP(spec.width, spec.mlp_dim or 4 * spec.width, spec.act)
        self.norm = spec.make_norm()
        self.dropout = nn.Dropout(spec.dropout)
        self.proj = nn.Linear(spec.width, 2)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        return self.proj(self.norm(x + self.dropout(self.mlp(self.dropout(x)))))


class BigBird(Bert):
    """forward(input_ids [B, N], attention_mask, token_type_ids) -> output of the head; see TextModel.

    A text of at most (5 + 2 * num_random_blocks) * block_size tokens sees all of its tokens, as in transformers; there
    the longest row of a batch decides, here each row by itself, so that padding changes nothing. With head="qa" the
    tokens up to the first separator are the question: they have low scores, but for the first token, and by default
    token type 0, the others 1.
    """

    def __init__(self, config: BigBirdConfig) -> None:
        super().__init__(config if config.attention is not None else config.replace(attention="softmax"))
        self.config = c = config
        if c.attention is None:
            spec, always = BlockConfig.of(c, attention="softmax"), c.random_attention == "always"
            for layer, block in enumerate(self.blocks):
                if isinstance(block.mixer, Attention):
                    core = spec.core_spec(layer, c.depth)
                    block.mixer.core = BlockSparseAttention(
                        core, c.block_size, c.num_random_blocks, c.max_length, always
                    )

    def make_head(self) -> nn.Module | None:
        c = self.config
        if c.head == "classify":
            return TextClassificationHead(c.pool, c.width, c.num_classes, dense=c.act, dropout=c.dropout)
        if c.head == "qa":
            return QuestionAnsweringHead(BlockConfig.of(c, attention="softmax"))
        return super().make_head()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        document_ids: Tensor | None = None,
        lengths: AnyLengths | None = None,
        **unknown: Any,
    ) -> Tensor:
        if type(unknown) is not dict:  # torch.fx
            raise trace_error(self)
        batch: dict[str, Any] = dict(attention_mask=attention_mask, document_ids=document_ids, lengths=lengths)
        if self.config.head != "qa" or input_ids is None:
            return super().forward(input_ids, token_type_ids=token_type_ids, **batch, **unknown)
        question = self.question(input_ids, attention_mask, document_ids)
        types = (~question).long() if token_type_ids is None else token_type_ids
        scores = super().forward(input_ids, token_type_ids=types, **batch, **unknown)
        first = question.long().cumsum(1) == 1
        return scores - 1e6 * (question & ~first)[..., None]

    def question(self, ids: Tensor, keep: Tensor | None, document_ids: Tensor | None) -> Tensor:
        """The real tokens up to the first separator [B, N]; in a row without one, the first token."""
        if document_ids is not None:
            raise ValueError("head='qa' takes one text in a row: omit document_ids=, and give attention_mask=")
        real = torch.ones_like(ids, dtype=torch.bool) if keep is None else keep != 0
        ends = ((ids == self.config.sep_token_id) & real).long()
        before = ends.cumsum(1) - ends == 0
        return real & torch.where(ends.any(1, keepdim=True), before, real.long().cumsum(1) == 1)


VARIANTS: dict[str, dict[str, Any]] = {
    "bigbird_nano": dict(
        vocab_size=256, max_length=512, width=128, depth=2, heads=4, block_size=16, num_random_blocks=1, dropout=0.0,
        attention_dropout=0.0,
    ),
    "bigbird_base": {},
    "bigbird_large": dict(width=1024, depth=24, heads=16),
}  # fmt: skip

SOURCES = {
    "bigbird_base": "hf-hub:google/bigbird-roberta-base",
    "bigbird_large": "hf-hub:google/bigbird-roberta-large",
}

FAMILY = Family("bigbird", BigBird, BigBirdConfig, "text", VARIANTS, SOURCES, {"transformers": BIGBIRD})
