"""Data options of the recipe for contact maps. Imports no torch, so that `--help` is fast."""

from dataclasses import dataclass
from typing import ClassVar

from zoo.data.base_config import ItemDataSettings


@dataclass(frozen=True, kw_only=True)
class ContactMapSettings(ItemDataSettings):
    """Alignments of protein families with contact maps.

    Attributes:
        name: Dataset: `synthetic` (families sampled from Potts models; also `auto`), or a folder with an alignment
            (.a3m .sto .afa, also .gz) and a contact map of the same name (.npy .npz .txt) for each family, directly or
            in sub-folders `train` and optionally `validation` and `test`.
        data_dir: Folder of the files of a dataset with a card; there is none for alignments.
        max_sequences: Maximum number of sequences of an alignment. Of larger ones the query and others at random are
            taken: in training other ones in every epoch.
        min_separation: Pairs of residues that are fewer than this many places apart along the chain are neither
            learned nor scored: their contacts follow from the chain.
        long_range: Pairs that are at least so many places apart are long range, whose precision is logged. For whole
            proteins 24 is usual.
        group_by_length: Group families of similar length into the same batch.
    """

    smallest_batch: ClassVar[int] = 1
    batch_size: int = 8
    max_sequences: int = 64
    min_separation: int = 6
    long_range: int = 12
    group_by_length: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(1, "max_sequences", "min_separation")
        if self.long_range < self.min_separation:
            raise ValueError(f"long_range={self.long_range}: expected at least min_separation={self.min_separation}")
