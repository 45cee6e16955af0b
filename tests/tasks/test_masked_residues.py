"""The frequencies of residues beside a language model of proteins, by hand."""

import math

import pytest
import torch

from zoo.tasks.masked_residues import PSEUDOCOUNT, SiteFrequencies


def test_frequencies_of_sites_and_of_everything():
    rows = [torch.tensor([0, 1, 2]), torch.tensor([0, 1, 1]), torch.tensor([2, 2])]
    everywhere = torch.tensor([2 + 1, 3 + 1, 3 + 1, 0 + 1]) / 12
    found = SiteFrequencies(rows, [], 4).log_probabilities(torch.tensor([0, 0]), 5)
    assert found.shape == (2, 5, 4) and torch.allclose(found[1, 4].exp().float(), everywhere)
    table = SiteFrequencies(rows, [0, 0, 1], 4)
    found = table.log_probabilities(torch.tensor([1, 0]), 2).exp()
    assert found[1, 0, 0].item() == pytest.approx((2 + PSEUDOCOUNT * 3 / 12) / (2 + PSEUDOCOUNT))
    assert found[0, 1, 2].item() == pytest.approx((1 + PSEUDOCOUNT * 4 / 12) / (1 + PSEUDOCOUNT))
    assert torch.allclose(found.sum(-1), torch.ones(2, 2, dtype=found.dtype))


def test_the_loss_is_over_the_masked_residues_of_each_family():
    import zoo
    from zoo.tasks.masked_residues import MaskedResidueTask

    model = zoo.create_model("esm2_t6_8m", width=16, depth=1, heads=2)
    table = SiteFrequencies([torch.tensor([0, 5, 2])] * 3 + [torch.tensor([0, 6, 2])], [0, 0, 0, 1], 33)
    task = MaskedResidueTask(model, mask_id=32, special=(0, 1, 2), frequencies=table, families=torch.tensor([1, 0]))
    batch = {"labels": torch.tensor([[-100, 5, -100], [-100, 6, -100]]), "index": torch.tensor([1, 0])}
    chances = table.table.exp()[[0, 1], 1, [5, 6]]
    assert task.frequency_losses(batch, table).tolist() == pytest.approx([-math.log(p) for p in chances])
