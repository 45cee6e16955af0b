"""Next and hidden tokens: which count, which are hidden, and that a step is a pure function of its keys."""

import copy
import math
from typing import Any

import lightning as L
import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader

import zoo
from zoo.nn.heads import LMHead
from zoo.tasks import CausalLMTask, MaskedLMTask
from zoo.tasks.language_modeling import first_true, most_selected, output_layer
from zoo.tasks.lora import add_lora
from zoo.tasks.weighted_mean import WeightedMean

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


def test_batches_count_by_their_items() -> None:
    mean = WeightedMean()
    for values, weight in ((torch.tensor(2.0), torch.tensor(3)), (torch.tensor(0.0), 0), (torch.tensor([6.0, 8.0]), 1)):
        mean.update(values, weight)
    assert float(mean.compute()) == pytest.approx((3 * 2 + 6 + 8) / 5)


def test_perplexity_is_the_exponential_of_the_loss() -> None:
    model = zoo.create_model("gpt_nano", seed=0, vocab_size=50, width=16, depth=1, heads=2, max_length=16).eval()
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    loader = DataLoader([0], batch_size=None, collate_fn=lambda _: batch([0, 1]))  # type: ignore[arg-type]
    trainer.validate(CausalLMTask(model, lr=1e-3), loader, verbose=False)
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert found["val_perplexity"] == pytest.approx(math.exp(found["val_loss"]))
    assert set(found) == set(CausalLMTask(model).validation_metrics)


def decoder() -> zoo.Model:
    return zoo.create_model("gpt_nano", seed=0, vocab_size=50, width=16, depth=1, heads=2, max_length=16).eval()


@pytest.mark.parametrize("task", [CausalLMTask(decoder()), "masked"], ids=["causal", "masked"])
def test_the_loss_from_hidden_states_is_that_of_the_logits(encoder: zoo.Model, task: Any) -> None:
    """A hook on the head asks for a call of the head; both give the same loss and gradients."""
    task = masked(encoder) if task == "masked" else task
    given, found = batch([0, 1, 2, 3]), []
    for whole in (False, True):
        hook = task.model.head.register_forward_hook(lambda *_: None) if whole else None
        assert (output_layer(task.model) is None) == whole
        loss = task.loss_of(given, 0, 0)
        weights = [p for p in task.model.parameters() if p.requires_grad]
        found.append([loss, *torch.autograd.grad(loss, weights, allow_unused=True)])
        if hook is not None:
            hook.remove()
    for ours, theirs in zip(*found, strict=True):
        assert (ours is None) == (theirs is None)
        assert ours is None or torch.allclose(ours, theirs, rtol=1e-4, atol=1e-7)


def test_which_models_have_an_output_layer() -> None:
    model = decoder()
    assert output_layer(model) is model.head.proj  # type: ignore[union-attr]
    assert output_layer(torch.nn.Linear(2, 2)) is None

    class Own(type(model)):  # type: ignore[misc]
        def forward(self, *args: Any, **batch: Any) -> torch.Tensor:
            return super().forward(*args, **batch) * 2

    own, compiled, adapted, head, hooked = (decoder() for _ in range(5))
    own.__class__ = Own
    compiled.compile(backend="eager")
    add_lora(adapted, targets=("proj",))
    head.head = type("OwnHead", (LMHead,), {})(16, 50)
    hooked.head.proj.register_forward_hook(lambda *_: None)  # type: ignore[union-attr]
    for other in (own, compiled, adapted, head, hooked):
        assert output_layer(other) is None
    blocks = decoder()
    blocks.blocks[0].compile(backend="eager")
    assert output_layer(blocks) is not None


def test_rows_of_a_gpu_are_those_of_the_selection(encoder: zoo.Model) -> None:
    """Its number of rows is known beforehand; those beyond the selection have no label."""
    task, given = masked(encoder), batch(list(range(6)))
    selected = task.mask_tokens(given, 1)[1]
    rows = first_true(selected.flatten(), 40)
    number = int(selected.sum())
    assert number < 40 and torch.equal(rows[:number], selected.flatten().nonzero()[:, 0])
    loss = task.loss_of(given, 0, 0)
    task.selected_rows = lambda selected, _: first_true(selected.flatten(), 40)  # type: ignore[method-assign]
    assert len(task.losses(encoder, given, 1)) == number
    assert torch.allclose(task.loss_of(given, 0, 0), loss)


def test_more_selected_tokens_than_the_limit_are_an_error() -> None:
    values = torch.arange(6) % 2 == 1
    assert first_true(values, 3).tolist() == [1, 3, 5]
    with pytest.raises(RuntimeError, match="more than 2 tokens are selected: lower mask_probability="):
        first_true(values, 2)


@pytest.mark.parametrize("probability", [0.001, 0.15, 0.9])
def test_the_limit_of_selected_tokens_is_never_reached(encoder: zoo.Model, probability: float) -> None:
    task = masked(encoder, mask_probability=probability)
    for rows, tokens in ((1, 4), (500, 2), (40, 60)):
        given = batch(list(range(rows)), tokens)
        limit = most_selected(probability, rows, tokens)
        assert task.mask_tokens(given, 0)[1].sum() <= min(limit, rows * tokens)
    assert most_selected(0.15, 64, 512) < 0.2 * 64 * 512


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_nothing_waits_for_a_gpu(encoder: zoo.Model) -> None:
    tasks = [CausalLMTask(decoder()).cuda(), masked(copy.deepcopy(encoder)).cuda()]
    for task in tasks:
        given = {key: x.cuda() for key, x in batch([0, 2]).items() if key != "attention_mask"}
        expected = task.cpu().loss_of({key: x.cpu() for key, x in given.items()}, 0, 0)
        task.cuda()
        given["epoch"] = torch.tensor(1)
        task.loss_of(given, 0, 0)
        torch.cuda.set_sync_debug_mode("error")
        try:
            loss = task.loss_of(given, 0, 0)
            loss.backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert torch.allclose(loss.cpu(), expected, rtol=1e-4)
