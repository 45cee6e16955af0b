"""Alignments against all paths written out."""

import itertools

import pytest
import torch

from zoo.inference import forced_alignment
from zoo.inference.ctc_decoding import greedy
from zoo.inference.forced_alignment import Span, best_path, best_path_of


def read(path: tuple[int, ...], blank: int) -> list[int]:
    """The text of a path, the definition."""
    return [symbol for symbol, _ in itertools.groupby(path) if symbol != blank]


def spans_of(path: tuple[int, ...], probabilities: torch.Tensor, blank: int) -> list[tuple[int, int, int, float]]:
    found, start = [], 0
    for symbol, run in itertools.groupby(path):
        end = start + len(list(run))
        if symbol != blank:
            found.append((symbol, start, end, float(probabilities[start:end, symbol].mean())))
        start = end
    return found


def check(found: list[Span], expected: list[tuple[int, int, int, float]]) -> None:
    assert [span[:3] for span in found] == [span[:3] for span in expected]
    assert [span.probability for span in found] == pytest.approx([span[3] for span in expected], abs=1e-6)


@pytest.mark.parametrize("blank", [0, 2])
@pytest.mark.parametrize("ids", [[1], [1, 1], [3, 1, 3], [1, 3]])
@pytest.mark.parametrize("seed", range(3))
def test_the_best_path_of_a_text_is_the_best_of_all_its_paths(seed: int, ids: list[int], blank: int) -> None:
    scores = 2 * torch.randn(6, 4, generator=torch.Generator().manual_seed(seed))
    p = scores.softmax(-1)
    paths = [path for path in itertools.product(range(4), repeat=6) if read(path, blank) == ids]
    best = max(paths, key=lambda path: float(p[range(6), list(path)].log().sum()))
    check(best_path_of(scores, ids, blank=blank), spans_of(best, p, blank))


def test_the_best_path_is_that_of_greedy() -> None:
    scores = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    found = best_path(scores, blank=1)
    assert [span.symbol for span in found] == greedy(scores[None], blank=1)[0]
    check(found, spans_of(tuple(scores.argmax(-1).tolist()), scores.softmax(-1), 1))
    check(best_path_of(scores, [span.symbol for span in found], blank=1), list(map(tuple, found)))


def test_an_empty_text_has_no_spans() -> None:
    assert best_path_of(torch.randn(3, 4), []) == []
    assert best_path(torch.tensor([[1.0, 0.0], [1.0, 0.0]])) == []


def test_texts_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="the text has 3 symbols, which need at least 4 frames, but the clip has 3"):
        best_path_of(torch.randn(3, 4), [1, 1, 2])
    assert len(best_path_of(torch.randn(4, 4), [1, 1, 2])) == 3
    monkeypatch.setattr(forced_alignment, "MAX_CELLS", 7 * 4 - 1)
    with pytest.raises(ValueError, match="3 symbols and a clip of 4 frames are too long to be aligned at once"):
        best_path_of(torch.randn(4, 4), [1, 1, 2])
