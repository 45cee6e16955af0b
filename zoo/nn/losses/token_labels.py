"""Labels of language models: the token that follows each token, and what the decoder reads to predict its labels."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from zoo.nn.losses.cross_entropy import IGNORED


def real_tokens(batch: Mapping[str, Any]) -> Tensor | None:
    """[B, N], False at padding; None if the batch marks no padding."""
    if (documents := batch.get("document_ids")) is not None:
        return documents >= 0
    return None if (keep := batch.get("attention_mask")) is None else keep.bool()


def next_tokens(batch: Mapping[str, Any]) -> Tensor:
    """The token that follows each one of `input_ids` [B, N] in its row or packed document; -100 where none does."""
    ids = batch["input_ids"]
    labels = torch.full_like(ids, IGNORED, dtype=torch.long)
    if (document_ids := batch.get("document_ids")) is not None:
        order, follows = by_document(document_ids)
        labels.view(-1)[order[:-1]] = ids.flatten()[order[1:]].long().masked_fill(~follows, IGNORED)
        return labels
    labels[:, :-1] = ids[:, 1:]
    if (real := real_tokens(batch)) is not None:
        labels[:, :-1].masked_fill_(~(real[:, 1:] & real[:, :-1]), IGNORED)
    return labels


def follows(labels: Tensor, ids: Tensor) -> bool:
    """Whether labels [B, N] are not the ids themselves; False for one token, repeated, which does not show it.

    Raises: ValueError for labels that are a copy of the ids.
    """
    ignored = labels == IGNORED
    if not ((labels == ids) | ignored).all():
        return True
    if ((labels[:, :-1] == ids[:, 1:]) | ignored[:, :-1]).all():
        return False
    raise ValueError(
        "labels are a copy of input_ids; expected is the token that follows each position, or the model learns to "
        "repeat its input. Omit labels, and they are made of input_ids; or give "
        "input_ids=ids[:, :-1] and labels=ids[:, 1:]. (Models of transformers take a copy and shift it themselves.)"
    )


def by_document(document_ids: Tensor) -> tuple[Tensor, Tensor]:
    """(indices [B * N] of all tokens, document by document; for all but the first whether it is in the document of the
    one before, [B * N - 1]); padding comes first, and is in no document."""
    rows = torch.arange(len(document_ids), device=document_ids.device)[:, None]
    keys = torch.where(document_ids >= 0, rows * (document_ids.max() + 1) + document_ids, -1).flatten()
    order = keys.argsort(stable=True)
    keys = keys[order]
    return order, (keys[1:] == keys[:-1]) & (keys[1:] >= 0)


def shift_right(labels: Tensor, start_id: int, pad_id: int) -> Tensor:
    """Tokens that the decoder reads to predict `labels` [B, T]: the start token, then all labels but the last one."""
    ids = torch.cat([labels.new_full((len(labels), 1), start_id), labels[:, :-1]], 1)
    return ids.masked_fill_(ids == IGNORED, pad_id)
