"""A model that is sharded over two processes computes what the whole one does, by every method that takes a batch."""

from typing import Any

import torch
from ranks import ranks
from torch.distributed.device_mesh import init_device_mesh

import zoo
from zoo.parallel.fsdp import shard

TEXT = {"width": 16, "depth": 2, "heads": 2, "vocab_size": 50}
IDS = torch.randint(5, 50, (2, 7), generator=torch.Generator().manual_seed(0))


def text_model() -> Any:
    return zoo.create_model("bert_tiny", head="masked_lm", seed=0, **TEXT).eval()


def two_towers() -> Any:
    image = {"name": "vit_cifar_tiny", "depth": 1, "width": 16, "heads": 2}
    text = {"name": "bert_tiny", "pool": "mean", "pooler": None, **TEXT}
    return zoo.contrast(image=image, text=text, width=8, seed=0).eval()


def outputs(model: Any) -> list[torch.Tensor]:
    with torch.no_grad():
        if hasattr(model, "encode_text"):
            return [model.encode_text(IDS), model(input_ids=IDS).logit_scale.reshape(())]
        return [model.encode(IDS), model(input_ids=IDS)]


def sharded(rank: int, name: str) -> list[torch.Tensor]:
    model = shard({"text": text_model, "towers": two_towers}[name](), init_device_mesh("cpu", (2,)))
    return [getattr(x, "full_tensor", lambda x=x: x)() for x in outputs(model)]


def test_encode_before_any_forward() -> None:
    for found in ranks(2, sharded, "text"):
        for one, other in zip(found, outputs(text_model()), strict=True):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_towers_and_a_scalar_parameter() -> None:
    for found in ranks(2, sharded, "towers"):
        for one, other in zip(found, outputs(two_towers()), strict=True):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
