"""Models of several parts are traced by torch.compile as one graph, forward and backward, with equal numbers."""

from dataclasses import fields, is_dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import zoo
from zoo.models.example_batch import example_batch
from zoo.models.registry import families

TEXT: dict[str, Any] = {"text.depth": 1}
BOTH = TEXT | {"image.depth": 1}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "paligemma": ("paligemma_nano", BOTH), "gemma3": ("gemma3_vision_nano", BOTH), "idefics": ("idefics_nano", {}),
    "llava": ("llava_nano", TEXT), "bridge": ("bridge_nano", TEXT), "clip": ("clip_tiny", BOTH),
    "siglip": ("siglip_tiny", BOTH), "blip": ("blip_nano", dict(depth=1, decoder_depth=1)),
    "coca": ("coca_nano", dict(depth=1, text_depth=1, decoder_depth=1)), "dalle": ("dalle_nano", dict(depth=1)),
    "maskgit": ("maskgit_nano", dict(depth=1)), "t5": ("t5_nano", dict(depth=1, decoder_depth=1)),
    "bart": ("bart_nano", dict(depth=1, decoder_depth=1)), "marian": ("marian_nano", dict(depth=1, decoder_depth=1)),
    "whisper": ("whisper_nano", dict(depth=1, decoder_depth=1)),
    "transformer": ("transformer_nano", dict(depth=1, decoder_depth=1)),
}  # fmt: skip
ELSEWHERE = {"contrast", "dvae", "evoformer"}  # tests/models/test_contrast.py, test_dvae.py, test_evoformer.py
# What the data decides (sizes of images, edges of a graph), and torch's recurrent layers: not as one graph.
IN_PARTS = {"llava_next", "gat", "graph_transformer", "rnn_seq2seq"}
FULL = [name for name in MODELS if name not in ("paligemma", "gemma3")]


def tensors(output: Any) -> list[Tensor]:
    values = [getattr(output, f.name) for f in fields(output)] if is_dataclass(output) else [output]
    return [value for value in values if isinstance(value, Tensor) and value.requires_grad]


def graded(model: zoo.Model, outputs: list[Tensor]) -> list[Tensor]:
    """The outputs, and the gradients of all parameters that have one."""
    model.zero_grad()
    torch.stack([(y * torch.linspace(-1, 1, y.numel()).view(y.shape)).sum() for y in outputs]).sum().backward()
    return [*(y.detach() for y in outputs), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.full] if n in FULL else []) for n in MODELS])
def test_one_graph_forward_and_backward(name: str) -> None:
    variant, options = MODELS[name]
    model = zoo.create_model(variant, seed=0, **options).eval()
    batch = example_batch(model)
    expected = graded(model, tensors(model(**batch)))
    torch._dynamo.reset()
    ours = graded(model, tensors(torch.compile(model, backend="eager", fullgraph=True)(**batch)))
    assert len(ours) == len(expected) > 2
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5 * max(1.0, b.abs().max().item()), rtol=0)


def test_no_family_is_forgotten() -> None:
    several = {f.name for f in families() if f.modality == "multimodal" or "decoder_input_ids" in f.model.inputs}
    assert several <= {*MODELS, *ELSEWHERE, *IN_PARTS}


@pytest.mark.full
def test_llava_next_in_parts() -> None:
    model = zoo.create_model("llava_next_nano", seed=0, **TEXT).eval()
    batch = example_batch(model)
    torch._dynamo.reset()
    with torch.no_grad():
        assert torch.allclose(torch.compile(model, backend="eager")(**batch), model(**batch), atol=1e-5)
