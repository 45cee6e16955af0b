"""An optimized model can be copied and pickled, or refuses both in one line that says what to do."""

import copy
import pickle
from typing import Any

import pytest
import torch

import zoo

SMALL = {"width": 16, "depth": 1, "heads": 2, "seed": 0}
IDS = torch.randint(5, 99, (2, 8), generator=torch.Generator().manual_seed(0))
PIXELS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
BATCHES: dict[str, tuple[dict[str, Any], dict[str, torch.Tensor]]] = {
    "vit_cifar_tiny": ({"num_classes": 3}, {"pixel_values": PIXELS}),
    "bert_tiny": ({"num_classes": 3, "vocab_size": 99}, {"input_ids": IDS}),
    "gpt_nano": ({}, {"input_ids": IDS}),
}


def pickled(model: zoo.Model) -> zoo.Model:
    return pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize(
    "duplicate",
    [
        copy.deepcopy,
        pytest.param(pickled, marks=pytest.mark.xfail(
            strict=True, raises=pickle.PicklingError, reason="the class of an optimized model is in no module")),
    ],
)  # fmt: skip
def test_a_copy_answers_the_same(duplicate: Any, name: str) -> None:
    options, batch = BATCHES[name]
    model = zoo.optimize(zoo.create_model(name, **SMALL, **options).eval())
    try:
        twin = duplicate(model)
    except ValueError as error:
        assert "\n" not in str(error)
    else:
        with torch.no_grad():
            assert torch.allclose(twin(**batch), model(**batch), atol=1e-6)
