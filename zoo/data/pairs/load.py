"""Load image-text pairs from tables, folders, shards, the Hub, or synthetic scenes."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from zoo.data.config import CaptionedImageSettings, PairDataSettings
from zoo.data.pairs.dataset import Decoder, PairDataset, PairSplits, T
from zoo.data.pairs.images import Fit, ResizeAndCrop, decode_images
from zoo.data.pairs.streamed import load_streamed_pairs
from zoo.data.pairs.tables import caption_folder, pair_rows
from zoo.data.sources.columns import announce_skipped, refuse_skipped
from zoo.data.sources.find import Source, find_tables
from zoo.data.splits import Items, with_test
from zoo.data.streams.folder import find_shards
from zoo.data.synthetic import scenes
from zoo.preprocessing.image import ImageProcessor
from zoo.utils.errors import DataError

SYNTHETIC = ("auto", "synthetic", "synthetic_image_text")


def load_pairs(
    settings: CaptionedImageSettings | None = None,
    *,
    processor: ImageProcessor | None = None,
    size: tuple[int, int] = (32, 32),
    fit: Fit | None = None,
    seed: int = 0,
) -> PairSplits[Tensor]:
    """Load and decode a dataset of images with captions.

    Args:
        settings: Dataset and options; see `PairDataSettings`, with which folders of shards are read piece by piece.
        processor: Resizes and crops the images: that of a model, `model.preprocess.image`, gives the pixels that its
            search sees. Instead of `size` and `fit`.
        size: (height, width) of the images.
        fit: Function from a PIL image, or uint8 [3, h, w], to uint8 [3, *size]. Default: scale to cover `size` and
            center-crop, as ImageProcessor does.
        seed: Seed of splits and subsets.

    Raises:
        DataError: An unknown name or column, a missing table, missing captions, or missing or broken images (listed).
            The message says how to fix it.
    """
    s: Any = settings or PairDataSettings()
    if isinstance(s, PairDataSettings) and s.name not in SYNTHETIC and (shards := find_shards(s)):
        return finish(load_streamed_pairs(shards, s, processor or ImageProcessor(size=size), seed), s, seed)
    if processor:
        size, fit = processor.size, ResizeAndCrop(processor)
    if s.name in SYNTHETIC:
        return finish(synthetic_pairs(size, fit), s, seed)
    source, s = find_tables(s, "image-text pairs", folder=caption_folder)
    decoder = partial(decode_images, size=size, fit=fit, cache=s.cache_decoded)
    return finish(from_tables(source, s, "images", decoder, seed), s, seed)


def synthetic_pairs(size: tuple[int, int], fit: Fit | None = None) -> PairSplits[Tensor]:
    """The synthetic dataset of scenes with captions; fit: see `load_pairs`."""
    if size[0] != size[1] or size[0] < 24:
        raise DataError(f"synthetic images are square with at least 24 pixels, but the model takes "
                        f"{size[0]} x {size[1]}: pass image.image_size=32")  # fmt: skip
    train, validation, test = (
        PairDataset(*scenes.make_pairs(split, size=size[0])) for split in ("train", "validation", "test")
    )
    if fit and not (isinstance(fit, ResizeAndCrop) and fit.preprocess.keeps(size, 3)):
        for part in (train, validation, test):
            part.items = torch.stack([fit(image) for image in part.items])
    train.family = scenes.FAMILY
    source = "generated scenes; the test scenes combine colors and shapes in new pairs"
    return PairSplits(train, test, "synthetic", False, source, validation=validation)


def finish(sets: PairSplits[T], s: Any, seed: int) -> PairSplits[T]:
    """Apply max_train_samples and max_test_samples, and say what was skipped."""
    announce_skipped(sets.skipped, "pairs")
    return sets.limited(s.max_train_samples, s.max_test_samples, seed)


def from_tables(source: Source, s: Any, role: str, decode: Decoder[T], seed: int) -> PairSplits[T]:
    """Decode the splits of a dataset; without a test table, 10 % of the training pairs are held out for testing."""
    skipped: list[str] = []
    rows = {
        split: pair_rows(table, getattr(s, role), s.captions, role, skipped) for split, table in source.tables.items()
    }
    test_name = (getattr(s, "test", None) or "") if "test" in rows else f"a held-out part of {source.name}"
    skips = f" ({len(skipped)} cannot be used, the first: {skipped[0]})" if skipped else ""
    problem = f"{source.where} has {len(rows['train'])} pairs{skips}: too few to hold some out for testing"
    rows = with_test(rows, seed, problem)
    sets = {split: decode(part, skipped) for split, part in rows.items()}
    if s.on_error == "raise":
        refuse_skipped(skipped, "pairs")
    if "test" not in source.tables and len(sets["train"]) and not len(sets["test"]):  # of broken files alone
        sets |= with_test({"train": sets["train"]}, seed, problem)
    check_not_empty(sets, source.where, skipped)
    return PairSplits(sets["train"], sets["test"], source.name, True, source.where, validation=sets.get("validation"),
                      skipped=skipped, test_name=test_name)  # fmt: skip


def check_not_empty(parts: Mapping[str, Items], where: str, skipped: Sequence[str]) -> None:
    """Raises: DataError for a part of which no item can be used. skipped: what is wrong with each."""
    for split, part in parts.items():
        if not len(part):
            raise DataError(
                f"{where}: no {part.noun.removesuffix('s')} of {split} can be used; the first: {skipped[0]}"
            )
