"""Schedule, parameter groups, freezing, moving average."""

from itertools import pairwise

import pytest
import torch
from torch import nn

import zoo
from zoo.tasks.ema import EMA, _move, averaged_copy
from zoo.tasks.optimizer import adamw, freeze, param_groups
from zoo.tasks.schedule import warmup_cosine


class Front(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, 4, 2)
        self.cls = nn.Parameter(torch.zeros(4))
        self.positions = nn.Parameter(torch.zeros(5, 4))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(4)
        self.q = nn.Linear(4, 4)
        self.talk = nn.Parameter(torch.zeros(2, 2))  # a matrix of somebody's own core
        self.gamma = nn.Parameter(torch.zeros(4))


class Tree(nn.Module):
    def __init__(self, depth: int = 3) -> None:
        super().__init__()
        self.patches = Front()
        self.tokens = nn.Embedding(7, 4)
        self.blocks = nn.ModuleList(Block() for _ in range(depth))
        self.blocks.add_module("norm", nn.LayerNorm(4))
        self.head = nn.Linear(4, 2)


def by_name(model: nn.Module, groups: list[dict]) -> dict[str, dict]:
    where = {id(p): group for group in groups for p in group["params"]}
    return {name: where[id(p)] for name, p in model.named_parameters() if id(p) in where}


def test_who_decays() -> None:
    model = Tree()
    groups = by_name(model, param_groups(model, 1.0, 0.1))
    decays = {name for name, group in groups.items() if group["weight_decay"]}
    assert decays == {"patches.proj.weight", "head.weight"} | {
        f"blocks.{i}.{n}" for i in range(3) for n in ("q.weight", "talk")
    }
    assert len(groups) == len(list(model.parameters()))


def test_what_a_module_excludes_does_not_decay() -> None:
    model = Tree()
    model.blocks[0].no_weight_decay = ("talk",)
    groups = by_name(model, param_groups(model, 1.0, 0.1))
    assert not groups["blocks.0.talk"]["weight_decay"] and groups["blocks.1.talk"]["weight_decay"]


def test_layer_decay_falls_from_head_to_front_end() -> None:
    model = Tree()
    lr = {name: group["lr"] for name, group in by_name(model, param_groups(model, 1.0, 0.1, 0.5)).items()}
    assert lr["head.weight"] == lr["blocks.norm.weight"] == 1.0
    assert [lr[f"blocks.{i}.q.weight"] for i in (2, 1, 0)] == [0.5, 0.25, 0.125]
    assert lr["patches.proj.weight"] == lr["tokens.weight"] == lr["patches.cls"] == 0.0625


def test_layer_decay_in_two_towers_of_different_depth() -> None:
    model = nn.ModuleDict({"image": Tree(3), "text": Tree(2)})
    lr = {name: group["lr"] for name, group in by_name(model, param_groups(model, 1.0, 0.1, 0.5)).items()}
    assert lr["image.blocks.0.q.weight"] == 0.125 and lr["text.blocks.0.q.weight"] == 0.25
    assert lr["image.tokens.weight"] == 0.0625 and lr["text.tokens.weight"] == 0.125


def test_tied_parameters_are_listed_once() -> None:
    model = Tree()
    model.head.weight = model.blocks[0].q.weight
    listed = [p for group in param_groups(model, 1.0, 0.1) for p in group["params"]]
    assert len(listed) == len(set(listed))


def test_layer_decay_needs_blocks() -> None:
    with pytest.raises(ValueError, match=r"blocks\.N"):
        param_groups(nn.Linear(2, 2), 1.0, 0.1, 0.9)


def test_freeze_by_prefix_name_and_glob() -> None:
    model = Tree()
    frozen = freeze(model, ["patches", "blocks.0", "blocks.*.norm1.weight", "head.bias"])
    assert {n for n, p in model.named_parameters() if not p.requires_grad} == set(frozen)
    assert "blocks.0.q.weight" in frozen and "blocks.1.norm1.weight" in frozen and "blocks.1.q.weight" not in frozen
    assert not {id(p) for g in param_groups(model, 1.0, 0.1) for p in g["params"]} & {
        id(p) for n, p in model.named_parameters() if n in frozen
    }


def test_freeze_says_what_it_does_not_find() -> None:
    with pytest.raises(ValueError, match="'patch' matches no parameter; did you mean 'patches'"):
        freeze(Tree(), ["patch"])
    with pytest.raises(ValueError, match="nothing to train"):
        freeze(Tree(), ["*"])


def test_warmup_then_cosine() -> None:
    values = [warmup_cosine(i, steps=101, warmup=10, final=0.1) for i in range(120)]
    assert values[0] == 0.1 and values[9] == 1.0 and values[10] == 1.0
    assert values[55] == pytest.approx(0.55) and values[100] == pytest.approx(0.1) and values[119] == pytest.approx(0.1)
    assert all(a >= b for a, b in pairwise(values[10:]))
    assert warmup_cosine(0, steps=1) == 1.0


def test_adamw_is_fused_and_keeps_the_groups_rates() -> None:
    model = Tree()
    optimizer = adamw(param_groups(model, 1.0, 0.1, 0.5), (0.8, 0.9), 1e-6)
    assert all(
        group["fused"] and group["betas"] == (0.8, 0.9) and group["eps"] == 1e-6 for group in optimizer.param_groups
    )
    assert sorted({group["lr"] for group in optimizer.param_groups}) == [0.0625, 0.125, 0.25, 0.5, 1.0]


def test_eps_reaches_the_step() -> None:
    """The first step of Adam is lr * gradient / (|gradient| + eps)."""
    model = nn.Linear(1, 1, bias=False)
    before = model.weight.item()
    optimizer = adamw(param_groups(model, 0.5, 0.0), eps=3.0)
    model.weight.grad = torch.tensor([[2.0]])
    optimizer.step()
    assert before - model.weight.item() == pytest.approx(0.5 * 2.0 / (2.0 + 3.0), rel=1e-5)


def test_the_average_warms_up() -> None:
    """Of the initial weights little is left after the first steps: d is 1/10, 2/11, ... until `decay` is less."""
    model = nn.Linear(2, 2)
    average = averaged_copy(model)
    follower = EMA(average, model, 0.15)
    expected = average.weight.clone()
    for step, decay in enumerate((1 / 10, 0.15, 0.15)):
        with torch.no_grad():
            model.weight.add_(1.0)
        follower.update(step)
        expected = decay * expected + (1 - decay) * model.weight
        torch.testing.assert_close(average.weight, expected)


def test_the_average_follows_its_formula() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    average = averaged_copy(model)
    follower = EMA(average, model, 0.9)
    expected = average[0].weight.clone()
    for step in range(200):
        with torch.no_grad():
            model[0].weight.add_(torch.randn(3, 3))
            model[1].running_mean.add_(1.0)
        follower.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model[0].weight
    torch.testing.assert_close(average[0].weight, expected)
    assert torch.equal(average[1].running_mean, model[1].running_mean)
    assert not any(p.requires_grad for p in average.parameters())


@pytest.mark.parametrize("name", ["bert_tiny", "wav2vec2_tiny"])
def test_norms_of_the_front_end_are_at_the_front(name: str) -> None:
    """They are named as the norm above the blocks is."""
    model = zoo.create_model(name, seed=0, width=32, depth=2, heads=4, head="pool")
    rates = {id(p): group["lr"] for group in param_groups(model, 1.0, 0.05, 0.5) for p in group["params"]}
    front = {rates[id(p)] for key, p in model.named_parameters() if key.startswith(("tokens.", "waves."))}
    assert front == {0.5**3}


@pytest.mark.parametrize("taken", [True, False])
def test_the_moving_average_in_few_kernels_is_that_by_lerp(taken: bool) -> None:
    """The form for GPUs; a skipped step changes nothing in either."""
    generator = torch.Generator().manual_seed(0)
    trained = [torch.randn(5, 3, generator=generator), torch.randn(7, generator=generator)]
    start = [torch.randn_like(x) for x in trained]
    weight = torch.tensor(taken).float() * 0.3
    moved = []
    for fused in (True, False):
        averaged = [x.clone() for x in start]
        _move(list(zip(averaged, trained, strict=True)), weight, fused=fused)
        moved.append(averaged)
    for one, other, before, after in zip(*moved, start, trained, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(one, before + 0.3 * taken * (after - before), rtol=1e-6, atol=1e-6)
        assert taken or torch.equal(one, before)
