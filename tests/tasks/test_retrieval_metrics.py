"""Retrieval figures against a search by hand: ties, several captions, repeated rows, processes."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis_examples import examples
from ranks import ranks
from torch import Tensor

import zoo.tasks.retrieval_metrics
from zoo.tasks import RetrievalMetrics

torch.set_num_threads(1)


def rank_by_hand(query: Tensor, answers: Tensor, right: set[int]) -> int:
    """How far one has to read, if fate sorts ties."""
    scores = [(float(query @ answer), i) for i, answer in enumerate(answers)]
    best = max(score for score, i in scores if i in right)
    return 1 + sum(score >= best for score, i in scores if i not in right)


def figures_by_hand(a: Tensor, b: Tensor, a_ids: list[int], b_ids: list[int]) -> dict[str, float]:
    found = {}
    for name, queries, ids, answers, other in (
        ("image_to_text", a, a_ids, b, b_ids),
        ("text_to_image", b, b_ids, a, a_ids),
    ):
        places = []
        for query, own in zip(queries, ids, strict=True):
            if right := {i for i, x in enumerate(other) if x == own}:
                places.append(rank_by_hand(query, answers, right))
        t = torch.tensor(places, dtype=torch.float64)
        found |= {f"{name}_r{k}": (t <= k).double().mean().item() for k in (1, 5, 10)}
        found[f"{name}_median_rank"] = t.quantile(0.5).item()
    return found


def figures(metric: RetrievalMetrics) -> dict[str, float]:
    return {name: float(x) for name, x in metric.compute().items()}


def grid(rows: int, seed: int) -> Tensor:
    """Small integers: scores tie often and are exact."""
    return torch.randint(-2, 3, (rows, 3), generator=torch.Generator().manual_seed(seed)).float()


@settings(max_examples=examples(60), deadline=None)
@given(n=st.integers(1, 30), m=st.integers(1, 30), kinds=st.integers(1, 30), seed=st.integers(0, 999),
       cut=st.integers(0, 30))  # fmt: skip
def test_against_a_search_by_hand(n: int, m: int, kinds: int, seed: int, cut: int) -> None:
    g = torch.Generator().manual_seed(seed)
    a, b = grid(n, seed), grid(m, seed + 1)
    a_ids, b_ids = (torch.randint(-kinds, kinds, (k,), generator=g) for k in (n, m))
    a_ids[0] = b_ids[0]
    metric = RetrievalMetrics()
    metric.update(a[:cut], b[:cut], a_ids=a_ids[:cut], b_ids=b_ids[:cut])
    metric.update(a[cut:], b[cut:], a_ids=a_ids[cut:], b_ids=b_ids[cut:])
    assert figures(metric) == pytest.approx(figures_by_hand(a, b, a_ids.tolist(), b_ids.tolist()), rel=1e-6)


def test_pairs_in_batches_and_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = grid(23, 0), grid(23, 1)
    expected = figures_by_hand(a, b, list(range(23)), list(range(23)))
    monkeypatch.setattr(zoo.tasks.retrieval_metrics, "_MAX_SCORES", 70)  # 3 rows at a time
    metric = RetrievalMetrics()
    for start in range(0, 23, 5):
        metric.update(a[start : start + 5], b[start : start + 5])
    assert figures(metric) == pytest.approx(expected, rel=1e-6)
    metric.reset()
    metric.update(a[:4], b[:4])
    assert figures(metric) == pytest.approx(figures_by_hand(a[:4], b[:4], [0, 1, 2, 3], [0, 1, 2, 3]), rel=1e-6)


def test_five_captions_of_each_picture() -> None:
    """As rows that repeat the picture, and as 8 pictures and 40 captions: the same figures."""
    pictures, captions = torch.randn(8, 4), torch.randn(40, 4)
    ids = torch.arange(8).repeat_interleave(5)
    expected = figures_by_hand(pictures, captions, list(range(8)), ids.tolist())
    once, repeated, shuffled = RetrievalMetrics(), RetrievalMetrics(), torch.randperm(40)
    once.update(pictures, captions, a_ids=torch.arange(8), b_ids=ids)
    ids, captions = ids[shuffled], captions[shuffled]
    for part in torch.arange(40).split(7):
        repeated.update(pictures[ids[part]], captions[part], a_items=ids[part])
    assert figures(once) == pytest.approx(expected, rel=1e-6) == figures(repeated)


def test_equal_captions_are_one_answer() -> None:
    """Two pictures say "dog": either is right for the caption, which stands once among the answers."""
    text = torch.eye(3)
    metric = RetrievalMetrics()
    metric.update(torch.eye(3)[[0, 1, 0, 2]], text[[0, 1, 0, 2]], b_items=torch.tensor([7, 8, 7, 9]))
    found = figures(metric)
    assert all(found[f"{way}_r1"] == 1 for way in ("image_to_text", "text_to_image"))
    apart = RetrievalMetrics()
    apart.update(torch.eye(3)[[0, 1, 0, 2]], text[[0, 1, 0, 2]])
    assert figures(apart)["image_to_text_r1"] == 0.5


@pytest.mark.parametrize("broken", [torch.zeros(20, 4), torch.ones(20, 4), torch.full((20, 4), torch.nan)])
def test_features_that_say_nothing_come_last(broken: Tensor) -> None:
    for pair in ((broken, torch.randn(20, 4)), (torch.randn(20, 4), broken)):
        metric = RetrievalMetrics()
        metric.update(*pair)
        found = figures(metric)
        if torch.isnan(broken).any() or broken is pair[1]:
            assert found["image_to_text_r10"] == 0 and found["image_to_text_median_rank"] == 20


def test_what_has_no_right_answer_is_an_answer_only() -> None:
    metric = RetrievalMetrics()
    metric.update(torch.eye(4)[:1], torch.eye(4), a_ids=torch.tensor([3]), b_ids=torch.arange(4))
    found = figures(metric)
    assert found["text_to_image_median_rank"] == 1 and found["image_to_text_median_rank"] == 4


def test_median_is_between_the_two_in_the_middle() -> None:
    metric = RetrievalMetrics("a", "b", at=(2,))
    metric.update(torch.eye(4)[[0, 1, 3, 2]], torch.eye(4))  # ranks 1, 1, 4, 4: the swapped two are last
    assert figures(metric) == {"a_to_b_r2": 0.5, "a_to_b_median_rank": 2.5, "b_to_a_r2": 0.5, "b_to_a_median_rank": 2.5}


def test_forward_gives_the_batch_and_keeps_all() -> None:
    a, b = grid(12, 3), grid(12, 4)
    metric, whole = RetrievalMetrics(), RetrievalMetrics()
    first = metric(a[:6], b[:6])
    metric(a[6:], b[6:])
    whole.update(a, b)
    assert figures(metric) == figures(whole)
    expected = figures_by_hand(a[:6], b[:6], [*range(6)], [*range(6)])
    assert {name: float(x) for name, x in first.items()} == pytest.approx(expected)


def test_loss_sees_every_row() -> None:
    metric = RetrievalMetrics(loss=lambda a, b, ids: (a.sum() + b.sum() + len(ids.unique())) * 1.0)
    a, b = grid(6, 0), grid(6, 1)
    metric.update(a, b, a_items=torch.zeros(6, dtype=torch.long))
    assert figures(metric)["loss"] == a.sum() + b.sum() + 6


def part(rank: int, bounds: list[int], ids: list[int] | None) -> dict[str, float]:
    rows = slice(bounds[rank], bounds[rank + 1])
    metric = RetrievalMetrics(loss=lambda a, b, ids: a.sum())
    own = None if ids is None else torch.tensor(ids)[rows]
    if rows.start < rows.stop:
        metric.update(grid(17, 0)[rows], grid(17, 1)[rows], a_ids=own, b_ids=own)
    return figures(metric)


@pytest.mark.parametrize("ids", [None, [i % 5 for i in range(17)]], ids=["pairs", "ids"])
@pytest.mark.parametrize("bounds", [[0, 9, 17], [0, 3, 4, 17], [0, 0, 17]])
def test_on_several_processes(bounds: list[int], ids: list[int] | None) -> None:
    expected = part(0, [0, 17], ids)
    assert all(found == pytest.approx(expected) for found in ranks(len(bounds) - 1, part, bounds, ids))


X = torch.randn(3, 4)


@pytest.mark.parametrize(("call", "says"), [
    (lambda: RetrievalMetrics().update(X, X[:, :2]), r"\[3, 4\] and \[3, 2\]"),
    (lambda: RetrievalMetrics().update(X, X[:2]), "got 3 and 2 rows: give a_ids and b_ids"),
    (lambda: RetrievalMetrics().update(X, X, a_ids=torch.arange(3)), "got ids of one side only"),
    (lambda: RetrievalMetrics().update(X, X, a_items=torch.arange(2)), r"a_items of \[2\] for 3 rows"),
    (lambda: RetrievalMetrics(at=(0,)), r"at=\[0\]"),
    (lambda: RetrievalMetrics().compute(), "nothing to retrieve"),
])  # fmt: skip
def test_refusals(call: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()
