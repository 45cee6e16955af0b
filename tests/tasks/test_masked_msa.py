"""Masked MSA prediction: which residues are masked, by what, and the frequencies beside a model, by hand."""

import pytest
import torch

import zoo
from zoo.preprocessing.alignment import GAP, MASK
from zoo.tasks.contacts import ContactTask
from zoo.tasks.masked_msa import PSEUDOCOUNT, column_log_frequencies, mask_msa, masked_losses


def batch(rows=2, sequences=40, residues=50):
    """Random alignments; the last of each two has padding by sequences and residues."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(rows, sequences, residues, dtype=torch.long)
    mask[1::2, 30:], mask[1::2, :, 45:] = 0, 0
    msa = torch.randint(20, mask.shape, generator=generator).masked_fill(mask == 0, GAP)
    return {"msa": msa, "msa_mask": mask, "attention_mask": mask[:, 0], "index": torch.tensor([7, 3])[:rows]}


def test_fractions_of_what_is_masked():
    given = batch()
    msa, labels = mask_msa(given, 0.15, 0, 4)
    selected = labels != -100
    assert not selected[given["msa_mask"] == 0].any() and torch.equal(labels[selected], given["msa"][selected])
    assert torch.equal(msa[~selected], given["msa"][~selected])
    assert selected.sum() / given["msa_mask"].sum() == pytest.approx(0.15, abs=0.02)
    assert (msa[selected] == MASK).float().mean() == pytest.approx(0.7, abs=0.06)
    assert (msa[selected] == labels[selected]).float().mean() == pytest.approx(0.1 + 0.2 / 20, abs=0.04)
    alone = {name: x[1:] for name, x in given.items()}
    assert torch.equal(mask_msa(alone, 0.15, 0, 4)[0], msa[1:])  # a function of the index
    assert not torch.equal(mask_msa(given, 0.15, 0, 5)[0], msa) and not torch.equal(mask_msa(given, 0.15, 1, 4)[0], msa)


def test_frequencies_are_of_what_is_shown_in_a_column():
    msa = torch.tensor([[[0, 1], [0, MASK], [2, 1]]])
    found = column_log_frequencies({"msa": msa}).exp()
    everywhere = torch.ones(MASK + 1)
    everywhere[[0, 1, 2]] += torch.tensor([2.0, 2.0, 1.0])
    everywhere /= everywhere.sum()
    assert found.shape == (1, 3, 2, MASK + 1) and torch.equal(found[0, 0], found[0, 2])
    assert found[0, 0, 0, 0].item() == pytest.approx((2 + PSEUDOCOUNT * everywhere[0].item()) / (3 + PSEUDOCOUNT))
    assert found[0, 0, 1, 1].item() == pytest.approx((2 + PSEUDOCOUNT * everywhere[1].item()) / (2 + PSEUDOCOUNT))


def test_the_loss_of_contacts_has_the_masked_residues_added():
    """By hand, from the linear layer of the head; a model without it says so."""
    small = dict(width=8, heads=2, pair_width=8, pair_heads=2, outer_width=4, depth=1)
    model = zoo.create_model("evoformer_nano", masked_msa=True, vocab_size=23, **small)
    given = batch(sequences=6, residues=12) | {"epoch": 2}
    given["contacts"] = torch.randint(2, (2, 12, 12), generator=torch.Generator().manual_seed(1)).to(torch.int8)
    plain, both = (ContactTask(model, masked_msa_weight=weight, mask_probability=0.3) for weight in (0.0, 2.0))
    msa, labels = mask_msa(given, 0.3, 0, 2)
    _, logits = model(msa, given["msa_mask"], given["attention_mask"], return_msa_logits=True)
    assert logits.shape == (2, 6, 12, 23)
    each = masked_losses(logits, labels)
    assert each.tolist() == pytest.approx([torch.tensor(23.0).log().item()] * len(each))  # the layer begins with zeros
    expected = plain.loss_of(given | {"msa": msa}, 0, 0) + 2 * each.mean()
    assert both.loss_of(given, 0, 0).item() == pytest.approx(expected.item(), rel=1e-5)
    hidden = model.encode(msa, given["msa_mask"], given["attention_mask"], return_msa=True)[-1]
    torch.nn.init.normal_(model.masked_msa.weight)
    found = model(msa, given["msa_mask"], given["attention_mask"], return_msa_logits=True)[1]
    assert torch.allclose(found, hidden @ model.masked_msa.weight.T + model.masked_msa.bias, atol=1e-5)
    # an alignment counts by its pairs, in one batch as in micro-batches of a step
    given["contacts"][1, :5] = -1
    each = {name: [x[:1], x[1:]] if isinstance(x, torch.Tensor) else [x, x] for name, x in given.items()}
    alone = [both.loss_of(dict(zip(each, values)), 0, 0).item() for values in zip(*each.values())]
    pairs = [int((x >= 0).triu(6).sum()) for x in given["contacts"]]
    expected = sum(loss * count for loss, count in zip(alone, pairs)) / sum(pairs)
    assert alone[0] != alone[1] and pairs[0] != pairs[1]
    assert both.loss_of(given, 0, 0).item() == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="no head for masked residues"):
        zoo.create_model("evoformer_nano", **small)(msa.clamp(max=21), return_msa_logits=True)
    with pytest.raises(ValueError, match="vocab_size=22: masked_msa=True needs the mask"):
        zoo.create_model("evoformer_nano", masked_msa=True)
