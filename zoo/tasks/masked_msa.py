"""Masked MSA prediction: residues of an alignment that are masked, and their frequencies as a prediction."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.nn.losses.cross_entropy import IGNORED
from zoo.preprocessing.alignment import MASK
from zoo.tasks.functions import at_least_float32
from zoo.utils.keyed_random import KeyedRandom

RESIDUES = 20
PSEUDOCOUNT = 10.0  # sequences with the frequencies of all columns, which are added to those of a column


def mask_msa(batch: Mapping[str, Any], probability: float, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
    """(the alignment with masked residues, labels), each int64 [B, S, N]; labels are -100 where nothing was selected.

    Of the residues, gaps included, a fraction `probability` is selected: 70 % become the mask, 10 % a random residue,
    10 % that of a random sequence at the same place, 10 % stay (Jumper et al. 2021, supplement, section 1.2.7). The
    selection is a function of (seed, epoch, `index` of the batch).
    """
    msa: Tensor = batch["msa"]
    real = real_residues(batch)
    rows, columns = (torch.arange(size, device=msa.device) for size in msa.shape[1:])
    index = batch["index"] if "index" in batch else torch.arange(len(msa), device=msa.device)
    random = KeyedRandom(seed, epoch, (index[:, None, None] << 40) + (rows[:, None] << 20) + columns)
    selected = real & (random.uniform("masked") < probability)
    how = random.uniform("masked/how")
    count = real.any(2).sum(1)[:, None, None]  # sequences, which stand before the padding
    others = msa.gather(1, (random.uniform("masked/sequence") * count).long())
    new = torch.where(how < 0.7, torch.full_like(msa, MASK), random.integers("masked/residue", RESIDUES))
    new = torch.where(how >= 0.8, others, new)
    new = torch.where(how >= 0.9, msa, new)
    return torch.where(selected, new, msa), msa.masked_fill(~selected, IGNORED)


def real_residues(batch: Mapping[str, Any]) -> Tensor:
    """bool [B, S, N], False at padding."""
    real = torch.ones_like(batch["msa"], dtype=torch.bool)
    if "msa_mask" in batch:
        real = real & batch["msa_mask"].bool()
    return real & batch["attention_mask"][:, None].bool() if "attention_mask" in batch else real


def masked_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Losses [K] of the residues that were selected. logits: [B, S, N, 23]."""
    selected = labels != IGNORED
    return F.cross_entropy(at_least_float32(logits[selected]), labels[selected], reduction="none")


def means_of_alignments(losses: Tensor, labels: Tensor) -> Tensor:
    """Mean [B] of the `masked_losses` [K] of each alignment, 0 where nothing was selected. labels: [B, S, N]."""
    selected = labels != IGNORED
    totals = losses.new_zeros(len(labels)).index_add(0, selected.nonzero()[:, 0], losses)
    return totals / selected.sum((1, 2)).clamp(min=1)


def column_log_frequencies(batch: Mapping[str, Any]) -> Tensor:
    """Logits [B, S, N, 23] of a prediction without a model: the frequencies of each column of each alignment.

    batch: with the masked alignment; masks are not counted, nor is padding.
    """
    msa, shown = batch["msa"], real_residues(batch) & (batch["msa"] != MASK)
    counts = (F.one_hot(msa, MASK + 1).double() * shown[..., None]).sum(1)  # B N 23
    everywhere = counts.sum(1, keepdim=True) + 1
    counts = counts + PSEUDOCOUNT * everywhere / everywhere.sum(-1, keepdim=True)
    found = (counts / counts.sum(-1, keepdim=True)).log()
    return found[:, None].expand(-1, msa.shape[1], -1, -1)
