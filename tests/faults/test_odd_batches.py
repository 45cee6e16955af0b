"""An odd batch is computed as what it means, or refused in one line that names what is wrong with it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

import zoo
from zoo.nn.losses.ctc import ctc_loss
from zoo.tasks import CausalLMTask, ClassificationTask
from zoo.tasks.problem_types import Objective

SMALL = {"width": 16, "depth": 1, "heads": 2, "seed": 0}
IDS = torch.randint(5, 99, (2, 8), generator=torch.Generator().manual_seed(0))
MASK = (torch.arange(8) < torch.tensor([[5], [8]])).long()


def bert() -> zoo.Model:
    return zoo.create_model("bert_tiny", vocab_size=99, num_classes=3, **SMALL).eval()


def gpt() -> zoo.Model:
    return zoo.create_model("gpt_nano", **SMALL).eval()


def vit() -> zoo.Model:
    return zoo.create_model("vit_cifar_tiny", num_classes=3, **SMALL).eval()


def wav2vec2() -> zoo.Model:
    return zoo.create_model("wav2vec2_tiny", head="classify", num_classes=3, seed=0).eval()


def ast() -> zoo.Model:
    return zoo.create_model("ast_tiny", num_classes=3, **SMALL).eval()


def clip() -> zoo.Model:
    return zoo.create_model("clip_tiny", seed=0).eval()


@contextmanager
def refusal(names: str) -> Iterator[None]:
    """Allows a ValueError of one line with this word in it."""
    try:
        yield
    except ValueError as error:
        assert names in str(error) and "\n" not in str(error)


@pytest.mark.parametrize(
    ("make", "name", "shape"),
    [
        (vit, "pixel_values", (0, 3, 32, 32)), (bert, "input_ids", (0, 8)), (bert, "input_ids", (2, 0)),
        (gpt, "input_ids", (0, 8)), (gpt, "input_ids", (2, 0)), (wav2vec2, "input_values", (0, 4000)),
        (wav2vec2, "input_values", (2, 0)), (ast, "input_values", (0, 128, 64)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("part", ["forward", "encode"])
def test_nothing_in_it(part: str, make: Callable[[], zoo.Model], name: str, shape: tuple[int, ...]) -> None:
    batch = {name: torch.zeros(shape, dtype=torch.long if name == "input_ids" else torch.float32)}
    model = make()
    with torch.no_grad(), refusal(name):
        assert (model if part == "forward" else model.encode)(**batch).shape[0] == shape[0]


@pytest.mark.parametrize(("make", "name", "shape"), [
    (vit, "pixel_values", (2, 3, 32, 32)), (wav2vec2, "input_values", (2, 4000)), (ast, "input_values", (2, 128, 64)),
])  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=str)
def test_inputs_of_another_float_type_than_the_weights(
    dtype: torch.dtype, make: Callable[[], zoo.Model], name: str, shape: tuple[int, ...]
) -> None:
    """numpy's arrays are float64."""
    model, values = make(), torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=rf"{name} has the dtype {dtype}, .* torch\.float32: .*model\.dtype"):
        model(**{name: values.to(dtype)})
    with torch.no_grad():
        expected = model(**{name: values})
        assert model.to(dtype)(**{name: values.to(dtype)}).dtype == dtype
        with torch.autocast("cpu", torch.bfloat16):  # which does not convert float64
            if dtype == torch.float16:
                found = model.float()(**{name: values.to(dtype)})
                assert torch.allclose(found.float(), expected, atol=0.2, rtol=0.1)
            else:
                with pytest.raises(ValueError, match=r"has the dtype torch\.float64"):
                    model.float()(**{name: values.to(dtype)})


@pytest.mark.parametrize("make", [bert, gpt])
@pytest.mark.parametrize(
    "dtype",
    [torch.int32, torch.uint8, torch.int8, torch.int16],
    ids=str,
)
def test_ids_of_another_type(dtype: torch.dtype, make: Callable[[], zoo.Model]) -> None:
    model = make()
    with torch.no_grad(), refusal("input_ids"):
        assert torch.allclose(model(input_ids=IDS.to(dtype)), model(input_ids=IDS), atol=1e-6)


@pytest.mark.parametrize("make", [bert, gpt])
@pytest.mark.parametrize("mask", [2 * MASK, -MASK, torch.where(MASK == 0, 2, MASK), torch.where(MASK == 0, -1, MASK)],
                         ids=["2 and 0", "-1 and 0", "1 and 2", "1 and -1"])  # fmt: skip
def test_masks_of_other_numbers(mask: Tensor, make: Callable[[], zoo.Model]) -> None:
    with torch.no_grad(), pytest.raises(ValueError, match=r"^[^\n]*attention_mask[^\n]*$"):
        make()(input_ids=IDS, attention_mask=mask)


@pytest.mark.parametrize("factor", [2, -1])
def test_masks_of_other_numbers_elsewhere(factor: int) -> None:
    """In generation, for encode, at the end of a long text, for waveforms, and of any type of numbers."""
    long = torch.ones(1, 128, dtype=torch.long)
    waves = torch.randn(2, 4000, generator=torch.Generator().manual_seed(0))
    real = (torch.arange(4000) < torch.tensor([[3000], [4000]])).long()
    calls: list[Callable[[], object]] = [
        lambda: zoo.generate(gpt(), IDS, factor * MASK, max_new_tokens=2),
        lambda: zoo.generate(gpt(), IDS, MASK.float(), max_new_tokens=2),
        lambda: bert().encode(IDS, attention_mask=factor * MASK),
        lambda: gpt().encode(long, attention_mask=factor * long),
        lambda: wav2vec2()(input_values=waves, attention_mask=factor * real),
    ]
    for call in calls:
        with torch.no_grad(), pytest.raises(ValueError, match=r"^[^\n]*attention_mask[^\n]*$"):
            call()


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int8, torch.int32])
@pytest.mark.parametrize("make", [bert, gpt])
def test_masks_of_other_types(make: Callable[[], zoo.Model], dtype: torch.dtype) -> None:
    model = make()
    with torch.no_grad():
        expected = model(input_ids=IDS, attention_mask=MASK)
        assert torch.equal(model(input_ids=IDS, attention_mask=MASK.to(dtype)), expected)


def test_two_towers() -> None:
    model = clip()
    with torch.no_grad():
        for batch in ({"input_ids": torch.zeros(0, 8, dtype=torch.long)}, {"pixel_values": torch.zeros(0, 3, 32, 32)}):
            (name,) = batch
            with pytest.raises(ValueError, match=name):
                model(**batch)
        ids = torch.randint(1, 90, (2, 8), generator=torch.Generator().manual_seed(0))
        features = model(input_ids=ids).text_features
        assert torch.equal(model(input_ids=ids.to(torch.uint8)).text_features, features)
        with pytest.raises(ValueError, match="attention_mask contains 2"):
            model(input_ids=ids, attention_mask=2 * MASK)


@pytest.mark.parametrize(
    "labels",
    [
        torch.tensor([0, 1, 1, 0], dtype=torch.uint8),
        *(torch.tensor([0, 1, 1, 0]).to(dtype)
          for dtype in (torch.int16, torch.int32, torch.float32, torch.float64, torch.bool)),
        torch.tensor([[0], [1], [1], [0]]),
    ],
    ids=lambda labels: f"{labels.dtype} {list(labels.shape)}",
)  # fmt: skip
def test_labels_of_another_type(labels: Tensor) -> None:
    task = ClassificationTask(vit(), lr=1e-3)
    pixels = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with refusal("labels"):
        loss = task.loss_of({"pixel_values": pixels, "labels": labels}, 0, 0)
        right = task.loss_of({"pixel_values": pixels, "labels": torch.tensor([0, 1, 1, 0])}, 0, 0)
        assert torch.allclose(loss, right, atol=1e-6)


@pytest.mark.parametrize("label", [3, -1])
def test_a_label_of_no_class(label: int) -> None:
    batch = {"pixel_values": torch.zeros(2, 3, 32, 32), "labels": torch.tensor([0, label])}
    with pytest.raises(ValueError, match=r"^[^\n]*label[^\n]*$"):
        ClassificationTask(vit(), lr=1e-3).loss_of(batch, 0, 0)


ONES = torch.ones(2, 3)


@pytest.mark.parametrize(
    ("problem_type", "classes", "labels"),
    [
        ("multi_label_classification", 3, torch.ones(2)), ("multi_label_classification", 3, 2 * ONES),
        ("multi_label_classification", 3, -ONES), ("regression", 1, torch.ones(2, 1)), ("regression", 1, torch.ones(3)),
        ("single_label_classification", 3, torch.tensor([0, -100])),
        ("single_label_classification", 3, torch.tensor([0, 1, 2])),
    ],
)  # fmt: skip
def test_labels_that_do_not_fit(problem_type: str, classes: int, labels: Tensor) -> None:
    """A column of regression labels would be compared with every row, and -100 left out."""
    objective, logits = Objective(problem_type), torch.zeros(2, classes)
    for loss in (objective.loss, objective.losses):
        with pytest.raises(ValueError, match=r"^[^\n]*label[^\n]*$"):
            loss(logits, labels)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_labels_of_other_types_in_other_tasks(dtype: torch.dtype) -> None:
    batch = {"input_ids": IDS[:, :-1], "labels": IDS[:, 1:]}
    task = CausalLMTask(gpt(), lr=1e-3)
    expected = task.loss_of(batch, 0, 0)
    assert torch.equal(task.loss_of(batch | {"labels": IDS[:, 1:].to(dtype)}, 0, 0), expected)
    with pytest.raises(ValueError, match="labels of shape"):
        task.loss_of(batch | {"labels": IDS[:, 1:].float()}, 0, 0)
    logits, frames, lengths = torch.zeros(2, 20, 99), torch.tensor([20, 20]), torch.tensor([8, 8])
    assert torch.equal(ctc_loss(logits, frames, IDS.to(dtype), lengths), ctc_loss(logits, frames, IDS, lengths))
    with pytest.raises(ValueError, match="labels of shape"):
        ctc_loss(logits, frames, IDS.float(), lengths)
