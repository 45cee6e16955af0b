"""Texts as rows of tokens, with what is known of each token: special or not, and its characters."""

import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.preprocessing.text_cleaning import clean_text


@dataclass(frozen=True)
class TokenRow:
    """The tokens of one text.

    Attributes:
        ids: N ids.
        special: Whether each token stands for no part of the text.
        text: The text that the tokenizer has read.
        spans: (first character, end) of each token in the text; None if the tokenizer does not say them.
    """

    ids: list[int]
    special: list[bool]
    text: str = ""
    spans: list[tuple[int, int]] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def within(self, start: int, end: int) -> list[int]:
        """The tokens that overlap the characters from start to end."""
        assert self.spans is not None
        return [
            i for i, (a, b) in enumerate(self.spans) if not self.special[i] and max(a, start) < min(b, end)
        ]  # fmt: skip

    def is_punctuation(self) -> list[bool]:
        """Whether each token consists of punctuation."""
        assert self.spans is not None
        parts = [self.text[a:b].strip() for a, b in self.spans]
        return [
            not special and bool(part) and all(unicodedata.category(c).startswith("P") for c in part)
            for special, part in zip(self.special, parts, strict=True)
        ]

    def words(self) -> list[tuple[int, int]]:
        """(first character, end) of the words of the text, split where it has spaces."""
        found, at = [], 0
        for word in self.text.split():
            at = self.text.index(word, at)
            found.append((at, at + len(word)))
            at += len(word)
        return found

    def shifted(self, start: int) -> "TokenRow":
        """What a decoder reads: the token `start`, and all tokens but the last."""
        spans = None if self.spans is None else [(0, 0), *self.spans[:-1]]
        return TokenRow([start, *self.ids[:-1]], [True, *self.special[:-1]], self.text, spans)


def encode_texts(processor: Any, texts: Sequence[str]) -> list[TokenRow]:
    """The rows of texts. Raises ValueError for one that cannot be encoded or is too long."""
    rows = []
    for row in try_encode(processor, texts, warn=processor.truncate == "warn"):
        if not isinstance(row, TokenRow):
            raise row
        rows.append(row)
    return rows


def try_encode(processor: Any, texts: Sequence[str], *, warn: bool = False) -> list[TokenRow | ValueError]:
    """The row of each text, or why it has none. warn: of truncated texts."""
    encodings, long = processor.encode_each(list(texts))
    if warn and long:
        message = f"{len(long):,} of {len(texts):,} texts are truncated to {processor.max_length} tokens"
        warnings.warn(message, stacklevel=4)
    clean = getattr(processor, "clean", None)
    rows: list[TokenRow | ValueError] = []
    for text, encoding in zip(texts, encodings, strict=True):
        if isinstance(encoding, ValueError):
            rows.append(encoding)
            continue
        read = text if clean is None else clean_text(text, clean)
        special = [bool(flag) for flag in encoding.special_tokens_mask]
        rows.append(TokenRow(list(encoding.ids), special, read, getattr(encoding, "offsets", None)))
    return rows


def text_inputs(rows: Sequence[TokenRow], processor: Any, prefix: str = "") -> dict[str, Tensor]:
    """The model inputs of rows [B, N], with padding after the tokens. prefix: of their names, "decoder_"."""
    longest = max(map(len, rows))
    multiple, pad, mask = 1, 0, True
    if processor is not None:
        multiple, pad, mask = processor.multiple, processor.id("pad") or 0, processor.mask
    length = -(-longest // multiple) * multiple
    ids = torch.full((len(rows), length), pad)
    keep = torch.zeros(len(rows), length, dtype=torch.long)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)] = torch.tensor(tokens.ids)
        keep[row, : len(tokens)] = 1
    masks = {f"{prefix}attention_mask": keep} if mask else {}
    return {f"{prefix}input_ids": ids} | masks


def flags(rows: Iterable[Sequence[bool]], length: int) -> Tensor:
    """Flags of tokens as bool [B, N], False at padding."""
    found = [torch.tensor(list(row), dtype=torch.bool) for row in rows]
    return torch.stack([torch.nn.functional.pad(row, (0, length - len(row))) for row in found])


@dataclass(frozen=True)
class Frame:
    """The special tokens that the tokenizer puts before and after a text, and the ids that random tokens are of."""

    before: list[int]
    after: list[int]
    ordinary: list[int]
    max_length: int

    @property
    def room(self) -> int:
        """The largest number of tokens between them."""
        return self.max_length - len(self.before) - len(self.after)

    def row(self, ids: Sequence[int]) -> TokenRow:
        special = [True] * len(self.before) + [False] * len(ids) + [True] * len(self.after)
        return TokenRow([*self.before, *ids, *self.after], special)


def frame_of(model: Any, processor: Any) -> Frame:
    """The frame of a text model; processor: its tokenizer or None."""
    c = model.config
    names = [name for name in c.names() if name.endswith("_token_id")]
    values = [getattr(c, name) for name in names]
    special = {i for value in values for i in (value if isinstance(value, tuple) else (value,)) if i is not None}
    before: list[int] = []
    after: list[int] = []
    size, max_length = c.vocab_size, c.max_length
    if processor is not None:
        size, max_length = min(size, processor.vocab_size), min(max_length, processor.max_length)
        samples = try_encode(processor, ["a", "e", "the", "1"])
        row = next((row for row in samples if isinstance(row, TokenRow)), TokenRow([], []))
        first = next((i for i, flag in enumerate(row.special) if not flag), 0)
        last = next((i for i, flag in enumerate(reversed(row.special)) if not flag), 0)
        before, after = row.ids[:first], row.ids[len(row) - last :]
        special |= {i for i in (processor.id(name) for name in processor.special) if i is not None}
        added: dict[int, Any] = getattr(processor.backend, "get_added_tokens_decoder", dict)()
        special |= set(added)
    return Frame(before, after, [i for i in range(size) if i not in special], max_length)
