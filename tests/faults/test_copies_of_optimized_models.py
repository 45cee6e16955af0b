"""An optimized model can be copied and pickled, or refuses both in one line that says what to do."""

import copy
import io
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


# oneDNN packs the weights of bfloat16 at any size, those of float32 from 65,536 numbers on
SIZES: dict[str, tuple[dict[str, Any], torch.dtype | None]] = {
    "small": ({}, None), "float32": ({"width": 256, "heads": 4}, None), "bfloat16": ({}, torch.bfloat16)
}  # fmt: skip


def optimized(name: str, size: str) -> tuple[zoo.Model, zoo.Model, dict[str, torch.Tensor]]:
    fields, dtype = SIZES[size]
    options, batch = BATCHES[name]
    model = zoo.create_model(name, **SMALL | options | fields).eval()
    return model, zoo.optimize(model, dtype=dtype), batch


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("duplicate", [copy.deepcopy, copy.copy])
def test_a_copy_gives_the_same(duplicate: Any, name: str, size: str) -> None:
    original, model, batch = optimized(name, size)
    twin = duplicate(model)
    with torch.no_grad():
        assert twin is not model and torch.equal(twin(**batch), model(**batch))
        original.blocks[0].mixer.q.weight.add_(1)
    with pytest.raises(RuntimeError, match="have changed since"):
        twin(**batch)


@pytest.mark.parametrize("size", SIZES)
def test_a_deep_copy_shares_no_module(size: str) -> None:
    _, model, batch = optimized("bert_tiny", size)
    twin = copy.deepcopy(model)
    assert {*map(id, model.modules())}.isdisjoint({*map(id, twin.modules())})
    with torch.no_grad():
        expected = model(**batch)
        for p in twin.parameters():
            p.zero_()
        assert torch.equal(model(**batch), expected)


@pytest.mark.parametrize("save", [pickle.dumps, lambda model: torch.save(model, io.BytesIO())], ids=["pickle", "torch"])
@pytest.mark.parametrize("size", SIZES)
def test_pickling_is_refused_in_one_line(save: Any, size: str) -> None:
    _, model, _ = optimized("vit_cifar_tiny", size)
    with pytest.raises(ValueError, match=r"^an optimized model cannot be pickled: [^\n]*$"):
        save(model)
