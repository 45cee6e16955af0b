"""Packed documents: several per row, moved to separate rows and back."""

from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.nn.lengths import AnyLengths, Lengths
from zoo.utils.transfer import to_device

PADDING = torch.iinfo(torch.int64).max  # sorts after all documents


@dataclass(frozen=True, eq=False)
class PackedDocuments:
    """Positions of the documents of packed rows [B, N]: index [D, L] into B * N, keep [D, L] True at tokens.

    source, place [T]: of each token, its position in B * N and in D * L. lengths: tokens of each document.
    """

    shape: torch.Size
    index: Tensor
    keep: Tensor
    source: Tensor
    place: Tensor
    lengths: Lengths

    @classmethod
    def of(cls, ids: Tensor, lengths: AnyLengths | None = None, *, trust: bool = False) -> "PackedDocuments":
        """From ids [B, N], the document number of each token, negative at padding. Sorted by row, then by number.

        lengths: the number of tokens of each document, on the host; without them the host waits for the device. trust:
        do not compare them with ids on a GPU, where the device asserts that they are those. Raises ValueError for other
        lengths than those of ids.
        """
        flat, rows = ids.flatten(), torch.arange(ids.numel(), device=ids.device) // ids.shape[1]
        key = torch.where(flat >= 0, rows * (ids.max() + 1) + flat, PADDING)
        key, order = key.sort(stable=True)
        numbers = None if lengths is None else Lengths(lengths.tolist() if isinstance(lengths, Tensor) else lengths)
        if numbers is None or ids.device.type == "cpu" or not trust:
            found = torch.stack(key.unique_consecutive(return_counts=True)).T.tolist()
            counted = Lengths(count for document, count in found if document != PADDING)
            if numbers is not None and numbers != counted:
                raise ValueError(
                    f"lengths: {numbers} are not the numbers of tokens of the documents in document_ids, {counted}, in "
                    "the order of the rows"
                )
            numbers = counted
        total, longest = sum(numbers), max(numbers, default=0)
        lengths = to_device(numbers, ids.device)
        keep = torch.arange(longest, device=ids.device) < lengths[:, None]
        document = torch.arange(len(numbers), device=ids.device).repeat_interleave(lengths, output_size=total)
        if ids.device.type != "cpu":
            torch._assert_async(are_documents(key, document), "lengths= must be those of the documents in document_ids")
        starts = lengths.cumsum(0) - lengths
        place = document * longest + torch.arange(total, device=ids.device) - starts[document]
        source = order[:total]
        index = torch.zeros(keep.numel(), dtype=torch.long, device=ids.device).scatter_(0, place, source)
        return cls(ids.shape, index.view(keep.shape), keep, source, place, numbers)

    def take(self, x: Tensor) -> Tensor:
        """One row per document: [B, N, ...] -> [D, L, ...]; values at padding are arbitrary."""
        return x.flatten(0, 1)[self.index]

    def put(self, y: Tensor) -> Tensor:
        """Back to packed rows: [D, L, ...] -> [B, N, ...], zeros at padding."""
        full = y.new_zeros(self.shape.numel(), *y.shape[2:])
        return full.index_copy(0, self.source, y.flatten(0, 1)[self.place]).unflatten(0, self.shape)


def are_documents(keys: Tensor, document: Tensor) -> Tensor:
    """Whether sorted keys [B * N], `PADDING` last, are equal where document [T], the number of each, is equal: a bool
    tensor."""
    own, rest = keys[: len(document)], keys[len(document) :]
    if len(own) < len(document):
        return keys.new_zeros((), dtype=torch.bool)
    same = (own[1:] == own[:-1]) == (document[1:] == document[:-1])
    return same.all() & (own != PADDING).all() & (rest == PADDING).all()
