"""int8 weights of linear layers by torchao, for optimized models."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from zoo.checkpoints.accuracy_gate import (
    Change,
    Example,
    check_change,
    indices,
    measure,
    name_of_measure,
    preprocessed,
)
from zoo.inference.optimized_parts import JOINED, PLAIN, Build, Part
from zoo.inference.packed_linear import ConstantLinear
from zoo.models.base import Model

INT8 = "int8"  # the one candidate of a part with int8 weights
# Of one image of ViT-B on an H100, by torch 2.11 and torchao 0.18; not compiled, it takes 1.5 ms.
WHY_NOT_COMPILED = "compiled code is slower with int8 weights: 43 ms in place of 1.5 ms for one image (ViT-B, H100)"


def with_int8_weights(parts: Sequence[Part]) -> list[Part]:
    """The parts, with int8 weights in linear layers: q, k and v as one product, as gate and up; convolutions stay."""
    quantize = quantizer()

    def quantized(build: Build) -> Build:
        def build_int8(share: float) -> nn.Module:
            module = build(share)
            for layer in module.modules():
                if isinstance(layer, ConstantLinear):
                    layer.weight_ = quantize(layer.weight_)
            return module

        return build_int8

    new = []
    for part in parts:
        if part.kind in ("linear", "gated", "attention"):
            build = part.candidates[PLAIN if part.kind == "linear" else JOINED]
            part = replace(part, candidates={INT8: quantized(build)})
        new.append(part)
    return new


def quantizer() -> Callable[[Tensor], Tensor]:
    """The function that stores a weight [out, in] in int8, with one scale for each output. Raises ImportError."""
    try:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except ImportError:
        raise ImportError("quantize='int8' needs torchao: pip install 'attention-zoo[int8]'") from None

    def quantize(weight: Tensor) -> Tensor:
        linear = nn.Linear(1, 1, bias=False, device="meta")
        linear.weight = nn.Parameter(weight.detach(), requires_grad=False)
        quantize_(linear, Int8WeightOnlyConfig(set_inductor_config=False))  # its settings are of the whole process
        return linear.weight.detach()

    return quantize


def check_accuracy(model: Model, fast: Model, examples: Sequence[Example], tolerance: float) -> Change:
    """The accuracy (or loss) of a model and of its int8 version. Raises ValueError if that is worse by too much."""
    labels = indices(model, [label for _, label in examples])
    before, after = (measure(one, computed_by(one), examples, labels) for one in (model, fast))
    dtype = str(model.dtype).removeprefix("torch.")
    change = Change(name_of_measure(model), before, after, dtype)
    check_change(change, tolerance, len(examples), "the model was not optimized", "optimize it")
    return change


def computed_by(model: Model) -> Callable[[list[Any]], tuple[Tensor, Mapping[str, Tensor]]]:
    def compute(items: list[Any]) -> tuple[Tensor, Mapping[str, Tensor]]:
        batch = preprocessed(model, items)
        taken = {name: value.to(model.device) for name, value in batch.items() if name in model.inputs}
        taken = {n: v.to(model.dtype) if v.is_floating_point() else v for n, v in taken.items()}
        with torch.no_grad():
            return model(**taken).to("cpu", torch.float32), batch

    return compute


def weight_bytes(model: nn.Module) -> int:
    """Bytes of the weights of a model, of which those that several layers share are counted once."""
    tensors = {id(t): t for module in model.modules() for t in tensors_of(module)}
    parts = [part for t in tensors.values() for part in storage_parts(t)]
    return sum({part.data_ptr(): part.nbytes for part in parts}.values())


def tensors_of(module: nn.Module) -> list[Tensor]:
    own = [*module._parameters.values(), *module._buffers.values(), *vars(module).values()]
    return [value for value in own if isinstance(value, Tensor)]


def storage_parts(tensor: Tensor) -> list[Tensor]:
    """The tensors that hold the data of a tensor: those of an int8 weight are its numbers and its scales."""
    if is_traceable_wrapper_subclass(tensor):
        names, _ = tensor.__tensor_flatten__()
        return [part for name in names for part in storage_parts(getattr(tensor, name))]
    return [] if tensor.is_mkldnn else [tensor]
