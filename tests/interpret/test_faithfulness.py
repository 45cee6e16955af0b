"""Deletion and insertion curves on models whose decisive parts are known."""

from pathlib import Path
from typing import Any

import pytest
import torch

import zoo
from tests.plot_checks import check_texts
from tests.word_counter import word_counter
from zoo.interpret.faithfulness import RANDOM, area, ranks

WORDS = ["the", "soup", "was", "cold", "and", "good", "today"]


@pytest.fixture(scope="module")
def counts() -> Any:
    """A classifier that counts: each "good" raises class 1 by 2, each "cold" lowers it by 2, nothing else matters."""
    return word_counter([" ".join(WORDS)] * 3, {"good": 1, "cold": -1}, scale=2)


def test_curves_of_a_model_that_counts(counts: Any) -> None:
    text = "the good soup was cold good and good today"  # 9 words of one token each: +2 -1
    scores = zoo.attribute(counts, text, 1, "input_x_gradient")
    result = zoo.faithfulness(
        counts, text, {"by hand": scores, "reversed": -scores["text"]}, 1, steps=9, random_orders=7
    )
    up = lambda n: float(torch.tensor(2.0 * n).sigmoid())  # noqa: E731
    by_hand, turned, chance = result.curves
    expected = [up(n) for n in (2, 1, 0, -1, -1, -1, -1, -1, -1, 0)]
    torch.testing.assert_close(by_hand.deletion[0], torch.tensor(expected))
    torch.testing.assert_close(turned.insertion[0], torch.tensor(expected[::-1]))  # what is removed first is added last
    assert chance.order == RANDOM and float(by_hand.deletion_area) < float(chance.deletion_area)
    assert float(by_hand.insertion_area) > float(chance.insertion_area) > float(turned.insertion_area)
    assert float(chance.deletion_spread) > 0 and by_hand.deletion_spread is None
    rows = result.rows
    assert rows[0]["better"] == (1.0, 1.0) and rows[1]["better"] == (0.0, 0.0) and rows[2]["better"] is None
    assert rows[0]["fractions"][-1] == 1 and rows[2]["deletion_spread"] == pytest.approx(float(chance.deletion_spread))
    same = zoo.faithfulness(counts, text, {"by hand": scores}, 1, steps=9, random_orders=7)
    assert torch.equal(same.curves[-1].deletion, chance.deletion)


def test_rows_of_a_batch_are_as_alone(counts: Any) -> None:
    texts = ["good soup", "the soup was cold and good today", "cold"]
    together = zoo.faithfulness(counts, texts, ["input_x_gradient"], steps=4, batch_size=3)
    for row, text in enumerate(texts):
        alone = zoo.faithfulness(counts, text, "input_x_gradient", steps=4).curves[0]
        torch.testing.assert_close(together.curves[0].deletion[row], alone.deletion[0])
    masked = zoo.faithfulness(counts, texts, ["input_x_gradient"], steps=4, removal="mask")
    torch.testing.assert_close(masked.curves[0].deletion, together.curves[0].deletion)  # [MASK] counts nothing here
    assert masked.removal == "mask" and together.removal == "remove"


def test_order_and_area() -> None:
    free = torch.tensor([[True, True, False, True]])
    assert ranks(torch.tensor([[0.1, 0.9, 5.0, 0.5]]), free).tolist() == [[2, 0, 3, 1]]
    assert float(area(torch.tensor([[1.0, 0.5, 0.0]]))) == pytest.approx(0.5)


def test_patches_are_replaced() -> None:
    """A model that sees one patch alone: the curve falls when that patch is removed."""
    model = zoo.create_model("vit_cifar_tiny", width=8, depth=1, heads=1, mlp_dim=8, seed=0).eval()
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    x[:, :, 8:12, 4:8] += 5
    model.forward = lambda pixel_values: torch.stack(
        [pixel_values[:, :, 8:12, 4:8].mean((1, 2, 3)) * n for n in (0, 1)], 1
    )
    scores = torch.zeros(1, 64)
    scores[0, 2 * 8 + 1] = 1
    for removal, low in (("mean", 1.0), ("zero", 0.0), ("blur", 3.0)):
        result = zoo.faithfulness(model, {"pixel_values": x}, {"patch": scores}, 1, steps=64, removal=removal)
        curve = result.curves[0].deletion[0]
        assert float(curve[0]) > 0.99 and float(curve[1]) < float(torch.tensor(low + 0.1).sigmoid())
        assert result.part == "image" and result.removal == removal
    with pytest.raises(ValueError, match="removal of image is 'mask'"):
        zoo.faithfulness(model, {"pixel_values": x}, {"patch": scores}, 1, removal="mask")


def test_the_token_of_the_output_and_pairs() -> None:
    model = zoo.create_model("gpt_nano", seed=0)
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    result = zoo.faithfulness(model, {"input_ids": ids}, ["attention"], steps=4, random_orders=1)
    with torch.no_grad():
        last = model.eval()(ids[:, -1:])[0, 0].softmax(0)[int(result.targets[0])]
    assert float(result.curves[0].deletion[0, -1]) == pytest.approx(float(last), rel=1e-4)  # what was read is left
    pair = zoo.create_model("contrast_tiny", seed=0)
    batch = {"pixel_values": torch.randn(1, 3, 32, 32), "input_ids": ids}
    for part in ("image", "text"):
        found = zoo.faithfulness(pair, batch, ["input_x_gradient"], part=part, steps=2, random_orders=1)
        assert found.part == part and found.targets == ["similarity of image and text"]
    with pytest.raises(ValueError, match="part='audio': the inputs have the parts image, text"):
        zoo.faithfulness(pair, batch, ["input_x_gradient"], part="audio")
    with pytest.raises(ValueError, match="the scores 'attention' are of text: expected those of image"):
        zoo.faithfulness(pair, batch, zoo.attribute(model, {"input_ids": ids}, method="attention"))


def test_text_and_plot(counts: Any, tmp_path: Path) -> None:
    result = zoo.faithfulness(counts, ["good soup", "cold soup"], ["input_x_gradient"], steps=2)
    assert "lower is better" in str(result) and "±" in str(result) and "input_x_gradient" in str(result)
    assert any("random order" in text for text in check_texts(result.plot(tmp_path / "curves.png")))


@pytest.mark.parametrize(
    ("scores", "options", "match"),
    [
        ({"mine": torch.zeros(1, 3)}, {}, r"the scores 'mine' are \[1, 3\]: expected \[1, 4\]"),
        ({"mine": torch.full((1, 4), torch.nan)}, {}, "not finite"),
        ([], {}, "expected names of methods"),
        (["saliency"], {}, "method is 'saliency'"),
        (["input_x_gradient"], {"steps": 0}, "steps=0"),
        (["input_x_gradient"], {"removal": "zero"}, "removal of text is 'zero', expected one of remove"),
    ],
)
def test_what_it_refuses(counts: Any, scores: Any, options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        zoo.faithfulness(counts, "good soup", scores, **options)
