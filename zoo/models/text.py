"""What encoders and decoders of text share: their inputs, padding, positions and heads."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zoo.models.base import Model
from zoo.models.config import Config, ProblemType
from zoo.nn.context import Context
from zoo.nn.frontends.packed_documents import PackedDocuments
from zoo.nn.frontends.text import TextEmbedding, count_positions
from zoo.nn.heads import TextClassificationHead, TextPooling, TokenClassificationHead, TokenPoolingMode
from zoo.nn.kv_cache import StackState
from zoo.nn.stack import Stack

HEADS = ("classify", "token", "qa", "pool", None)


@dataclass(frozen=True, kw_only=True)
class TextConfig(Config):
    """Fields of every text family. max_length: of the position table, or of the texts that the model was made for.
    problem_type: what a classifier's scores say, `single_label_classification` class, `multi_label_classification`, or a `regression`."""

    vocab_size: int
    max_length: int
    width: int
    depth: int
    heads: int
    kv_heads: int | None = None
    head_dim: int | None = None
    mlp_dim: int | None = None
    act: str = "gelu"
    norm_eps: float = 1e-5
    num_classes: int = 2
    problem_type: ProblemType | None = None
    pool: TokenPoolingMode = "cls"
    dropout: float = 0.0
    attention_dropout: float = 0.0
    drop_path: float = 0.0
    attention: Any = "softmax"
    mixer: Any = None

    def allow_heads(self, *heads: str | None) -> None:
        if self.head not in heads:
            known = ", ".join(map(repr, heads))
            raise ValueError(f"head={self.head!r}: {type(self).__name__} knows the heads {known}")


@dataclass(frozen=True, kw_only=True)
class DecoderConfig(TextConfig):
    """tied: the word table is also the last map. The ids of tokens that begin, end (one or several) and fill a text."""

    head: str | None = "lm"
    pool: TokenPoolingMode = "last"
    tie_word_embeddings: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.allow_heads("lm", *HEADS)


class TextModel(Model):
    """forward(input_ids [B, N], attention_mask [B, N], ...) -> what the head answers.

    attention_mask is 1 for real tokens; padding may stand anywhere, is never computed and never seen. Positions count
    real tokens. Or document_ids [B, N] (`zoo.pack`): the documents of a row do not see each other, and each is answered
    as it would be alone; heads that answer for a text then give one row per document.
    """

    inputs: ClassVar[tuple[str, ...]] = ("input_ids", "attention_mask", "document_ids")
    tokens: TextEmbedding
    blocks: Stack

    def context(self, positions: Tensor) -> Context:
        """Masks, biases and rotary tables for tokens at `positions` [N] or [B, N]."""
        return Context()

    def embed(self, input_ids: Tensor, positions: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """[B, N] -> [B, N, D]; positions [N] or [B, N], of the real tokens of each row."""
        return self.tokens(input_ids, positions, token_type_ids)

    def encode(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        document_ids: Tensor | None = None,
        *,
        layers: Sequence[int] | None = None,
        state: StackState | None = None,
    ) -> Any:
        """Hidden states [B, N, D] after the final norm, exact zeros at padding; see Model.encode.

        With a `state` (from new_state) the ids continue what it remembers; attention_mask then covers all so far.
        """
        start = 0 if state is None else state.length
        check_shapes(input_ids, attention_mask, start)
        if document_ids is not None:
            if attention_mask is not None or state is not None:
                raise ValueError("document_ids say themselves what is padding (-1), and go with no mask and no state")
            return self.encode_documents(PackedDocuments.of(document_ids), input_ids, token_type_ids, layers)
        positions = count_positions(attention_mask, input_ids.shape[1], start, input_ids.device)
        x = self.embed(input_ids, positions, token_type_ids)
        return self.blocks(
            x, self.context(positions), keep=attention_mask, state=state, layers=layers, drop_padding=self.drop_padding
        )

    def encode_documents(
        self, documents: PackedDocuments, input_ids: Tensor, types: Tensor | None, layers: Sequence[int] | None
    ) -> Any:
        """`encode`, each document in a row of its own, whose padding costs nothing."""
        types = None if types is None else documents.take(types)
        y = self.encode(documents.take(input_ids), documents.keep, types, layers=layers)
        return documents.put(y) if layers is None else (documents.put(y[0]), [documents.put(each) for each in y[1]])

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        document_ids: Tensor | None = None,
    ) -> Tensor:
        x = self.encode(input_ids, attention_mask, token_type_ids, document_ids)
        if document_ids is not None and isinstance(self.head, TextPooling):
            documents = PackedDocuments.of(document_ids)
            return self.head(documents.take(x), documents.keep)
        return x if self.head is None else self.head(x, attention_mask)

    def new_state(self, batch: int, capacity: int | None = None) -> StackState:
        """An empty memory for decoding `batch` rows, with room for `capacity` tokens to begin with."""
        like = self.tokens.word.weight
        return self.blocks.new_state(batch, capacity or 64, like)

    def decode(
        self, input_ids: Tensor, state: StackState, attention_mask: Tensor | None = None, *, every: bool = False
    ) -> Tensor:
        """Scores of the token behind the last real one of each row [B, V]; with `every`, behind each [B, N, V].

        The ids [B, N] go on from what `state` remembers; attention_mask [B, M] covers all tokens so far.
        """
        assert self.head is not None
        x = self.encode(input_ids, attention_mask, state=state)
        return self.head(x if every else last_real(x, attention_mask))

    def common_head(self, *, bias: bool = True, **classify: Any) -> nn.Module | None:
        """The heads that all text families have; `classify`: what TextClassificationHead is given besides."""
        c = self.config
        if c.head == "classify":
            return TextClassificationHead(c.pool, c.width, c.num_classes, dropout=c.dropout, bias=bias, **classify)
        if c.head == "pool":
            return TextPooling(c.pool, c.width)
        if c.head == "token":
            return TokenClassificationHead(c.width, c.num_classes, c.dropout)
        return TokenClassificationHead(c.width, 2) if c.head == "qa" else None


def check_shapes(ids: Tensor, mask: Tensor | None, start: int) -> None:
    """Raises ValueError unless ids are [B, N] and the mask, of integers or bools, covers them and `start` before."""
    if ids.ndim != 2:
        raise ValueError(f"expected token ids [B, N] of integers, given {tuple(ids.shape)} of {ids.dtype}")
    expected = (len(ids), start + ids.shape[1])
    if mask is not None and mask.shape != expected:
        raise ValueError(f"attention_mask is {tuple(mask.shape)}, expected {expected}")
    if mask is not None and mask.is_floating_point():
        raise ValueError(f"attention_mask is {mask.dtype}; expected integers or bools, 1 for real tokens")


def last_real(x: Tensor, keep: Tensor | None) -> Tensor:
    """[B, N, D] -> [B, D], the last real token of each row; keep [B, M] covers these N tokens and those before them."""
    if keep is None or x.shape[1] == 1:
        return x[:, -1]
    places = torch.arange(x.shape[1], device=x.device)
    return x[torch.arange(len(x), device=x.device), (places * keep[:, -x.shape[1] :].bool()).argmax(1)]
