"""Every family on a GPU: outputs and gradients are those of a CPU, with padding and in half precision, optimized, and
with every attention kind; generated tokens are the same. `.ci/full` also runs it without a GPU: float32 is compared
with the other dtypes and with optimized models."""

import dataclasses
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import zoo
from zoo.models.example_batch import example_batch
from zoo.models.registry import families, family

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu" and os.environ.get("ZOO_FULL", "0") == "0":
    pytest.skip("needs a GPU with CUDA, or ZOO_FULL=1", allow_module_level=True)

sys.path.insert(0, str(Path(__file__).parent))
try:  # which have the families at test size
    import test_bridge
    import test_contract
    import test_encoder_decoder
    import test_graphs
    import test_text_to_image
    from test_contract import KINDS, PADDED, ROWS, SHAPES
finally:
    sys.path.pop(0)

pytestmark = pytest.mark.gpu if DEVICE == "cuda" else pytest.mark.full
Batch = dict[str, Any]


@pytest.fixture(autouse=True)
def exact_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions of float32 in float32, as products are without a change."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def small(name: str) -> zoo.Model:
    """A family at test size."""
    if name in ROWS:
        return test_contract.small(name)
    if name in test_encoder_decoder.NAMES:
        return test_encoder_decoder.small(name)
    if name in test_bridge.BRIDGES:
        return test_bridge.small(name).eval()
    if name in test_text_to_image.NAMES:
        return test_text_to_image.small(name).eval()
    if name in test_graphs.FAMILIES:
        return test_graphs.small(name).eval()
    return zoo.create_model(next(iter(family(name).variants)), seed=0).eval()


def batch_of(name: str, model: zoo.Model) -> Batch:
    """Rows on the CPU that use all inputs."""
    if name in ROWS:
        return test_contract.all_inputs(name)
    if name in test_encoder_decoder.NAMES:
        return test_encoder_decoder.batch_of(name)
    if name in test_bridge.BRIDGES:
        return test_bridge.several(model)  # type: ignore[arg-type]
    if name in test_text_to_image.NAMES:
        return test_text_to_image.batch(name)
    return example_batch(model)


def with_noise(model: zoo.Model) -> zoo.Model:
    """All parameters changed: fresh norms are ones, fresh biases and gates zeros."""
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i)))
    return model


def tensors(output: Any) -> Iterator[Tensor]:
    """The tensors of floats of an output, whatever it is."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif dataclasses.is_dataclass(output):
        for field in dataclasses.fields(output):
            yield from tensors(getattr(output, field.name))
    elif isinstance(output, Mapping | list | tuple):
        for value in output.values() if isinstance(output, Mapping) else output:
            yield from tensors(value)


def moved(batch: Batch, device: str, dtype: torch.dtype = torch.float32) -> Batch:
    """The batch on a device, its floats in a dtype."""
    return {key: x.to(device, dtype if x.is_floating_point() else x.dtype) if isinstance(x, Tensor) else x
            for key, x in batch.items()}  # fmt: skip


def graded(model: zoo.Model, batch: Batch, real: Tensor | None = None) -> list[Tensor]:
    """Outputs, at real tokens, and gradients, as float32 on the CPU."""
    model.zero_grad()
    outputs = [y.float() if real is None or y.ndim < 3 else y.float() * real.to(y.device)[..., None]
               for y in tensors(model(**batch))]  # fmt: skip
    sum((y * torch.linspace(-1, 1, y.numel(), device=y.device).view_as(y)).sum() for y in outputs if y.requires_grad
        ).backward()  # type: ignore[union-attr]  # fmt: skip
    found = [*outputs, *(p.grad for p in model.parameters() if p.grad is not None)]
    return [x.detach().float().cpu() for x in found]


def assert_near(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    """By the norm of each tensor; a gradient may be small beside the others."""
    assert len(found) == len(expected) > 1
    least = 1e-2 * max(float(x.norm()) / x.numel() ** 0.5 for x in expected)
    errors = [float((a - b).norm() / (b.norm() + least * b.numel() ** 0.5)) for a, b in zip(found, expected)]
    assert max(errors) <= tolerance, [f"{e:.1e}" for e in errors if e > tolerance]


def compare(make: Callable[[], zoo.Model], batch: Batch, real: Tensor | None = None, dtype: torch.dtype = torch.float32,
            tolerance: float = 1e-5) -> None:  # fmt: skip
    """A model in a dtype on the GPU with the same in float32 on the CPU."""
    expected = graded(with_noise(make()), batch, real)
    assert_near(graded(with_noise(make()).to(DEVICE, dtype), moved(batch, DEVICE, dtype), real), expected, tolerance)


@pytest.mark.parametrize(("name", "shape"), SHAPES)
def test_shapes(name: str, shape: str) -> None:
    compare(lambda: test_contract.shaped(name, shape), test_contract.all_inputs(name))


@pytest.mark.parametrize("name", sorted({f.name for f in families()} - {"contrast", "bridge", *ROWS}))
def test_families_of_several_parts(name: str) -> None:
    model = small(name)
    compare(lambda: small(name), batch_of(name, model), tolerance=3e-5)


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_kinds(name: str, kind: str) -> None:
    compare(lambda: test_contract.small(name, attention=kind), test_contract.all_inputs(name, kind), tolerance=3e-5)


@pytest.mark.parametrize("name", PADDED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_padded_rows(name: str, dtype: torch.dtype) -> None:
    batch, _ = test_contract.padded(name)
    real = test_contract.real_tokens(test_contract.small(name), batch)
    tolerance = 1e-5 if dtype == torch.float32 else 0.15  # of gradients
    compare(lambda: test_contract.small(name, head=None), batch, real, dtype, tolerance)


@pytest.mark.parametrize("name", [f.name for f in families() if f.name not in ("contrast", "bridge")])
@torch.no_grad()
def test_half_precision_and_optimized(name: str) -> None:
    """Evaluation in bfloat16, and by `zoo.optimize` in both dtypes."""
    model = with_noise(small(name))
    batch = batch_of(name, model)
    expected = [y.float() for y in tensors(model(**batch))]
    for dtype, tolerance in ((torch.float32, 3e-5), (torch.bfloat16, 0.1)):
        for optimize in (False, True):
            ours = with_noise(small(name)).to(DEVICE, dtype)
            ours = zoo.optimize(ours) if optimize else ours
            for _ in range(3):  # launched, recorded, replayed
                found = [y.float().cpu() for y in tensors(ours(**moved(batch, DEVICE, dtype)))]
                for a, b in zip(found, expected, strict=True):
                    error = float((a - b).norm() / (b.norm() + 1e-3))
                    assert error <= tolerance, (dtype, optimize, error)


DECODERS = [name for name in test_contract.CAUSAL if ROWS[name].variant] + test_encoder_decoder.NAMES


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"temperature": 1.0, "seed": 0, "top_k": 5}], ids=str)
def test_generated_tokens(name: str, options: dict[str, Any]) -> None:
    """Greedy and beams: those of a CPU; drawn ones: the same twice, and none outside of the vocabulary."""
    model = with_noise(small(name))
    batch = test_contract.padded(name)[0] if name in PADDED else batch_of(name, model)
    batch = {key: value for key, value in batch.items() if not key.startswith("decoder")}
    if name in test_encoder_decoder.BATCHES:
        batch = test_encoder_decoder.source(name)
    given = dict(max_new_tokens=9, eos_token_id=None) | options
    expected = zoo.generate(model, **batch, **given)
    model.to(DEVICE)
    found = [zoo.generate(model, **moved(batch, DEVICE), **given).cpu() for _ in range(2)]
    assert torch.equal(*found)
    if "seed" not in options:
        assert torch.equal(found[0], expected)
    else:
        assert found[0].min() >= 0 and found[0].max() < model.config.vocab_size
