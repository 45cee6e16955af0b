"""Images with captions of shards, decoded and tokenized batch by batch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from zoo.data.config import PairDataSettings
from zoo.data.image.streamed import IMAGE_COLUMNS, IMAGES, StreamedPixels
from zoo.data.keyed_batches import Keys
from zoo.data.pairs.dataset import PairDataset, PairSplits
from zoo.data.pairs.sides import mentions_sides
from zoo.data.pairs.tables import NAMES
from zoo.data.splits import with_test
from zoo.data.stream_order import StreamOrder
from zoo.data.streams.folder import Shards, describe, open_splits
from zoo.data.streams.records import Role
from zoo.data.streams.rows import StreamRows
from zoo.data.text.datamodule import TokenDataset
from zoo.preprocessing.image import ImageProcessor
from zoo.preprocessing.text import TextProcessor
from zoo.utils.errors import DataError
from zoo.utils.keyed_random import KeyedRandom

CAPTIONS = ("txt", "caption", "text")
SAMPLE = 200_000  # captions that a new tokenizer is trained on
_CHECKED = 1000  # captions whose lengths are looked at before the start


class StreamedCaptions(Sequence[tuple[str, ...]]):
    """The captions of rows of shards, read where they are indexed."""

    def __init__(self, stream: StreamRows) -> None:
        self.stream = stream

    def __len__(self) -> int:
        return len(self.stream)

    def __getitem__(self, item: Any) -> Any:
        """The captions of an item, or a list of those of a slice."""
        if isinstance(item, slice):
            return self.of(range(len(self))[item])
        return self.of([item if item >= 0 else len(self) + item])[0]

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        for start in range(0, len(self), _CHECKED):
            yield from self.of(range(start, min(start + _CHECKED, len(self))))

    def of(self, items: Sequence[int]) -> list[tuple[str, ...]]:
        """The captions of items. Raises: DataError that names one without a caption."""
        found = []
        for item, value in zip(items, self.stream.read(items, "captions")):
            values = value if isinstance(value, list | tuple) else [value]
            texts = [text.decode("utf-8", "replace") if isinstance(text, bytes) else text for text in values]
            kept = tuple(text.strip() for text in texts if isinstance(text, str) and text.strip())
            if not kept:
                place = self.stream.place(item, "captions")
                raise DataError(f"{place}: no caption; add it, or write the shard without this sample")
            found.append(kept)
        return found


@dataclass
class StreamedPairs(PairDataset[Any]):
    """Images with captions of shards: a PairDataset whose items are read where they are indexed."""

    @classmethod
    def of(cls, stream: StreamRows, processor: ImageProcessor) -> "StreamedPairs":
        """The pairs of rows; processor: resizes and crops the images, which get three channels."""
        captions: Any = StreamedCaptions(stream)
        return cls(StreamedPixels(stream, processor, "images", channels=3), captions)

    @property
    def stream(self) -> StreamRows:
        """The rows of the pairs."""
        return self.items.stream

    def take(self, rows: Tensor) -> "StreamedPairs":
        """The pairs of these rows."""
        return StreamedPairs.of(self.stream.take(rows), self.items.processor)

    def key_hashes(self) -> Tensor:
        """Those of the keys of the pairs."""
        return self.stream.hashes

    def some_captions(self) -> list[str]:
        """Captions that a tokenizer is trained on: 200,000 at most, evenly spaced."""
        step = max(1, len(self) // SAMPLE)
        captions: Any = self.captions
        return [text for texts in captions[::step][:SAMPLE] for text in texts]


class StreamedPairRows(Dataset[Any]):
    """Dataset of pairs of shards, with the batches of PairRows, and `mirrors` bool [B]: images that may be flipped.

    Args:
        pairs: The pairs.
        preprocess: The tokenizer.
        seed: Samples the caption of an item by (seed, epoch, index) in training; None uses the first caption.
        max_length: Maximum number of tokens per caption. Longer captions are truncated, with a warning if some of the
            first thousand are.
    """

    def __init__(self, pairs: StreamedPairs, preprocess: TextProcessor, *, seed: int | None = None,
                 max_length: int = 0) -> None:  # fmt: skip
        self.pairs, self.preprocess, self.seed, self.max_length = pairs, preprocess, seed, max_length
        first = [texts[0] for texts in pairs.captions[:_CHECKED]]
        TokenDataset.of(first, preprocess, max_length=max_length, truncate="warn")

    def __len__(self) -> int:
        return len(self.pairs)

    def stream_order(self, seed: int) -> StreamOrder:
        """The order of training."""
        return self.pairs.stream.order(seed)

    def __getitems__(self, keys: Keys) -> dict[str, Any]:
        captions: Any = self.pairs.captions
        texts, index, epoch = captions.of(keys), torch.tensor(list(keys)), keys.random_epoch
        chosen = torch.zeros_like(index)
        if self.seed is not None:
            counts = torch.tensor([len(own) for own in texts])
            chosen = KeyedRandom(self.seed, epoch, index).integers("caption", counts)
        tokens = TokenDataset.of([own[i] for own, i in zip(texts, chosen.tolist())], self.preprocess,
                                 max_length=self.max_length, truncate="cut")  # fmt: skip
        batch = tokens.__getitems__(Keys(range(len(keys)), keys.epoch))
        return {
            "pixel_values": self.pairs.items.decoded(keys),
            **{name: batch[name] for name in ("input_ids", "attention_mask", "lengths")},
            "mirrors": torch.tensor([not any(map(mentions_sides, own)) for own in texts]),
            "index": index,
            "epoch": epoch,
        }


def load_streamed_pairs(
    sources: Sequence[Shards], s: PairDataSettings, processor: ImageProcessor, seed: int
) -> PairSplits[Any]:
    """Splits of images with captions in shards, of which nothing but the index is read.

    Raises: DataError for damaged files, samples without an image or a caption, and options of data in memory.
    """
    if s.test:
        raise DataError(f"test={s.test}: the shards of data={s.name} have their test split in their names (test-0.tar) "
                        f"or in a folder test; omit it")  # fmt: skip

    roles = [Role("images", IMAGES, (*NAMES["images"], *IMAGE_COLUMNS), s.images),
             Role("captions", CAPTIONS, NAMES["captions"], s.captions)]  # fmt: skip
    parts = open_splits(sources, s, roles)
    sets = {split: StreamedPairs.of(part, processor) for split, part in parts.items()}
    test_name = "" if "test" in sets else f"a held-out part of {Path(s.name).name}"
    sets = with_test(sets, seed, f"{s.name} has {len(sets['train'])} pairs: too few to hold some out for testing")
    notes = [f"read piece by piece from {describe(sources)}"]
    name = Path(s.name).expanduser().resolve().name
    return PairSplits(sets["train"], sets["test"], name, True, describe(sources), validation=sets.get("validation"),
                      notes=notes, test_name=test_name)  # fmt: skip
