"""Plots of attention: positions, color ranges and errors."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

import zoo
from tests.plot_checks import check_texts
from zoo.interpret.plot import (
    Panel,
    PatchLayout,
    attention_grid,
    color_range,
    load_images,
    over_patches,
    prediction_titles,
    short_name,
)
from zoo.preprocessing.image import ImageProcessor


def make_model(name: str = "vit_cifar", **overrides: object) -> zoo.Model:
    return zoo.create_model(name, seed=0, **{"depth": 2} | overrides).eval()


def images(n: int, seed: int = 0) -> Tensor:
    return torch.randint(256, (n, 3, 32, 32), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def captured(model: zoo.Model, n: int) -> dict[str, Tensor]:
    with torch.no_grad(), zoo.capture(model) as maps:
        model(torch.randn(n, 3, 32, 32))
    return maps


def texts(figure: object) -> list[str]:
    axes = figure.axes  # type: ignore[attr-defined]
    return [text for a in axes for text in (a.get_title(), a.get_ylabel()) if text]


def test_a_row_per_image_and_a_column_per_layer() -> None:
    model = make_model()
    figure = zoo.plot_attention(images(2), captured(model, 2), model=model, titles=["one", "two"])
    assert len(figure.axes) == 2 * 3 + 1
    expected = texts(figure)
    assert {"one", "two"} <= set(expected) and any(s.startswith("block 1\n") and s.endswith("×") for s in expected)


def test_heads_of_one_image_and_error_for_more() -> None:
    model = make_model()
    with torch.no_grad(), zoo.capture(model, rows=0) as maps:
        model(torch.randn(2, 3, 32, 32))
    figure = zoo.plot_attention(images(1)[0], maps, model=model, heads=True)
    assert len(figure.axes) == 2 * (1 + 3) + 1
    with pytest.raises(ValueError, match="choose one with rows="):
        zoo.plot_attention(images(2), captured(model, 2), model=model, heads=True)


def test_the_class_token_the_mean_patch_and_one_patch() -> None:
    weights = torch.zeros(1, 1, 5, 5)
    weights[0, 0, 0] = torch.tensor([0.2, 0.0, 0.8, 0.0, 0.0])
    weights[0, 0, 1:, 4] = 0.5
    weights[0, 0, 3, 1] = 0.5
    place = PatchLayout((2, 2), 1, True)
    assert torch.allclose(over_patches(weights, place, None)[0, 0], 5 * torch.tensor([[0, 0.8], [0, 0]]))
    assert torch.allclose(over_patches(weights, place, "mean")[0, 0], 5 * torch.tensor([[0.125, 0], [0, 0.5]]))
    assert torch.allclose(over_patches(weights, place, 2)[0, 0], 5 * torch.tensor([[0.5, 0], [0, 0.5]]))
    with pytest.raises(ValueError, match="query=4"):
        over_patches(weights, place, 4)
    with pytest.raises(ValueError, match="no class token"):
        over_patches(weights, PatchLayout((2, 2), 1, False), "cls")
    with pytest.raises(ValueError, match="does not fit 0 tokens and 2 x 2"):
        over_patches(weights, PatchLayout((2, 2), 0, False), "mean")


def test_the_brightest_patch_of_the_plot_is_the_one_attended_to() -> None:
    weights = torch.zeros(1, 1, 17, 17)
    weights[0, 0, 0, 1 + 4 * 1 + 2] = 1.0  # patch in row 1, column 2 of 4 x 4
    figure = zoo.plot_attention(torch.full((3, 40, 40), 128, dtype=torch.uint8), weights, grid=(4, 4), prefix=1)
    overlay = figure.axes[1].images[1].get_array()
    row, column = divmod(int(overlay.argmax()), overlay.shape[1])
    assert (row * 4 // overlay.shape[0], column * 4 // overlay.shape[1]) == (1, 2)
    assert tuple(figure.axes[1].images[1].get_extent()) == (-0.5, 39.5, 39.5, -0.5)


def test_the_scale_leaves_single_spikes_out_but_not_far_and_does_not_blow_up_noise() -> None:
    values = torch.linspace(0, 2, 1601).reshape(1, -1)
    assert color_range([Panel(heat=values), Panel()]) == pytest.approx((0.01, 1.99))
    spiked = values.clone()
    spiked[0, 1200] = 100
    assert color_range([Panel(heat=spiked)]) == pytest.approx((0.01, 25.0), rel=0.01)
    assert color_range([Panel(heat=torch.ones(4, 4))]) == pytest.approx((1.0, 1.2))
    assert color_range([Panel()]) is None


def test_rollout_lists_of_maps_and_matrices_with_tokens() -> None:
    model = make_model()
    maps = captured(model, 2)
    assert len(zoo.plot_attention(images(2), zoo.rollout(maps), model=model).axes) == 2 * 2 + 1
    assert len(zoo.plot_attention(images(2), list(maps.values()), model=model).axes) == 2 * 3 + 1
    figure = zoo.plot_attention(None, torch.eye(3)[None], tokens=["a", "b", "c"])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["a", "b", "c"]
    assert len(figure.axes) == 2


def test_images_are_shown_as_the_model_crops_them(tmp_path: Path) -> None:
    picture = Image.new("RGB", (60, 30), (250, 0, 0))
    picture.paste((0, 0, 250), (15, 0, 45, 30))
    picture.save(tmp_path / "p.png")
    model = make_model()
    model.preprocess = ImageProcessor(size=(32, 32), interpolation="bilinear")
    for given in (picture, tmp_path / "p.png", [str(tmp_path / "p.png")]):
        (seen,) = load_images(model, given)
        assert seen.shape == (3, 32, 32) and seen.dtype == torch.uint8
        assert abs(int(seen[2, 16, 16]) - 250) <= 1 and seen[0, 16, 16] <= 1
    (whole,) = load_images(None, tmp_path / "p.png")
    assert whole.shape == (3, 30, 60)


@pytest.mark.parametrize("name", ["vit_cifar", "vit_cifar_tiny"])
def test_a_page_for_a_recipe_is_written_and_leaves_the_model_as_it_was(tmp_path: Path, name: str) -> None:
    model = make_model(name, depth=3).train()
    model.labels = [f"class {i}" for i in range(10)]
    path = tmp_path / "attention.png"
    figure = attention_grid(model, images(3), torch.randn(3, 3, 32, 32), path, labels=[0, 1, 2])
    assert len(figure.axes) == 3 * (1 + 3 + 1) + 1 and model.training
    with Image.open(path) as written:
        assert written.format == "PNG" and min(written.size) > 400
    assert sorted(p.name for p in tmp_path.iterdir()) == ["attention.png"]
    assert any(text.startswith("all (rollout)") for text in texts(figure))


def test_what_the_model_says_stands_beside_each_image() -> None:
    class Named:
        labels = ("cat", "dog")

    logits = torch.tensor([[0.0, 20.0], [20.0, 0.0]])
    assert prediction_titles(Named, logits, [1, 1]) == ["dog\n100%", "cat\n100%\n(is dog)"]
    assert prediction_titles(Named, logits, None) == ["dog\n100%", "cat\n100%"]
    assert prediction_titles(Named, torch.zeros(2, 3, 4), None) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [("blocks.3.mixer", "block 3"), ("decoder.blocks.0.cross", "decoder.block 0 cross"), ("all", "all")],
)
def test_short_names(name: str, expected: str) -> None:
    assert short_name(name) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((images(1), {}), "no maps given: run the model"),
        ((images(1), {"blocks.0.mixer": [torch.ones(1, 1, 2, 2)] * 2}), "has 2 maps"),
        ((images(1), torch.ones(2, 2)), "expected \\[B, H, N, M\\]"),
        ((images(1), torch.ones(1, 1, 4, 4)), "grid=\\(rows, columns\\)"),
        ((images(1).float(), torch.ones(1, 1, 4, 4)), "uint8"),
    ],
)
def test_errors(given: tuple, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        zoo.plot_attention(*given)
    with pytest.raises(ValueError, match="2 images and maps of 1"):
        zoo.plot_attention(images(2), torch.ones(1, 1, 4, 4), grid=(2, 2))


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("count", [1, 3])
def test_long_names_of_classes_leave_room_for_the_images(count: int) -> None:
    model = make_model(num_classes=3)
    model.labels = ["a very long name of a class, with many words and commas", "$x_1$ <b>", "猫" * 40]
    figure = attention_grid(model, images(count), torch.randn(count, 3, 32, 32), labels=list(range(count)))
    check_texts(figure)
    widths = [axis.get_window_extent().width / figure.dpi for axis in figure.axes[:-1]]
    assert min(widths) > 1.4, "inches"
