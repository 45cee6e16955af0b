"""Data module of protein families: alignments in batches, with their contact maps."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from zoo.data.alignments.load import UNKNOWN_PAIR, ProteinFamilies
from zoo.data.datamodule import KeyedDataModule
from zoo.data.keyed_batches import Keys
from zoo.data.splits import Splits
from zoo.preprocessing.alignment_processor import AlignmentProcessor, pad
from zoo.utils.keyed_random import seed_for


class AlignmentDataset(Dataset[Any]):
    """Dataset of protein families.

    Batches: those of `AlignmentProcessor`, with `contacts` int8 [B, N, N], -1 where they are not known and at padding,
    and `index` [B].

    Attributes:
        lengths: Number of residues of each query, int64 [F].
    """

    def __init__(self, part: ProteinFamilies, preprocess: AlignmentProcessor, *, training: bool, seed: int) -> None:
        self.part, self.preprocess, self.training, self.seed = part, preprocess, training, seed
        self.lengths = torch.tensor([msa.shape[1] for msa in part.msas])

    def __len__(self) -> int:
        return len(self.part)

    def __getitems__(self, keys: Keys) -> dict[str, Any]:
        rows = list(keys)
        batch = pad([self.preprocess.sample(self.part.msas[i], self._generator(keys.epoch, i)) for i in rows])
        maps = pad_maps([self.part.contacts[i] for i in rows])
        return batch | {"contacts": maps, "index": torch.tensor(rows), "epoch": keys.epoch}

    def _generator(self, epoch: int, row: int) -> torch.Generator | None:
        """In training, the source of the sequences of a family in this epoch."""
        return torch.Generator().manual_seed(seed_for(self.seed, epoch, row)) if self.training else None


def pad_maps(maps: Sequence[Tensor]) -> Tensor:
    """Contact maps [N, N] of different sizes as int8 [B, N, N], -1 at padding."""
    size = max(map(len, maps))
    found = torch.full((len(maps), size, size), UNKNOWN_PAIR, dtype=torch.int8)
    for own, each in zip(found, maps):
        own[: len(each), : len(each)] = each
    return found


class AlignmentDataModule(KeyedDataModule):
    """Data module of protein families; see `AlignmentDataset` for its batches.

    Args:
        splits: Dataset splits from `load_families`.
        preprocess: Processor of the model, `model.preprocess`, which says how many sequences it takes.
        batch_size: Families per optimizer step, summed over all devices and accumulation steps.
        seed: Seed of the order, and of the sequences that are taken in training.
        options: Options of `KeyedDataModule`.
    """

    def __init__(self, splits: Splits[ProteinFamilies], preprocess: AlignmentProcessor, batch_size: int = 8, *,
                 group_by_length: bool = True, seed: int = 0, **options: Any) -> None:  # fmt: skip
        def dataset(part: ProteinFamilies, training: bool) -> AlignmentDataset:
            return AlignmentDataset(part, preprocess, training=training, seed=seed)

        super().__init__(splits, batch_size, dataset=dataset, group_by_length=group_by_length, seed=seed, **options)
