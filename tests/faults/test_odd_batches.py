"""An odd batch is computed as what it means, or refused in one line that names what is wrong with it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

import zoo
from zoo.tasks import ClassificationTask

SMALL = {"width": 16, "depth": 1, "heads": 2, "seed": 0}
IDS = torch.randint(5, 99, (2, 8), generator=torch.Generator().manual_seed(0))
MASK = (torch.arange(8) < torch.tensor([[5], [8]])).long()


def bert() -> zoo.Model:
    return zoo.create_model("bert_tiny", vocab_size=99, num_classes=3, **SMALL).eval()


def gpt() -> zoo.Model:
    return zoo.create_model("gpt_nano", **SMALL).eval()


def vit() -> zoo.Model:
    return zoo.create_model("vit_cifar_tiny", num_classes=3, **SMALL).eval()


@contextmanager
def refusal(names: str) -> Iterator[None]:
    """Allows a ValueError of one line with this word in it."""
    try:
        yield
    except ValueError as error:
        assert names in str(error) and "\n" not in str(error)


wrong_type = pytest.mark.xfail(strict=True, raises=RuntimeError, reason="an error of torch from deep inside")


@pytest.mark.xfail(strict=True, raises=RuntimeError, reason="torch cannot reshape tensors of no elements")
@pytest.mark.parametrize(
    ("make", "name", "shape"),
    [
        (vit, "pixel_values", (0, 3, 32, 32)), (bert, "input_ids", (0, 8)), (bert, "input_ids", (2, 0)),
        (gpt, "input_ids", (0, 8)), (gpt, "input_ids", (2, 0)),
    ],
)  # fmt: skip
def test_nothing_in_it(make: Callable[[], zoo.Model], name: str, shape: tuple[int, ...]) -> None:
    batch = {name: torch.zeros(shape, dtype=torch.float32 if name == "pixel_values" else torch.long)}
    with torch.no_grad(), refusal(name):
        assert make()(**batch).shape[0] == shape[0]


@pytest.mark.parametrize("make", [bert, gpt])
@pytest.mark.parametrize(
    "dtype",
    [torch.int32, *(pytest.param(dtype, marks=wrong_type) for dtype in (torch.uint8, torch.int8, torch.int16))],
    ids=str,
)
def test_ids_of_another_type(dtype: torch.dtype, make: Callable[[], zoo.Model]) -> None:
    model = make()
    with torch.no_grad(), refusal("input_ids"):
        assert torch.allclose(model(input_ids=IDS.to(dtype)), model(input_ids=IDS), atol=1e-6)


@pytest.mark.xfail(strict=True, raises=pytest.fail.Exception, reason="such a mask is computed with, and wrong")
@pytest.mark.parametrize("make", [bert, gpt])
@pytest.mark.parametrize("mask", [2 * MASK, -MASK, torch.where(MASK == 0, 2, MASK), torch.where(MASK == 0, -1, MASK)],
                         ids=["2 and 0", "-1 and 0", "1 and 2", "1 and -1"])  # fmt: skip
def test_masks_of_other_numbers(mask: Tensor, make: Callable[[], zoo.Model]) -> None:
    with torch.no_grad(), pytest.raises(ValueError, match=r"^[^\n]*attention_mask[^\n]*$"):
        make()(input_ids=IDS, attention_mask=mask)


@pytest.mark.parametrize(
    "labels",
    [
        torch.tensor([0, 1, 1, 0], dtype=torch.uint8),
        *(
            pytest.param(torch.tensor([0, 1, 1, 0]).to(dtype), marks=wrong_type)
            for dtype in (torch.int16, torch.int32, torch.float32, torch.float64, torch.bool)
        ),
        pytest.param(torch.tensor([[0], [1], [1], [0]]), marks=wrong_type),
    ],
    ids=lambda labels: f"{labels.dtype} {list(labels.shape)}",
)
def test_labels_of_another_type(labels: Tensor) -> None:
    task = ClassificationTask(vit(), lr=1e-3)
    pixels = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with refusal("labels"):
        loss = task.loss_of({"pixel_values": pixels, "labels": labels}, 0, 0)
        right = task.loss_of({"pixel_values": pixels, "labels": torch.tensor([0, 1, 1, 0])}, 0, 0)
        assert torch.allclose(loss, right, atol=1e-6)


@pytest.mark.xfail(strict=True, raises=IndexError, reason="an error of torch that names neither row nor label")
@pytest.mark.parametrize("label", [3, -1])
def test_a_label_of_no_class(label: int) -> None:
    batch = {"pixel_values": torch.zeros(2, 3, 32, 32), "labels": torch.tensor([0, label])}
    with pytest.raises(ValueError, match=r"^[^\n]*label[^\n]*$"):
        ClassificationTask(vit(), lr=1e-3).loss_of(batch, 0, 0)
