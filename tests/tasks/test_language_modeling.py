"""Next and hidden tokens: which count, which are hidden, and that a step is a pure function of its keys."""

import math

import lightning as L
import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader

import zoo
from zoo.tasks import CausalLMTask, MaskedLMTask

MASK, SPECIAL = 4, (0, 1, 2, 3, 4)


@pytest.fixture(scope="module")
def encoder() -> zoo.Model:
    return zoo.create_model("bert_tiny", seed=0, vocab_size=50, width=16, depth=1, heads=2, max_length=16).eval()


def batch(index: list[int], n: int = 10) -> dict[str, torch.Tensor]:
    """Rows that are a function of their number; the last tokens of odd ones are padding."""
    rows = torch.stack([torch.randint(5, 50, (n,), generator=torch.Generator().manual_seed(i)) for i in index])
    keep = torch.ones_like(rows)
    for row, i in enumerate(index):
        keep[row, n - 3 * (i % 2) :] = 0
    rows[:, 0] = 2
    return {"input_ids": rows * keep, "attention_mask": keep, "index": torch.tensor(index), "epoch": torch.tensor(1)}


def masked(encoder: zoo.Model, **options: float) -> MaskedLMTask:
    return MaskedLMTask(encoder, lr=1e-3, mask_id=MASK, special=SPECIAL, **options)  # type: ignore[arg-type]


def test_what_is_hidden_depends_on_the_text_alone(encoder: zoo.Model) -> None:
    task = masked(encoder)
    one, other = batch([3, 8, 5]), batch([5, 3])
    (hidden, chosen), (hidden2, chosen2) = (task.mask_tokens(b, 1) for b in (one, other))
    assert torch.equal(hidden[[2, 0]], hidden2) and torch.equal(chosen[[2, 0]], chosen2)
    assert not torch.equal(task.mask_tokens(one, 2)[1], chosen)
    assert torch.equal(task.mask_tokens(one, None)[0], task.mask_tokens(one, None)[0])


def test_shares(encoder: zoo.Model) -> None:
    many = batch(list(range(1000)), 60)
    hidden, chosen = masked(encoder).mask_tokens(many, 0)
    ids = many["input_ids"]
    open_ = (ids >= 5) & many["attention_mask"].bool()
    assert not (chosen & ~open_).any() and torch.equal(hidden[~chosen], ids[~chosen])
    assert abs(chosen.sum() / open_.sum() - 0.15) < 0.01
    share = [float((hidden == MASK)[chosen].float().mean()), float((hidden == ids)[chosen].float().mean())]
    assert abs(share[0] - 0.8) < 0.02 and abs(share[1] - 0.1 - 0.1 / 50) < 0.02


def test_loss_of_hidden_tokens_is_that_of_the_whole_forward(encoder: zoo.Model) -> None:
    task, given = masked(encoder), batch([0, 1, 2, 3])
    hidden, chosen = task.mask_tokens(given, 1)
    scores = encoder(input_ids=hidden, attention_mask=given["attention_mask"])
    expected = F.cross_entropy(scores[chosen], given["input_ids"][chosen])
    assert torch.allclose(task.loss_of(given, 0, 0), expected, atol=1e-5)


def test_at_least_one_token_of_a_text_is_hidden(encoder: zoo.Model) -> None:
    task = masked(encoder, mask_probability=1e-6)
    assert task.mask_tokens(batch([0, 1, 2, 3, 4]), 0)[1].sum(1).tolist() == [1] * 5
    with pytest.raises(ValueError, match="mask_probability=0"):
        masked(encoder, mask_probability=0.0)


def test_next_token_counts_what_is_real() -> None:
    model = zoo.create_model("gpt_nano", seed=0, vocab_size=50, width=16, depth=1, heads=2, max_length=16).eval()
    task, given = CausalLMTask(model, lr=1e-3), batch([0, 1])
    scores = model(input_ids=given["input_ids"], attention_mask=given["attention_mask"])
    logp = scores.log_softmax(-1)
    pairs = [(r, t) for r, n in ((0, 10), (1, 7)) for t in range(n - 1)]
    expected = -sum(logp[r, t, given["input_ids"][r, t + 1]] for r, t in pairs) / len(pairs)
    assert torch.allclose(task.loss_of(given, 0, 0), expected, atol=1e-6)  # type: ignore[arg-type]
    shifted = {"input_ids": given["input_ids"][:1, :-1], "labels": given["input_ids"][:1, 1:]}
    assert torch.allclose(task.loss_of(shifted, 0, 0), F.cross_entropy(scores[0, :-1], shifted["labels"][0]), atol=1e-6)
    assert abs(task.loss_of(shifted, 0, 0).item() - math.log(50)) < 1


def test_perplexity_is_the_exponential_of_the_loss() -> None:
    model = zoo.create_model("gpt_nano", seed=0, vocab_size=50, width=16, depth=1, heads=2, max_length=16).eval()
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    loader = DataLoader([0], batch_size=None, collate_fn=lambda _: batch([0, 1]))  # type: ignore[arg-type]
    trainer.validate(CausalLMTask(model, lr=1e-3), loader, verbose=False)
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert found["val_perplexity"] == pytest.approx(math.exp(found["val_loss"]))
    assert set(found) == set(CausalLMTask(model).validation_metrics)
