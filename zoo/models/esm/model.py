"""ESM-2 (Lin et al. 2023): a pre-norm encoder of proteins with rotary positions, trained on masked residues.

Also ESM-1b (Rives et al. 2021), with learned positions. See `zoo.models.esm.contacts` for the contact head.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zoo.models.esm.contacts import ContactHead, ResidueClassificationHead, ResiduePooling
from zoo.models.esm.mapping import ESM
from zoo.models.family import Family
from zoo.models.text import HEADS, TextConfig, TextModel, check_shapes
from zoo.models.tracing import trace_error
from zoo.nn.block_config import BlockConfig
from zoo.nn.context import Context
from zoo.nn.core import Core
from zoo.nn.frontends.text import TextEmbedding
from zoo.nn.heads import MaskedLMHead
from zoo.nn.lengths import AnyLengths
from zoo.nn.rotary import RotaryFrequencies
from zoo.preprocessing.protein import ALPHABET, SPECIAL_TOKENS, ProteinProcessor

MASKED = 0.15 * 0.8  # of the tokens of a training sequence, those that were replaced by the mask


@dataclass(frozen=True, kw_only=True)
class EsmConfig(TextConfig):
    """rope: rotary base; None for learned absolute positions (ESM-1b), which begin after `pad_token_id`. token_dropout:
    the embeddings of masks are zero, and the others of a row are scaled by how many are masked, as by dropout.
    mask_token_id: the mask. embedding_norm: a norm after the embeddings (ESM-1b). pool: of head="classify", as in
    transformers the first token, and of head="pool"; "mean" is over the residues, without the first and the last token.
    tie_word_embeddings: the masked-LM head uses the word embeddings. pad_token_id: the padding token.
    head="contacts": see `ContactHead`. contact_head: the model has one beside another head, too, as the published
    models do, for `predict_contacts`; it is not trained there. See TextConfig for the other fields."""

    head: str | None = "masked_lm"
    vocab_size: int = 33
    max_length: int = 1024
    width: int = 1280
    depth: int = 33
    heads: int = 20
    norm_eps: float = 1e-5
    rope: float | None = 10000.0
    token_dropout: bool = True
    embedding_norm: bool = False
    tie_word_embeddings: bool = True
    pad_token_id: int | None = 1
    mask_token_id: int | None = 32
    contact_head: bool = False
    added_later: ClassVar[Mapping[str, Any]] = {"contact_head": False}

    def __post_init__(self) -> None:
        super().__post_init__()
        self.allow_heads("masked_lm", "contacts", *HEADS)
        if self.pad_token_id is None and self.rope is None:
            raise ValueError("pad_token_id=None: learned positions start after the padding id; set it, or rope=10000.0")
        if self.token_dropout and self.mask_token_id is None:
            raise ValueError("mask_token_id=None: token_dropout=True needs the id of the mask; set one of them")
        if (self.head == "contacts" or self.contact_head) and self.mixer not in (None, "attention"):
            given = "head='contacts'" if self.head == "contacts" else "contact_head=True"
            raise ValueError(f"mixer={self.mixer!r}: {given} reads the attention maps of all layers; omit mixer=")

    @property
    def first_position(self) -> int:
        """Row of the position table for the first token of a sequence."""
        return (self.pad_token_id or 0) + 1


class Esm(TextModel):
    """forward(input_ids [B, N], attention_mask) -> output of the head; see TextModel.

    With head="contacts" the output is logits [B, N - 2, N - 2] of contacts between residues, see `ContactHead`;
    `predict_contacts` gives probabilities.
    """

    heads_beside: ClassVar[Mapping[str, str]] = {"contacts": "contact_head"}

    def __init__(self, config: EsmConfig) -> None:
        super().__init__(config)
        c = config
        spec = BlockConfig.of(c)
        self.make_norm = spec.make_norm
        self.tokens = TextEmbedding(
            c.vocab_size,
            c.width,
            max_length=c.max_length if c.rope is None else None,
            position_offset=c.first_position,
            norm=spec.make_norm() if c.embedding_norm else None,
        )
        self.rotary = None if c.rope is None else RotaryFrequencies(c.head_dim or c.width // c.heads, c.rope)
        self.blocks = spec.stack(c.depth)
        self.head = self.make_head()
        self.contact_head: ContactHead | None = None
        if c.contact_head and c.head != "contacts":  # otherwise it is the head
            self.contact_head = ContactHead(c.depth, c.heads).requires_grad_(False)

    def default_preprocess(self) -> ProteinProcessor | None:
        """The alphabet of ESM, for a model of its vocabulary."""
        c = self.config
        roles = {"pad": c.pad_token_id, "mask": c.mask_token_id}
        known = all(number in (None, ALPHABET.index(SPECIAL_TOKENS[role])) for role, number in roles.items())
        return ProteinProcessor(max_length=c.max_length) if c.vocab_size == len(ALPHABET) and known else None

    def make_head(self) -> nn.Module | None:
        c = self.config
        if c.head == "masked_lm":
            word = self.tokens.word if c.tie_word_embeddings else None
            return MaskedLMHead(c.width, c.vocab_size, self.make_norm(), tied=word)
        if c.head == "contacts":
            return ContactHead(c.depth, c.heads)
        if c.head == "classify":
            return ResidueClassificationHead(c.pool, c.width, c.num_classes, dense="tanh", dropout=c.dropout)
        return ResiduePooling(c.pool, c.width) if c.head == "pool" else self.common_head()

    def context(self, positions: Tensor, read_maps: Callable[[Core, Tensor], None] | None = None) -> Context:
        return Context(rotary=None if self.rotary is None else self.rotary(positions), read_maps=read_maps)

    def encode(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        document_ids: Tensor | None = None,
        lengths: AnyLengths | None = None,
        *,
        words: Tensor | None = None,
        **more: Any,
    ) -> Any:
        """See TextModel.encode. Packed documents come back here one by row, where `drop_tokens` counts for each."""
        if self.config.token_dropout and words is None and document_ids is None:
            check_shapes(input_ids, attention_mask, 0)
            if lengths is not None:
                attention_mask, lengths = self.check_lengths(lengths, attention_mask, input_ids)
            words = self.drop_tokens(input_ids, attention_mask)
        return super().encode(input_ids, attention_mask, token_type_ids, document_ids, lengths, words=words, **more)

    def drop_tokens(self, input_ids: Tensor, keep: Tensor | None) -> Tensor:
        """Token embeddings [B, N, D] with zeros at masks, times 0.88 / (share of real tokens that are no masks).

        A row of masks alone has zeros.
        """
        words, masked = self.tokens.embed_words(input_ids), input_ids == self.config.mask_token_id
        words = words.masked_fill(masked[..., None], 0.0)
        if keep is not None:
            masked = masked & keep.bool()
        real: Any = input_ids.shape[1] if keep is None else keep.bool().sum(1).clamp(min=1)
        share = 1 - masked.sum(1).float() / real  # in the order of operations of the published models
        share = torch.where(share == 0, 1.0, share)[:, None, None]
        return (words * (1 - MASKED) / share).to(words.dtype)

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
        head = self.head
        if not isinstance(head, ContactHead):
            return super().forward(input_ids, attention_mask, token_type_ids, document_ids, lengths, **unknown)
        if token_type_ids is not None:
            unknown["token_type_ids"] = token_type_ids
        if unknown or input_ids is None:
            input_ids = self.check_inputs(unknown, input_ids)
        if document_ids is not None:
            raise ValueError("head='contacts' takes one protein in a row: omit document_ids=, and pad the rows")
        if lengths is not None:
            attention_mask, lengths = self.check_lengths(lengths, attention_mask, input_ids)
        return self.contact_logits(head, input_ids, attention_mask, lengths)

    def contact_logits(
        self, head: ContactHead, input_ids: Tensor, keep: Tensor | None, lengths: AnyLengths | None = None
    ) -> Tensor:
        """Logits [B, N - 2, N - 2] by a contact head of this model."""
        scores = head.scores_of_layers(keep)
        self.encode(input_ids, keep, lengths=lengths, read_maps=scores.read)
        return scores.logits()

    @torch.no_grad()
    def predict_contacts(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Probabilities [B, R, R] that two residues are in contact (nearer than 8 angstroms), R = N - 2.

        The method of transformers' models. Row b has its residues first; pairs with padding have no meaning. Raises
        ValueError for a model without a contact head.
        """
        head = self.head if isinstance(self.head, ContactHead) else self.contact_head
        if head is None:
            raise ValueError(
                f"the model has head={self.config.head!r} and no contact head beside it: load a folder that has one, "
                f"with zoo.load(..., head='contacts') for contacts alone, or train one"
            )
        return self.contact_logits(head, input_ids, attention_mask).sigmoid()


VARIANTS: dict[str, dict[str, Any]] = {
    "esm2_t6_8m": dict(width=320, depth=6),
    "esm2_t12_35m": dict(width=480, depth=12),
    "esm2_t30_150m": dict(width=640, depth=30),
    "esm2_t33_650m": {},
    "esm2_t36_3b": dict(width=2560, depth=36, heads=40),
    "esm2_t48_15b": dict(width=5120, depth=48, heads=40),
}

SOURCES = {
    "esm2_t6_8m": "hf-hub:facebook/esm2_t6_8M_UR50D",
    "esm2_t12_35m": "hf-hub:facebook/esm2_t12_35M_UR50D",
    "esm2_t30_150m": "hf-hub:facebook/esm2_t30_150M_UR50D",
    "esm2_t33_650m": "hf-hub:facebook/esm2_t33_650M_UR50D",
    "esm2_t36_3b": "hf-hub:facebook/esm2_t36_3B_UR50D",
    "esm2_t48_15b": "hf-hub:facebook/esm2_t48_15B_UR50D",
}

FAMILY = Family("esm", Esm, EsmConfig, "protein", VARIANTS, SOURCES, {"transformers": ESM})
