"""The images (or audio clips) of one text apart: their inputs, and what the encoder and the connector make of each."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.models.bridge.cross import CrossFeatures
from zoo.models.bridge.features import real_features


@dataclass(frozen=True)
class Item:
    """An image or a clip: the inputs of the encoder for it alone, without padding, and a digest of these."""

    inputs: Mapping[str, Tensor]
    digest: bytes

    @classmethod
    def of(cls, inputs: Mapping[str, Tensor]) -> "Item":
        digest = hashlib.blake2b(digest_size=16)
        for name, tensor in inputs.items():
            plain = tensor.detach().cpu().contiguous()
            digest.update(f"{name} {plain.dtype} {list(plain.shape)}".encode())
            digest.update(plain.view(-1).view(torch.uint8).numpy().data)
        return cls(inputs, digest.digest())


def split_items(batch: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """The inputs of each item of a batch, whose first dimension they have; clips end where their attention_mask does.

    The name of the mask among the inputs of a bridge ends with "attention_mask".
    """
    masks = [mask for name, mask in batch.items() if name.endswith("attention_mask")]
    found = []
    for row in range(len(next(iter(batch.values())))):
        own = {name: x[row : row + 1] for name, x in batch.items()}
        if masks:
            length = masks[0].shape[1]
            if not masks[0][row].any():
                raise ValueError(
                    f"the attention mask of item {row} has zeros alone: expected at least one sample or frame that is "
                    "not padding; leave an item without any out"
                )
            end = int(masks[0][row].nonzero().max()) + 1
            own = {name: x[:, :end] if x.shape[1:2] == (length,) else x for name, x in own.items()}
            own = {name: x for name, x in own.items() if not (name.endswith("attention_mask") and x.all())}
        found.append(own)
    return found


def join_features(items: Sequence[Any]) -> Any:
    """The features of several items, of those of each: one after the other, or `CrossFeatures` of them."""
    if not isinstance(items[0], CrossFeatures):
        return torch.cat(list(items))
    lengths = torch.tensor([each.values.shape[1] for each in items])
    longest = int(lengths.max())
    values = [torch.nn.functional.pad(each.values, (0, 0, 0, longest - each.values.shape[1])) for each in items]
    joined = torch.cat(values)
    keep = None if (lengths == longest).all() else real_features(joined, lengths.to(joined.device))
    return CrossFeatures(joined, keep)
