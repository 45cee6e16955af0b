"""Base classes of text encoders and decoders: inputs, padding, positions and heads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zoo.models.base import Model
from zoo.models.config import Config, ProblemType
from zoo.models.tracing import trace_error
from zoo.nn.context import Context
from zoo.nn.frontends.inputs import check_not_empty
from zoo.nn.frontends.packed_documents import PackedDocuments
from zoo.nn.frontends.text import TextEmbedding, count_positions
from zoo.nn.heads import LMHead, TextClassificationHead, TextPooling, TokenClassificationHead, TokenPoolingMode
from zoo.nn.kv_cache import StackState, check_state
from zoo.nn.lengths import AnyLengths
from zoo.nn.masks import CAUSAL, Mask
from zoo.nn.stack import Stack

HEADS = ("classify", "token", "qa", "pool", None)


@dataclass(frozen=True, kw_only=True)
class TextConfig(Config):
    """Base config of all text families.

    max_length: length of the position table, or the longest texts that the model was trained on. problem_type: of
    head="classify", see `ProblemType`.
    """

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


@dataclass(frozen=True, kw_only=True)
class DecoderConfig(TextConfig):
    """Base config of text decoders.

    tie_word_embeddings: the LM head uses the word embeddings. bos_token_id, eos_token_id (one or several),
    pad_token_id: tokens that begin, end and pad a text.
    """

    head: str | None = "lm"
    pool: TokenPoolingMode = "last"
    tie_word_embeddings: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.allow_heads("lm", *HEADS)


@dataclass(frozen=True)
class CrossInputs:
    """Gated cross-attention between the blocks of a decoder: {number of a block: what runs before it}, and what it
    attends to, memory [B, M, W] (None: nothing) where `memory_mask` is True."""

    blocks: Mapping[int, nn.Module]
    memory: Tensor | None = None
    memory_mask: Mask | None = None


class TextModel(Model):
    """Base class of text models: forward(input_ids [B, N], attention_mask [B, N], ...) -> output of the head.

    attention_mask is 1 for real tokens. Padding may be at any place; it is not computed and not attended to, and
    positions count real tokens only. With document_ids [B, N] (`zoo.pack`) a row holds several documents: they do not
    attend to each other, each gives the same output as alone, and heads with one output per text return one row per
    document. lengths: see `Model.check_lengths`; with document_ids, the number of tokens of each document.
    """

    inputs: tuple[str, ...] = ("input_ids", "attention_mask", "document_ids", "lengths")
    token_inputs: ClassVar[tuple[str, ...]] = ()  # further inputs [B, N], see `context_inputs`
    tokens: TextEmbedding
    blocks: Stack

    def context(self, positions: Tensor) -> Context:
        """Masks, biases and rotary tables for tokens at `positions` [N] or [B, N]."""
        return Context()

    def context_inputs(self, ids: Tensor, keep: Tensor | None, **more: Any) -> dict[str, Any]:
        """Further arguments of `context`, from the `token_inputs` of a batch."""
        return more

    def embed(
        self,
        input_ids: Tensor,
        positions: Tensor,
        token_type_ids: Tensor | None = None,
        words: Tensor | None = None,
    ) -> Tensor:
        """[B, N] -> [B, N, D]; positions [N] or [B, N] of the real tokens of each row. words: see `encode`."""
        return self.tokens(input_ids, positions, token_type_ids, words)

    def encode(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        document_ids: Tensor | None = None,
        lengths: AnyLengths | None = None,
        *,
        layers: Sequence[int] | None = None,
        state: StackState | None = None,
        words: Tensor | None = None,
        mask: Mask | None = None,
        cross: CrossInputs | None = None,
        **more: Any,
    ) -> Any:
        """Hidden states [B, N, D] after the final norm, exact zeros at padding; see Model.encode.

        With a `state` (from new_state) the ids continue its tokens; attention_mask then covers all tokens so far. words
        [B, N, D]: used instead of the token embeddings of the ids (`tokens.embed_words`), before positions are added.
        mask: used instead of the family's. cross: what gated cross-attention between the blocks reads. more: the
        `token_inputs`.
        """
        start = 0 if state is None else check_state(state, StackState).length
        check_shapes(input_ids, attention_mask, start)
        if document_ids is not None:
            if attention_mask is not None or state is not None:
                raise ValueError("document_ids mark padding with -1: omit attention_mask= and state=")
            if mask is not None:
                raise ValueError("document_ids have masks of their own: omit mask=")
            documents = self.documents(document_ids, lengths)
            return self.encode_documents(documents, input_ids, token_type_ids, layers, {"words": words} | more)
        if lengths is not None:
            if state is not None:
                raise ValueError("lengths are those of whole rows: omit lengths= with state=")
            attention_mask, lengths = self.check_lengths(lengths, attention_mask, input_ids)
        if self.token_inputs:
            more = self.context_inputs(input_ids, attention_mask, **more)
        positions = count_positions(attention_mask, input_ids.shape[1], start, input_ids.device)
        x = self.embed(input_ids, positions, token_type_ids, words)
        context = self.context(positions, **more)
        context = context if mask is None else replace(context, mask=mask)
        if cross is not None:
            context = replace(context, memory=cross.memory, memory_mask=cross.memory_mask)
        return self.blocks(
            x,
            context,
            keep=attention_mask,
            lengths=lengths,
            state=state,
            layers=layers,
            drop_padding=self.drop_padding,
            before=None if cross is None else cross.blocks,
        )

    def documents(self, document_ids: Tensor, lengths: AnyLengths | None) -> PackedDocuments:
        """The documents of packed rows; those of the first batch on a GPU are compared with their lengths."""
        documents = PackedDocuments.of(document_ids, lengths, trust=self.lengths_checked)
        self.lengths_checked = self.lengths_checked or (lengths is not None and document_ids.is_cuda)
        return documents

    def encode_documents(
        self,
        documents: PackedDocuments,
        input_ids: Tensor,
        types: Tensor | None,
        layers: Sequence[int] | None,
        more: Mapping[str, Any],
    ) -> Any:
        """`encode` with one row per document; the padding of these rows is not computed."""
        types = None if types is None else documents.take(types)
        more = {name: None if x is None else documents.take(x) for name, x in more.items()}
        ids, lengths = documents.take(input_ids), documents.lengths
        y = self.encode(ids, documents.keep, types, lengths=lengths, layers=layers, **more)
        return documents.put(y) if layers is None else (documents.put(y[0]), [documents.put(each) for each in y[1]])

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
        more: dict[str, Any] = {}
        for name in self.token_inputs:
            if name in unknown:
                more[name] = unknown.pop(name)
        if token_type_ids is not None and "token_type_ids" not in self.inputs:
            unknown["token_type_ids"] = token_type_ids
        if unknown or input_ids is None:
            input_ids = self.check_inputs(unknown, input_ids)
        if lengths is not None and document_ids is None:
            check_shapes(input_ids, attention_mask, 0)
            attention_mask, lengths = self.check_lengths(lengths, attention_mask, input_ids)
        x = self.encode(input_ids, attention_mask, token_type_ids, document_ids, lengths, **more)
        if document_ids is not None and isinstance(self.head, TextPooling):
            documents = self.documents(document_ids, lengths)
            return self.head(documents.take(x), documents.keep)
        return x if self.head is None else self.head(x, attention_mask)

    def new_state(self, batch: int, capacity: int | None = None) -> StackState:
        """An empty cache for decoding `batch` rows, with an initial capacity of `capacity` tokens."""
        like = self.tokens.word.weight
        return self.blocks.new_state(batch, capacity or 64, like)

    def decode(
        self,
        input_ids: Tensor,
        state: StackState,
        attention_mask: Tensor | None = None,
        *,
        every: bool = False,
        words: Tensor | None = None,
        mask: Mask | None = None,
        cross: CrossInputs | None = None,
    ) -> Tensor:
        """Logits of the token after the last real one of each row [B, V]; with `every`, after each token [B, N, V].

        The ids [B, N] continue the tokens of `state`; attention_mask [B, M] covers all tokens so far. words, mask,
        cross: see `encode`.
        """
        assert self.head is not None
        x = self.encode(input_ids, attention_mask, state=state, words=words, mask=mask, cross=cross)
        return self.head(x if every else last_real(x, attention_mask))

    def common_head(self, *, bias: bool = True, **classify: Any) -> nn.Module | None:
        """The heads that all text families share. classify: further arguments of TextClassificationHead."""
        c = self.config
        if c.head == "classify":
            return TextClassificationHead(c.pool, c.width, c.num_classes, dropout=c.dropout, bias=bias, **classify)
        if c.head == "pool":
            return TextPooling(c.pool, c.width)
        if c.head == "token":
            return TokenClassificationHead(c.width, c.num_classes, c.dropout)
        return TokenClassificationHead(c.width, 2) if c.head == "qa" else None


class TextDecoder(TextModel):
    """Base class of text decoders: forward(input_ids [B, N], attention_mask) -> logits of the next token [B, N, V]."""

    def make_head(self) -> nn.Module | None:
        c = self.config
        if c.head == "lm":
            return LMHead(c.width, c.vocab_size, self.tokens.word if c.tie_word_embeddings else None)
        return self.common_head(bias=c.head != "classify")

    def context(self, positions: Tensor) -> Context:
        return Context(mask=CAUSAL)

    def prepare_inputs_for_generation(self, input_ids: Tensor, **inputs: Any) -> dict[str, Any]:
        """The method of transformers' decoders that peft looks for: the inputs of `forward` among those given."""
        return {"input_ids": input_ids} | {name: inputs[name] for name in self.inputs if inputs.get(name) is not None}


def check_shapes(ids: Tensor, mask: Tensor | None, start: int, side: str = "") -> None:
    """Raise ValueError unless ids are [B, N] and the mask is [B, start + N], of integers or bools.

    side: what their names begin with, "decoder_" for those of a decoder.
    """
    for name, value in ((f"{side}input_ids", ids), (f"{side}attention_mask", mask)):
        if not isinstance(value, Tensor) and not (value is None and name.endswith("mask")):
            raise ValueError(
                f"{name}: expected a tensor [B, N], given a {type(value).__name__}: model.preprocess makes one"
            )
    if ids.ndim != 2:
        raise ValueError(
            f"expected {side.replace('_', ' ')}token ids [B, N] of integers, got {tuple(ids.shape)} of {ids.dtype}"
        )
    if 0 in ids.shape:
        check_not_empty(ids, f"{side}input_ids")
    expected = (ids.shape[0], start + ids.shape[1])
    if mask is not None and mask.shape != expected:
        raise ValueError(f"{side}attention_mask is {tuple(mask.shape)}, expected {expected}")
    if mask is not None and mask.is_floating_point():
        raise ValueError(f"{side}attention_mask is {mask.dtype}; expected integers or bools, 1 for real tokens")


def last_real(x: Tensor, keep: Tensor | None) -> Tensor:
    """[B, N, D] -> [B, D], the last real token of each row; keep [B, M] covers these tokens and those before them."""
    if keep is None or x.shape[1] == 1:
        return x[:, -1]
    indices = torch.arange(x.shape[1], device=x.device)
    return x[torch.arange(x.shape[0], device=x.device), (indices * keep[:, -x.shape[1] :].bool()).argmax(1)]
