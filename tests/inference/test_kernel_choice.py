"""The choice of candidates: never slower than the model as created, the same for the same times, bounded."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernel_timers import fake_timer, fastest
from torch import nn

from zoo.inference import kernel_choice
from zoo.inference.kernel_choice import MAX_ROUNDS, MIN_ROUNDS, SECOND_COPY, TIE, build, choose, measure
from zoo.inference.optimized_parts import Part, linear_part
from zoo.inference.packed_linear import ByRows, ConstantLinear, OneDNNLinear

CPU = torch.device("cpu")
NAMES = ("plain", "b", "c", "d")


def part(key="p", rows=(8, 512), names=NAMES):
    weight = torch.randn(4, 4)
    candidates = {name: lambda share, name=name: ConstantLinear(weight, None, None) for name in names}
    return Part(key, candidates, lambda count: torch.randn(count, 4), rows, lambda module: None, weight.numel())


times = st.sampled_from([0.5, 0.98, 0.99, 1.0, 1.01, 1.02, 1.05, 2.0])


@given(st.lists(times, min_size=8, max_size=8))
def test_the_choice_is_never_slower_than_the_model_as_created(values):
    seconds = {8: dict(zip(NAMES, values[:4], strict=True)), 512: dict(zip(NAMES, values[4:], strict=True))}
    chosen = choose({"p": part()}, {"p": seconds})["p"]
    for rows, name in chosen.items():
        assert seconds[rows][name] <= seconds[rows]["plain"]
        one_copy = len(set(chosen.values())) == 1
        assert seconds[rows][name] <= (SECOND_COPY if one_copy else TIE) * min(seconds[rows].values())


@pytest.mark.parametrize(
    ("few", "many", "expected"),
    [
        ((1.0, 0.5, 0.6, 0.7), (1.0, 0.5, 0.6, 0.7), ("b", "b")),
        ((1.0, 0.99, 1.0, 1.0), (1.0, 0.98, 0.98, 0.98), ("plain", "plain")),  # ties
        ((1.0, 0.5, 0.51, 0.9), (1.0, 0.6, 0.5, 0.9), ("c", "c")),  # one that is as good as the best for both
        ((1.0, 0.5, 0.9, 0.9), (1.0, 1.2, 1.1, 1.3), ("b", "plain")),
        ((1.0, 0.5, 0.54, 0.9), (1.0, 0.6, 0.5, 0.9), ("c", "c")),  # not two copies of the weights for a few percent
        ((1.0, 0.5, 0.8, 0.9), (1.0, 0.8, 0.5, 0.9), ("b", "c")),
        ((1.0, 1.2, 1.1, 1.3), (1.0, 1.2, 0.9, 0.8), ("plain", "d")),
        ((1.0, 0.5, 0.5, 0.5), (1.0, 0.9, 0.9, 0.9), ("b", "b")),  # the first of equals
    ],
)
def test_the_fastest_is_chosen(few, many, expected):
    seconds = {8: dict(zip(NAMES, few, strict=True)), 512: dict(zip(NAMES, many, strict=True))}
    assert choose({"p": part()}, {"p": seconds}) == {"p": dict(zip((8, 512), expected, strict=True))}


def test_a_part_with_one_candidate_is_not_measured(monkeypatch):
    trials = fastest(monkeypatch, "plain")
    parts = {"p": part(names=("plain",))}
    assert measure(parts, CPU) == {} and not trials
    assert choose(parts, {}) == {"p": {8: "plain", 512: "plain"}}


def test_candidates_take_turns_and_the_median_counts(monkeypatch):
    rounds: dict[tuple[int, str], int] = {}

    def seconds(trial):
        number = rounds[trial.rows, trial.candidate] = rounds.get((trial.rows, trial.candidate), -1) + 1
        slow_warm_up_and_a_disturbed_round = number in (0, 2)
        return 100.0 if slow_warm_up_and_a_disturbed_round else 1.0 + NAMES.index(trial.candidate)

    trials = fake_timer(monkeypatch, seconds)
    result = measure({"p": part()}, CPU)
    assert result["p"] == {rows: {name: 1.0 + i for i, name in enumerate(NAMES)} for rows in (8, 512)}
    assert [t.candidate for t in trials[:8]] == [*NAMES, *NAMES] and len(trials) == 8 * (1 + MAX_ROUNDS)


def test_the_time_is_bounded(monkeypatch):
    monkeypatch.setattr(kernel_choice, "SECONDS", 0.0)
    assert len(fastest(monkeypatch, "b")) == 0
    trials = fastest(monkeypatch, "b")
    measure({"p": part()}, CPU)
    assert len(trials) == 8 * (1 + MIN_ROUNDS) and {len(t.call()) for t in trials} == {8, 512}


def test_large_layers_are_measured_in_part(monkeypatch):
    linear = nn.Linear(512, 1 << 15)  # 16 M weights
    made = linear_part(linear, lambda module: None, "many")
    trials = fastest(monkeypatch, "onednn")
    measure({made.key: made}, CPU)
    assert {t.call().shape[-1] for t in trials[:6]} == {1 << 13}
    assert build(made, dict.fromkeys(made.row_counts, "onednn"))(torch.randn(2, 512)).shape == (2, 1 << 15)


def test_real_times_are_positive_and_leave_the_random_state():
    linear = nn.Linear(64, 64)
    made = linear_part(linear, lambda module: None, "many", "gelu")
    state = torch.get_rng_state()
    seconds = measure({made.key: made}, CPU)[made.key]
    assert torch.equal(torch.get_rng_state(), state)
    assert set(seconds) == {8, 64, 512} and all(t > 0 for each in seconds.values() for t in each.values())


def test_what_is_built():
    linear = nn.Linear(64, 64)
    made = linear_part(linear, lambda module: None, "many")
    assert build(made, {8: "plain", 64: "plain", 512: "plain"}) is None
    assert type(build(made, {8: "onednn", 64: "onednn", 512: "onednn"})) is OneDNNLinear
    either = build(made, {8: "onednn", 64: "onednn", 512: "plain"})
    assert isinstance(either, ByRows) and either.limit == 181
    assert type(either.few) is OneDNNLinear and type(either.many) is ConstantLinear
    three = build(made, {8: "onednn", 64: "plain", 512: "onednn"})
    assert three.limit == 23 and three.many.limit == 181
    assert three.few is three.many.many and type(three.many.few) is ConstantLinear


def test_a_clock_that_stands_still_leaves_the_model_as_created(monkeypatch):
    for clock in ("perf_counter", "thread_time"):
        monkeypatch.setattr(f"zoo.inference.kernel_choice.time.{clock}", lambda: 1.0)
    made = linear_part(nn.Linear(64, 64), lambda module: None, "many")
    parts = {made.key: made}
    assert choose(parts, measure(parts, CPU)) == {made.key: dict.fromkeys((8, 64, 512), "plain")}
