"""The plot of retrieval results: captions of any length and script beside images, and what a frame means."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.plot_checks import check_texts
from zoo.training.recipes.retrieval_page import plot_results, wrap

CAPTIONS = ["a $red$ square_1 on <b>x</b>", "猫が窓のそばで静かに眠っている様子を描いた一枚の写真です", "x" * 300,
            "a very long caption " * 10, *(f"caption {i}" for i in range(8))]  # fmt: skip


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize(("queries", "results"), [(1, 1), (2, 3), (12, 12)])
def test_results_can_be_read(queries: int, results: int) -> None:
    images = torch.zeros(12, 3, 8, 8, dtype=torch.uint8)
    pairs: Any = SimpleNamespace(items=images, captions=[[caption] for caption in CAPTIONS], classes=None)
    found = torch.arange(results).expand(queries, -1)
    title = "text-to-image retrieval, 1,200 test items, R@1 20.0%"
    figure = plot_results(pairs, torch.arange(queries), found, found / 10, title)
    texts = check_texts(figure)
    assert any("thick green frame: correct" in text for text in texts)
    thick = [axis for axis in figure.axes if axis.axison and axis.spines["top"].get_linewidth() > 1]
    assert len(thick) == min(queries, results, 6), "correct results differ not only by their color"


def test_a_caption_that_is_cut_says_so() -> None:
    assert wrap("a word " * 50).endswith("…") and not wrap("a word").endswith("…")
    assert max(map(len, wrap("猫" * 200).split("\n"))) <= 13, "wide characters take two columns"
