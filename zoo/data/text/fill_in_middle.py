"""Documents packed into rows for causal language modeling, some of them rearranged for fill-in-the-middle.

Source: Bavarian et al. 2022, https://arxiv.org/abs/2207.14255, sections 3 and 4.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from zoo.data.datamodule import KeyedDataModule
from zoo.data.keyed_batches import Keys
from zoo.data.splits import Splits
from zoo.data.text.corpus import Corpus
from zoo.data.text_config import FillInMiddleSettings
from zoo.nn.losses.cross_entropy import IGNORED
from zoo.preprocessing.fill_in_middle import FillInMiddleTokens, encode_parts, fill_in_middle_tokens
from zoo.preprocessing.text import TextProcessor, encode_batch
from zoo.utils.errors import DataError
from zoo.utils.keyed_random import seed_for
from zoo.utils.recent import Recent

_EPOCHS = 2  # whose order is kept


def choose_span(text: str, numbers: random.Random, whole_lines: float) -> tuple[int, int]:
    """(start, end) of the middle of a text.

    In the fraction `whole_lines` it is a random line without its line feed, or each time with probability 1/2 one line
    more: what is filled in is mostly short. Otherwise it is what stands between two random characters.
    """
    if numbers.random() >= whole_lines:
        first, last = sorted(int(numbers.random() * (len(text) + 1)) for _ in range(2))
        return first, last
    starts = [0, *(i + 1 for i, character in enumerate(text) if character == "\n"), len(text) + 1]
    first = last = int(numbers.random() * (len(starts) - 1))
    while last < len(starts) - 2 and numbers.random() < 0.5:
        last += 1
    return starts[first], starts[last + 1] - 1


@dataclass(frozen=True)
class FillInMiddle:
    """Rearranges a text as prefix, suffix and middle, as a pure function of its key.

    settings: how often and how. seed: of all random numbers.
    """

    settings: FillInMiddleSettings
    processor: TextProcessor
    seed: int = 0

    def __call__(self, text: str, *key: int, room: int = 0) -> list[int] | None:
        """Its tokens, with the token that ends the middle; None if it stays as it is, as 1 - `rate` of all do.

        key: what decides, beside the seed: epoch, row and number of the document. room: the most tokens; those that are
        too many are left out at the end of the suffix, then at the start of the prefix.
        """
        numbers = random.Random(seed_for(self.seed, *key))
        if numbers.random() >= self.settings.rate or not text:
            return None
        order = "spm" if numbers.random() < self.settings.spm_rate else "psm"
        start, end = choose_span(text, numbers, self.settings.whole_lines)
        prefix, middle, suffix = encode_parts(self.processor, text[:start], text[start:end], text[end:])
        over = max(0, len(prefix) + len(middle) + len(suffix) + 4 - room) if room else 0
        if over > len(prefix) + len(suffix):
            return None
        suffix, over = suffix[: max(0, len(suffix) - over)], max(0, over - len(suffix))
        return [*self.tokens.arrange(prefix[over:], suffix, order), *middle, self.end]  # type: ignore[arg-type]

    @cached_property
    def tokens(self) -> FillInMiddleTokens:
        """The tokens of the tokenizer."""
        return fill_in_middle_tokens(self.processor)

    @cached_property
    def end(self) -> int:
        """The token that ends a middle: that of texts."""
        return end_of(self.processor)


def end_of(processor: TextProcessor) -> int:
    """The token after each document. Raises: DataError for a tokenizer without one."""
    if (end := processor.id("eos")) is None:
        raise DataError("the tokenizer has no end token (eos), which separates packed documents")
    return end


class PackedDocuments(Dataset[Any]):
    """Dataset of rows of `length` tokens of documents, one after the other, with the end token after each.

    Batches: `input_ids`, `labels` (the next tokens, -100 after the last one) [B, N], `index`, `epoch`.

    With `middle` it is for training: in each epoch the documents have another order, the rows begin at another token,
    and documents are rearranged, all as a pure function of (seed, epoch, row). With `unit="context"` what a row has of
    each document is rearranged, so that a row holds whole prefixes and suffixes; with `unit="document"` each document
    as a whole, before it is cut into rows.

    Args:
        texts: The documents.
        processor: Tokenizer of the model.
        length: Tokens of a row.
        middle: How documents are rearranged; None keeps their order and their text, for evaluation.
    """

    def __init__(self, texts: Sequence[str], processor: TextProcessor, length: int,
                 middle: FillInMiddle | None = None) -> None:  # fmt: skip
        self.texts, self.processor, self.length, self.middle = texts, processor, length, middle
        end = end_of(processor)
        encoded = encode_batch(processor.backend, list(texts), add_special_tokens=False)
        self.documents = [torch.tensor([*one.ids, end], dtype=torch.int32) for one in encoded]
        # where the text of each token begins
        self.offsets = [
            torch.tensor([*(start for start, _ in one.offsets), len(text)], dtype=torch.int32)
            for one, text in zip(encoded, texts)
        ]
        tokens = sum(map(len, self.documents))
        if tokens < 2:
            raise DataError("the documents have no token to predict")
        self.count = max(1, tokens // length) if middle else -(-(tokens - 1) // length)
        self._stream = Recent(self._make_stream, _EPOCHS)

    def __len__(self) -> int:
        return self.count

    @property
    def predicted(self) -> int:
        """Tokens that an evaluation predicts: all but the first."""
        return sum(map(len, self.documents)) - 1

    def __getitems__(self, keys: Keys) -> dict[str, Any]:
        rows = [self.row(index, keys.epoch) for index in keys]
        ids = torch.zeros(len(rows), self.length + 1, dtype=torch.long)
        labels = torch.full((len(rows), self.length), IGNORED)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = row
            labels[place, : len(row) - 1] = row[1:]
        return {"input_ids": ids[:, :-1], "labels": labels, "index": torch.tensor(list(keys)), "epoch": keys.epoch}

    def row(self, index: int, epoch: int) -> Tensor:
        """The tokens of a row and the one after it, at most [length + 1]."""
        stream = self._stream(epoch if self.middle else 0)
        first = stream.shift + index * self.length
        if self.middle is None or self.middle.settings.unit == "document":
            return stream.take(first, self.length + 1)
        pieces = enumerate(stream.pieces(first, self.length + 1))
        return torch.cat([self._piece(*piece, key=(epoch, index, number)) for number, piece in pieces])

    def _piece(self, document: int, start: int, end: int, *, key: tuple[int, ...]) -> Tensor:
        """The tokens start to end of a document, rearranged or not."""
        assert self.middle is not None
        offsets = self.offsets[document]
        last = min(end, len(offsets) - 1)
        text = self.texts[document][int(offsets[start]) : int(offsets[last])]
        found = self.middle(text, *key, room=end - start)
        return self.documents[document][start:end] if found is None else torch.tensor(found, dtype=torch.int32)

    def _make_stream(self, epoch: int) -> "Stream":
        """The documents of an epoch, one after the other."""
        if self.middle is None:
            return Stream(self.documents, list(range(len(self.documents))), 0, wraps=False)
        seed = self.middle.seed
        order = torch.randperm(len(self.texts), generator=torch.Generator().manual_seed(seed_for(seed, epoch, 3)))
        documents = self.documents
        if self.middle.settings.unit == "document":
            found = [self.middle(text, epoch, number) for number, text in enumerate(self.texts)]
            documents = [plain if one is None else torch.tensor(one, dtype=torch.int32)
                         for plain, one in zip(self.documents, found)]  # fmt: skip
        return Stream(documents, order.tolist(), seed_for(seed, epoch, 4) % self.length, wraps=True)


class Stream:
    """Documents in an order, as one text of tokens; with `wraps` the first one follows the last one again.

    shift: the token at which the first row begins.
    """

    def __init__(self, documents: Sequence[Tensor], order: list[int], shift: int, *, wraps: bool) -> None:
        self.documents, self.order, self.shift, self.wraps = documents, order, shift, wraps
        lengths = torch.tensor([len(documents[number]) for number in order])
        self.starts = lengths.cumsum(0) - lengths
        self.total = int(lengths.sum())

    def pieces(self, first: int, count: int) -> list[tuple[int, int, int]]:
        """(document, first and last token) of the pieces that the tokens first to first + count consist of."""
        found: list[tuple[int, int, int]] = []
        while count > 0:
            if first >= self.total and not self.wraps:
                break
            first %= self.total
            place = int(torch.searchsorted(self.starts, first, right=True)) - 1
            number, start = self.order[place], first - int(self.starts[place])
            end = min(len(self.documents[number]), start + count)
            found.append((number, start, end))
            first, count = first + end - start, count - (end - start)
        return found

    def take(self, first: int, count: int) -> Tensor:
        """The tokens first to first + count."""
        return torch.cat([self.documents[number][start:end] for number, start, end in self.pieces(first, count)])


class FillInMiddleDataModule(KeyedDataModule):
    """Data module of documents packed into rows; see `PackedDocuments` for its batches.

    Documents are rearranged in training alone: validation and test predict them from left to right.

    Args:
        splits: Documents.
        preprocess: Tokenizer of the model, with tokens for fill-in-the-middle unless `rate` is 0.
        batch_size: Rows per optimizer step, summed over all devices and accumulation steps.
        length: Tokens of a row: the model's `max_length`.
        middle: How often and how documents are rearranged.
        seed: Seed of the order and of the middles.
        options: Options of `KeyedDataModule`.
    """

    items = "rows"

    def __init__(self, splits: Splits[Corpus], preprocess: TextProcessor, batch_size: int = 16, *, length: int,
                 middle: FillInMiddleSettings | None = None, seed: int = 0, **options: Any) -> None:  # fmt: skip
        settings = middle or FillInMiddleSettings()
        if settings.rate:
            fill_in_middle_tokens(preprocess)
        transform = FillInMiddle(settings, preprocess, seed)

        def rows(part: Corpus, training: bool) -> PackedDocuments:
            return PackedDocuments(part.texts, preprocess, length, transform if training else None)

        super().__init__(splits, batch_size, dataset=rows, seed=seed, **options)

    def tokens_per_byte(self, stage: str) -> float:
        """Predicted tokens per byte of the documents, by which a loss per token becomes one per byte."""
        data = self.val if stage == "val" else self.test
        return data.predicted / sum(len(text.encode()) for text in data.texts)
