"""Data modules of labeled texts, of one long text in chunks, and of separate lines, tokenized in memory."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from zoo.data.datamodule import KeyedDataModule
from zoo.data.keyed_batches import Keys
from zoo.data.splits import Splits
from zoo.data.text.corpus import Corpus, chunks_of, ids_of
from zoo.data.text.dataset import Text, TextDataset
from zoo.preprocessing.text import TextProcessor, Truncate
from zoo.utils.keyed_random import seed_for


class TokenDataset(Dataset[Any]):
    """Dataset of tokenized texts of different lengths.

    Batches: `input_ids`, `attention_mask` and, if the model uses them, `token_type_ids` [B, N] with the N of the
    longest text of the batch, `lengths` (a list: it stays on the host), `labels` if present, `index` [B], `epoch`.
    Padding is on the right; models skip it.
    """

    def __init__(self, ids: list[list[int]], labels: Tensor | None = None, *, pad: int = 0,
                 types: list[list[int]] | None = None) -> None:  # fmt: skip
        self.lengths = torch.tensor([len(row) for row in ids])
        self.starts = self.lengths.cumsum(0) - self.lengths
        self.ids = _flat(ids)
        self.types = None if types is None else _flat(types)
        self.labels, self.pad = labels, pad

    @classmethod
    def of(cls, texts: Sequence[Text], preprocess: TextProcessor, labels: Tensor | None = None, *,
           max_length: int = 0, truncate: Truncate = "warn", noun: str = "text") -> "TokenDataset":  # fmt: skip
        """Tokenize texts to at most `max_length` tokens each (0: the maximum of the tokenizer).

        noun: what a text is called in messages.

        Raises: ValueError for a text without tokens, and with truncate="error" for a text that is too long.
        """
        limit = min(max_length or preprocess.max_length, preprocess.max_length)
        encoded = replace(preprocess, max_length=limit, truncate=truncate)._encode(list(texts), noun)
        types = [text.type_ids for text in encoded] if preprocess.types else None
        return cls([text.ids for text in encoded], labels, pad=preprocess.id("pad") or 0, types=types)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitems__(self, keys: Keys) -> dict[str, Any]:
        rows = torch.tensor(list(keys))
        lengths = self.lengths[rows, None]
        positions = torch.arange(int(lengths.max()))
        real = positions < lengths
        source = (self.starts[rows, None] + positions).clamp(max=len(self.ids) - 1)
        batch = {"input_ids": self.ids[source].long().masked_fill(~real, self.pad), "attention_mask": real.long()}
        if self.types is not None:
            batch["token_type_ids"] = self.types[source].long() * real
        if self.labels is not None:
            batch["labels"] = self.labels[rows]
        return batch | {"lengths": lengths[:, 0].tolist(), "index": rows, "epoch": keys.epoch}


class TextChunks(Dataset[Any]):
    """Dataset of chunks of `length` tokens of one long text.

    Batches: `input_ids`, `labels` (the next tokens) [B, N], `index`, `epoch`. With `moving`, the chunks start at a
    different offset in each epoch, a pure function of (seed, epoch).
    """

    def __init__(self, ids: Tensor, length: int, *, moving: bool = False, seed: int = 0) -> None:
        if len(ids) < length + 1:
            raise ValueError(f"a text of {len(ids)} tokens is too short for a chunk of {length} tokens and the next "
                             f"token; use a longer text or a smaller max_length")  # fmt: skip
        self.ids, self.length, self.moving, self.seed = ids, length, moving, seed
        self.count = (len(ids) - 1) // length - (1 if moving and len(ids) > 2 * length else 0)

    def __len__(self) -> int:
        return self.count

    def __getitems__(self, keys: Keys) -> dict[str, Any]:
        rows = torch.tensor(list(keys))
        room = len(self.ids) - 1 - self.count * self.length
        start = seed_for(self.seed, keys.epoch, self.length) % (room + 1) if self.moving else 0
        chunk = self.ids[start + rows[:, None] * self.length + torch.arange(self.length + 1)].long()
        batch = {"input_ids": chunk[:, :-1], "labels": chunk[:, 1:]}
        return batch | {"index": rows, "epoch": keys.epoch}


class TextDataModule(KeyedDataModule):
    """Data module of labeled texts; see `TokenDataset` for its batches.

    Args:
        splits: Dataset splits from `load_texts`.
        preprocess: Tokenizer of the model, `model.preprocess`.
        batch_size: Texts per optimizer step, summed over all devices and accumulation steps.
        max_length: Maximum number of tokens per text; 0 is that of the tokenizer.
        truncate: How to handle longer texts, see `TextProcessor`; None does as the tokenizer.
        options: Options of `KeyedDataModule`.

    Raises: ValueError for a text without tokens, and with truncate="error" for a text that is too long.
    """

    features = "word counts"

    def __init__(self, splits: Splits[TextDataset], preprocess: TextProcessor, batch_size: int = 32, *,
                 max_length: int = 0, truncate: Truncate | None = None, group_by_length: bool = True,
                 **options: Any) -> None:  # fmt: skip
        def tokens(part: TextDataset, training: bool) -> TokenDataset:
            return TokenDataset.of(part.texts, preprocess, part.labels, max_length=max_length,
                                   truncate=truncate or preprocess.truncate)  # fmt: skip

        super().__init__(splits, batch_size, dataset=tokens, group_by_length=group_by_length, **options)

    def simple_features(self, stage: str, rows: Tensor) -> list[Text]:
        """The texts."""
        texts = self.part(stage).texts
        return [texts[i] for i in rows.tolist()]


class TextChunksDataModule(KeyedDataModule):
    """Data module of one long text in chunks, for causal language modeling; see `TextChunks` for its batches.

    Training chunks start at a different offset in each epoch.

    Args:
        splits: Training and held-out text, from `Corpus.split_at_end`.
        preprocess: Tokenizer of the model, `model.preprocess`.
        batch_size: Chunks per optimizer step, summed over all devices and accumulation steps.
        length: Number of tokens of a chunk: the model's `max_length`.
        seed: Seed of the order and of the offsets.
        options: Options of `KeyedDataModule`.

    Raises: ValueError for a text that is too short for a chunk.
    """

    items = "chunks"

    def __init__(self, splits: Splits[Corpus], preprocess: TextProcessor, batch_size: int = 32, *, length: int,
                 seed: int = 0, **options: Any) -> None:  # fmt: skip
        def chunks(part: Corpus, training: bool) -> TextChunks:
            return TextChunks(ids_of(part.text, preprocess), length, moving=training, seed=seed)

        super().__init__(splits, batch_size, dataset=chunks, seed=seed, **options)


class TextLinesDataModule(KeyedDataModule):
    """Data module of separate lines, for masked language modeling; see `TokenDataset` for its batches.

    Args:
        splits: Training and held-out lines, from `Corpus.split_lines`.
        preprocess: Tokenizer of the model, `model.preprocess`.
        batch_size: Sequences per optimizer step, summed over all devices and accumulation steps.
        max_length: Maximum number of tokens per sequence; longer lines are split into several sequences.
        options: Options of `KeyedDataModule`.
    """

    items = "sequences"

    def __init__(self, splits: Splits[Corpus], preprocess: TextProcessor, batch_size: int = 32, *,
                 max_length: int = 128, group_by_length: bool = True, **options: Any) -> None:  # fmt: skip
        def sequences(part: Corpus, training: bool) -> TokenDataset:
            ids, types = chunks_of(part.texts, preprocess, max_length)
            return TokenDataset(ids, pad=preprocess.id("pad") or 0, types=types if preprocess.types else None)

        super().__init__(splits, batch_size, dataset=sequences, group_by_length=group_by_length, **options)


def _flat(rows: list[list[int]]) -> Tensor:
    return torch.tensor([value for row in rows for value in row], dtype=torch.int32)
