"""Documents of token files, packed into rows while they are read, for causal language modeling."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from zoo.data.config import StreamSettings
from zoo.data.datamodule import KeyedDataModule
from zoo.data.keyed_batches import Keys
from zoo.data.splits import Items, Splits, held_out, partition
from zoo.data.stream_order import WINDOW, StreamOrder
from zoo.data.text.documents import TextFiles
from zoo.data.text.token_files import TokenFile, token_file
from zoo.nn.losses.cross_entropy import IGNORED
from zoo.preprocessing.text import TextProcessor
from zoo.utils.errors import DataError, check_choice
from zoo.utils.keyed_random import seed_for

if TYPE_CHECKING:
    import numpy as np

Packing = Literal["documents", "concatenate"]


@dataclass
class TokenDocuments(Items):
    """Documents of token files.

    Attributes:
        files: The token file of each source.
        documents: Number of each document, counted over all files, int64 [D], ascending.
        weights: Weight of each source in training; empty: its size.
        window: Rows that are shuffled together in training.
    """

    noun: ClassVar[str] = "documents"

    files: list[TokenFile]
    documents: Tensor
    weights: tuple[float, ...] = ()
    window: int = WINDOW

    def __len__(self) -> int:
        return len(self.documents)

    def take(self, rows: Tensor) -> "TokenDocuments":
        """The documents of these rows."""
        return replace(self, documents=self.documents[rows])

    def key_hashes(self) -> Tensor:
        """Those of the keys of the documents."""
        return torch.cat([file.hashes for file in self.files])[self.documents]


class _Tokens:
    """The tokens of some documents of a token file, as if they were one text."""

    def __init__(self, file: TokenFile, documents: Tensor) -> None:
        self.file = file
        starts = torch.cat([file.ends.new_zeros(1), file.ends[:-1]])[documents]
        lengths = file.ends[documents] - starts
        self.ends = lengths.cumsum(0)
        self.shift = starts - (self.ends - lengths)  # from a place in this text to that in the file
        self._tokens: np.ndarray[Any, Any] | None = None

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_tokens": None}  # the other process maps the file itself

    def row(self, start: int, count: int) -> tuple[Tensor, Tensor]:
        """(token ids, number of the document of each, from 0) at start .. start + count - 1, each int64 [count]."""
        if self._tokens is None:
            self._tokens = self.file.tokens
        places = torch.arange(start, start + count)
        first, last = torch.searchsorted(self.ends, torch.tensor([start, start + count - 1]), right=True).tolist()
        numbers = torch.searchsorted(self.ends[first : last + 1], places, right=True)
        source = places + self.shift[first : last + 1][numbers]
        return torch.from_numpy(self._tokens[source.numpy()].astype("int64")), numbers


class PackedRows(Dataset[Any]):
    """Rows of `length` tokens of documents, one after another, each row full.

    Batches: `input_ids`, `labels` (the next tokens, -100 at the end of a document) and, with packing="documents",
    `document_ids` [B, N], with which attention stays within a document, and `lengths`, a list of the number of tokens
    of each; `index` [B], `epoch`. In training, rows start at another offset in each epoch, or pass of a mixed source.

    Args:
        part: The documents.
        length: Tokens of a row.
        packing: `documents` keeps them apart, `concatenate` lets attention and labels reach over their ends.
        moving: Whether the offset differs between epochs.
        seed: Seed of the offsets.

    Raises: ValueError for documents that do not fill a row, and for another packing.
    """

    def __init__(self, part: TokenDocuments, length: int, *, packing: Packing = "documents", moving: bool = False,
                 seed: int = 0) -> None:  # fmt: skip
        check_choice("packing", packing, ("documents", "concatenate"))
        self.part, self.length, self.packing, self.moving, self.seed = part, length, packing, moving, seed
        bounds = [0, *torch.tensor([len(file) for file in part.files]).cumsum(0).tolist()]
        cuts = torch.searchsorted(part.documents, torch.tensor(bounds)).tolist()
        self.texts = [_Tokens(file, part.documents[start:stop] - bound)
                      for file, bound, start, stop in zip(part.files, bounds, cuts, cuts[1:])]  # fmt: skip
        self.counts = [self._count(len(text)) for text in self.texts]
        self.starts = [0, *accumulate(self.counts)]
        if not self.starts[-1]:
            raise ValueError(f"{len(part)} documents of {sum(map(len, self.texts)):,} tokens do not fill a row of "
                             f"{length} tokens and the next token; use more text or a smaller max_length")  # fmt: skip

    def _count(self, tokens: int) -> int:
        count = max(0, tokens - 1) // self.length
        return count - (1 if self.moving and tokens > 2 * self.length else 0)

    def __len__(self) -> int:
        return self.starts[-1]

    def stream_order(self, seed: int) -> StreamOrder:
        """The order of training. A source that does not fill a row is left out."""
        return StreamOrder.of(self.counts, self.part.weights, window=self.part.window, seed=seed)

    def _offset(self, source: int, epoch: int) -> int:
        if not self.moving:
            return 0
        room = len(self.texts[source]) - 1 - self.counts[source] * self.length
        return seed_for(self.seed, epoch, self.length, source) % (room + 1)

    def __getitems__(self, keys: Keys) -> dict[str, Any]:
        epochs = keys.passes or [keys.epoch] * len(keys)
        found = [self._row(row, epoch) for row, epoch in zip(keys, epochs)]
        ids, documents = (torch.stack(list(column)) for column in zip(*found))
        labels = ids[:, 1:]
        batch: dict[str, Any] = {"input_ids": ids[:, :-1]}
        if self.packing == "documents":
            labels = labels.masked_fill(documents[:, 1:] != documents[:, :-1], IGNORED)
            batch["document_ids"] = documents[:, :-1]
            batch["lengths"] = [n for row in documents[:, :-1] for n in torch.bincount(row).tolist()]
        return batch | {"labels": labels, "index": torch.tensor(list(keys)), "epoch": keys.epoch}

    def _row(self, row: int, epoch: int) -> tuple[Tensor, Tensor]:
        source = bisect_right(self.starts, row) - 1
        start = self._offset(source, epoch) + (row - self.starts[source]) * self.length
        return self.texts[source].row(start, self.length + 1)


class PackedTextDataModule(KeyedDataModule):
    """Data module of texts that are read piece by piece, for causal language modeling; see `PackedRows`.

    The texts are tokenized once, to files in the user's cache; see `token_file`.

    Args:
        sources: The files, from `find_documents`.
        preprocess: Tokenizer of the model, `model.preprocess`.
        settings: Settings of the data, with the batch size, the weights of the sources and the packing.
        length: Number of tokens of a row: the model's `max_length`.
        val_fraction: Fraction of the documents that validate, by the hashes of their keys, without files of their own;
            0 validates on the test files.
        seed: Seed of the order and of the offsets.

    Raises: DataError for damaged files, or too few documents to hold one out; ValueError for a text that does not fill
        a row.
    """

    items = "rows"

    def __init__(self, sources: Sequence[TextFiles], preprocess: TextProcessor, settings: StreamSettings, *,
                 length: int, val_fraction: float, seed: int = 0) -> None:  # fmt: skip
        s = settings
        parts: dict[str, TokenDocuments] = {}
        for split in ("train", "validation", "test"):
            if files := [token_file(source, split, preprocess, s) for source in sources if split in source.files]:
                documents = torch.arange(sum(map(len, files)))
                weights = tuple(s.weights) if split == "train" else ()
                parts[split] = TokenDocuments(files, documents, weights, s.shuffle_window or WINDOW)
        splits = _splits(parts, sources, s, val_fraction, seed)

        def rows(part: TokenDocuments, training: bool) -> PackedRows:
            return PackedRows(part, length, packing=s.packing, moving=training, seed=seed)

        super().__init__(splits, s.batch_size, dataset=rows, seed=seed, num_workers=s.num_workers)


def _splits(parts: dict[str, TokenDocuments], sources: Sequence[TextFiles], s: StreamSettings, val_fraction: float,
            seed: int) -> Splits[TokenDocuments]:  # fmt: skip
    where = ", ".join(str(source.folder) for source in sources)
    if "validation" not in parts and not val_fraction and "test" not in parts:
        raise DataError("val_fraction=0 leaves no documents for validation: use e.g. val_fraction=0.1")
    if "validation" not in parts and val_fraction:
        held = held_out(parts["train"], val_fraction, seed, "validation")
        if held.all() or not held.any():
            raise DataError(f"{where} has {len(held)} documents, of which none can be held out for validation: add "
                            f"some (a text file counts as one for each million of its characters), or a folder "
                            f"val")  # fmt: skip
        parts["train"], parts["validation"] = partition(parts["train"], held)
    validation = parts.get("validation", parts.get("test"))
    assert validation is not None
    name = Path(s.name).expanduser().resolve().name
    notes = [f"read piece by piece from {sum(len(one.files['train']) for one in sources)} files in {where}"]
    return Splits(parts["train"], parts.get("test", validation), name, True, where, validation=validation,
                  notes=notes)  # fmt: skip
