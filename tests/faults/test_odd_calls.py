"""Arguments of predict, generate, capture and optimized models that have no meaning are refused in one line."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import zoo
from zoo.preprocessing.tokenizer_training import train

IDS = torch.tensor([[1, 2, 3, 4]])
IMAGE = Image.fromarray(np.full((32, 32, 3), 90, np.uint8))


@pytest.fixture(scope="module")
def images() -> zoo.Model:
    return zoo.create_model("vit_cifar_tiny", depth=1, width=16, heads=2, num_classes=3, seed=0).eval()


@pytest.fixture(scope="module")
def decoder() -> zoo.Model:
    return zoo.create_model("gpt_nano", depth=1, width=16, heads=2, vocab_size=64, seed=0).eval()


def test_a_tuple_of_images_does_not_lose_all_but_the_first(images: zoo.Model) -> None:
    with pytest.raises(ValueError, match="given a tuple of 2 inputs: expected one input, or a list"):
        zoo.predict(images, (IMAGE, IMAGE))
    assert len(zoo.predict(images, [IMAGE, IMAGE])) == 2


def test_a_tuple_of_two_texts_is_one_pair() -> None:
    model = zoo.create_model("bert_tiny", depth=1, vocab_size=64, head="classify", num_classes=3, seed=0).eval()
    model.preprocess = train("wordpiece", ["a b c", "a c"], 64)
    assert [len(zoo.predict(model, x)) for x in ("a", ("a", "b"))] == [3, 3]


@pytest.mark.parametrize("top_k", [0, -1, 1.5, "a", None, True], ids=repr)
def test_top_k(top_k: Any, images: zoo.Model) -> None:
    with pytest.raises(ValueError, match=r"top_k=.*expected a whole number of at least 1"):
        zoo.predict(images, IMAGE, top_k=top_k)


@pytest.mark.parametrize("model", [None, "folder", nn.Linear(2, 2)], ids=["None", "a path", "another module"])
def test_what_is_not_a_model(model: Any) -> None:
    with pytest.raises(ValueError, match=f"given a {type(model).__name__}"):
        zoo.predict(model, IMAGE)
    with pytest.raises(ValueError, match=f"given a {type(model).__name__}"):
        zoo.generate(model, IDS)
    with pytest.raises(ValueError, match=r"given a|has no attention layer"), zoo.capture(model):
        pass


def test_a_compiled_model_predicts(images: zoo.Model) -> None:
    compiled: Any = torch.compile(images, backend="eager")
    assert zoo.predict(compiled, IMAGE) == zoo.predict(images, IMAGE)


@pytest.mark.parametrize("ids", [[[1, 2]], "text", np.array([[1, 2]]), None], ids=lambda value: type(value).__name__)
def test_ids_that_are_not_a_tensor(ids: Any, decoder: zoo.Model) -> None:
    no_tensor = "the model has no tokenizer" if isinstance(ids, str) else "input_ids: expected a tensor"
    with pytest.raises(ValueError, match=no_tensor):
        zoo.generate(decoder, ids)
    with pytest.raises(
        ValueError, match="input_ids: expected a tensor" if ids is not None else "'input_ids' is missing"
    ):
        decoder(input_ids=ids)


def test_a_mask_that_is_not_a_tensor(decoder: zoo.Model) -> None:
    mask: Any = [[1, 1, 1, 1]]
    for call in (zoo.generate, lambda model, ids, mask: model(input_ids=ids, attention_mask=mask)):
        with pytest.raises(ValueError, match="attention_mask: expected a tensor"):
            call(decoder, IDS, mask)


@pytest.mark.parametrize("seed", ["a", 1.5, True], ids=repr)
def test_a_seed(seed: Any, decoder: zoo.Model) -> None:
    with pytest.raises(ValueError, match=r"seed=.*expected a whole number"):
        zoo.generate(decoder, IDS, seed=seed)


@pytest.mark.parametrize(
    "options", [{"rows": slice(0, 2)}, {"heads": 1.5}, {"layers": 1.5}, {"layers": None}, {"reduce": "mean"}], ids=str
)
def test_options_of_capture(options: dict[str, Any], decoder: zoo.Model) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))}=.*expected"), zoo.capture(decoder, **options):
        pass


CHANGES: dict[str, Callable[[Any], object]] = {
    "half": lambda model: model.half(),
    "double": lambda model: model.to(torch.float64),
    "meta": lambda model: model.to("meta"),
    "a new head": lambda model: model.reset_head(3),
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_optimized_model_is_not_cast_or_moved(change: str, decoder: zoo.Model) -> None:
    fast = zoo.optimize(decoder)
    with torch.no_grad():
        expected = fast(input_ids=IDS)
        with pytest.raises(ValueError, match="optimized model"):
            CHANGES[change](fast)
        assert torch.equal(fast.to("cpu").float()(input_ids=IDS), expected)
