"""Precision of contacts by hand, the pairs that are learned, and the methods without a model beside it."""

import math

import lightning as L
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from zoo.tasks.contacts import ContactPrecision, ContactTask, FamilyPrecision, gap_closed, top_precision


class Given(nn.Module):
    """Gives the logits of the batch."""

    inputs = ("logits",)

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(()))

    def forward(self, logits):
        return logits + self.shift


def ranked(size, pairs):
    """Scores [N, N] with these pairs first, in this order."""
    scores = torch.zeros(size, size)
    for rank, (i, j) in enumerate(pairs):
        scores[i, j] = scores[j, i] = len(pairs) - rank
    return scores


def map_of(size, pairs, unknown=()):
    contacts = torch.zeros(size, size, dtype=torch.int8)
    for value, places in ((1, pairs), (-1, unknown)):
        for i, j in places:
            contacts[i, j] = contacts[j, i] = value
    return contacts


def test_precision_at_fractions_of_the_length():
    """Ten residues: the best 2, 5 and 10 pairs, of which near and unknown ones do not count."""
    scores = ranked(10, [(0, 1), (0, 9), (1, 9), (2, 9), (0, 6), (1, 7), (3, 9), (0, 7)])
    contacts = map_of(10, [(0, 1), (0, 9), (0, 6), (3, 9)], unknown=[(1, 9)])
    # in order: (0, 9) yes, (2, 9) no, (0, 6) yes, (1, 7) no, (3, 9) yes, (0, 7) no, and the 3 others of 9 known pairs
    found = top_precision(scores, contacts, 6).tolist()
    assert found == pytest.approx([1 / 2, 3 / 5, 3 / 9])
    assert top_precision(scores, map_of(10, [(0, 1)]), 6).isnan().all()


def test_metric_is_the_mean_over_proteins_with_contacts():
    scores = torch.stack([ranked(10, [(0, 9), (1, 9)])] * 3)
    contacts = torch.stack([map_of(10, [(0, 9), (1, 9)]), map_of(10, [(0, 9)]), map_of(10, [])])
    metric = ContactPrecision(6)
    metric.update(scores, contacts)
    assert metric.compute()["precision_l5"] == pytest.approx((1 + 1 / 2) / 2)
    padded = F.pad(scores, (0, 3, 0, 3), value=99.0), F.pad(contacts, (0, 3, 0, 3), value=-1)
    other = ContactPrecision(6)
    other.update(*padded, torch.tensor([10, 10, 10]))
    assert other.compute() == metric.compute()
    metric.reset()
    metric.update(scores[2:], contacts[2:])
    assert math.isnan(metric.compute()["precision_l"])


def test_loss_is_over_known_pairs_that_are_apart():
    logits = torch.randn(2, 9, 9, generator=torch.Generator().manual_seed(0))
    contacts = torch.stack([map_of(9, [(0, 8), (0, 2)], unknown=[(1, 8)]), map_of(9, [], unknown=[(0, 7)])])
    task = ContactTask(Given(), min_separation=7, long_range=7)
    loss = task.loss_of({"logits": logits, "contacts": contacts}, 0, 0)
    kept = [(0, 0, 7, 0.0), (0, 0, 8, 1.0), (1, 0, 8, 0.0), (1, 1, 8, 0.0)]
    expected = [F.binary_cross_entropy_with_logits(logits[b, i, j], torch.tensor(y)) for b, i, j, y in kept]
    assert loss.item() == pytest.approx(torch.stack(expected).mean().item())
    with pytest.raises(ValueError, match=r"needs logits \[B, N, N\].*head='contacts'"):
        task.loss_of({"logits": logits[..., 0], "contacts": contacts}, 0, 0)
    with pytest.raises(ValueError, match="min_separation=9, long_range=8"):
        ContactTask(Given(), min_separation=9, long_range=8)


def test_baselines_see_the_same_sequences(tmp_path):
    """Columns 0 and 8 are equal, all others independent; padding by sequences and residues is left out."""
    generator = torch.Generator().manual_seed(0)
    msa = torch.randint(0, 20, (1, 300, 11), generator=generator)
    msa[..., 8] = msa[..., 0]
    msa[:, 200:], msa[:, :, 10:] = 21, 21
    mask = torch.zeros_like(msa)
    mask[:, :200, :10] = 1
    contacts = F.pad(map_of(10, [(0, 8)]), (0, 1, 0, 1), value=-1)[None]
    batch = {"msa": msa, "msa_mask": mask, "attention_mask": mask[:, 0], "contacts": contacts}
    batch |= {"logits": torch.zeros(1, 11, 11), "index": torch.tensor([5])}
    task = ContactTask(Given(), min_separation=6, long_range=6)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
                        enable_model_summary=False, default_root_dir=tmp_path)  # fmt: skip
    trainer.test(task, torch.utils.data.DataLoader([batch], batch_size=None), verbose=False)
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert found["test_mutual_information_precision_l5"] == found["test_mean_field_dca_precision_l5"] == 0.5
    (family,) = task.tested
    assert (family.index, family.residues, family.sequences) == (5, 10, 200)
    assert found["test_loss"] == pytest.approx(math.log(2))


def test_gap_is_over_families_that_mutual_information_partly_explains():
    rows = [(0.1, 1.0), (0.2, 0.6), (0.5, 0.8), (0.7, 0.0)]
    tested = [FamilyPrecision(i, 30, 8, {"mutual_information": (before,), "model": (after,)})
              for i, (before, after) in enumerate(rows)]  # fmt: skip
    assert gap_closed(tested) == pytest.approx((2, 0.35, 0.7))
    assert gap_closed(tested[:1])[0] == 0
