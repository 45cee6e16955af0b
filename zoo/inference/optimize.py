"""`zoo.optimize`: a faster copy of a model for inference, with the same outputs.

What is fastest depends on the CPU, so it is measured: weights reordered for the kernels of oneDNN or MKL, activations
fused into the product before them, one product for q, k and v, patches and normalized audio frames as linear maps. The
weight norm of convolutional positions is folded, and the dtype may be one of half precision.
"""

import copy
import time
import warnings
from collections.abc import Sequence
from os import PathLike

import torch
from torch import Tensor

from zoo.checkpoints.accuracy_gate import Example, check_options
from zoo.inference.kernel_choice import build, choose, measure
from zoo.inference.optimize_report import OptimizeReport, read_choices
from zoo.inference.optimized_blocks import compile_blocks, why_not_compiled
from zoo.inference.optimized_int8 import WHY_NOT_COMPILED, check_accuracy, weight_bytes, with_int8_weights
from zoo.inference.optimized_model import Optimized, casting_method, detach_and_cast
from zoo.inference.optimized_parts import Part, fold_positions, parts_of
from zoo.inference.packed_linear import Rows, onednn_dtypes
from zoo.models.base import Model
from zoo.nn.mlp import MLP, activation
from zoo.utils.arguments import check_dtype
from zoo.utils.cpu_features import cpu_name


def optimize(
    model: Model,
    *,
    dtype: torch.dtype | None = None,
    rows: Rows = "many",
    choices: str | PathLike[str] | OptimizeReport | None = None,
    compile: bool = False,
    cuda_graphs: bool = True,
    quantize: str | None = None,
    examples: Sequence[Example] | None = None,
    tolerance: float | None = None,
    approximate_gelu: bool = False,
) -> Model:
    """Create an optimized copy of `model` for inference; `model` itself is not changed.

    For each distinct layer, the ways to compute it are timed on this machine, and the fastest is taken, which may be
    the layer as created: about a second for BERT-base on one core, less for small models. `.optimize_report` of the
    copy prints what was chosen; `optimize_report.save("choices.json")` writes it to a file.

    dtype: the dtype of the computation, such as torch.bfloat16; inputs are cast to it and outputs of half precision to
    float32, also under autocast. None is that of the model, on a GPU, too, where bfloat16 is several times faster.
    rows: "many" for batches and long sequences, "one" for a single row at a time (decoding one text). choices: the
    path of a saved report, or a report: nothing is measured, and the model is the same in every process. Raises
    LoadError if it does not fit this model, dtype, rows or machine.

    On CUDA: cuda_graphs records calls that take longer to launch than to compute, for each combination of input shapes,
    and replays them from the fourth call on; batches with padding are launched. compile: compile the blocks with
    torch.compile, which takes seconds for the first batch and again for the next size, for batches without padding.

    quantize: "int8" stores the weights of linear layers in int8, by torchao, which changes the outputs. So they are
    measured on `examples`, (input of model.preprocess, label) pairs, and ValueError is raised with both numbers if the
    accuracy or the loss is worse by more than `tolerance`. They take less memory, and more time on CUDA.

    approximate_gelu: on CUDA in bfloat16, compute the exact GELU of MLPs by its tanh form, as a part of the product
    before it. They differ by up to 4.8e-4; the mean error is not greater, as nothing is rounded between the two.

    The copy cannot be trained or saved, and raises RuntimeError after the weights or layers of `model` have changed.
    Several threads may call it at the same time. Layers that cannot be optimized (with hooks, adapters or shards) are
    called unchanged, with a warning that names them.
    """
    check_arguments(model, dtype, rows)
    check_quantization(model, quantize, examples, tolerance)
    fast = copy_for_inference(model)
    fold_positions(fast)
    detach_and_cast(fast, dtype)
    before, approximated = weight_bytes(fast), approximate(fast) if approximate_gelu else ""
    chosen = replace_parts(fast, rows, choices, quantize is not None, approximated)
    if compile:
        chosen.compiled = compiled(fast, quantize is not None)
    towers = {name: casting_method(name) for name in dir(model) if name.startswith("encode_")}
    fast.__class__ = type(f"Optimized{type(model).__name__}", (Optimized, type(model)), towers)
    assert isinstance(fast, Optimized)
    fast.attach(model, dtype, chosen, cuda_graphs)
    if examples is not None and tolerance is not None:
        change = check_accuracy(copy_for_inference(model), fast, examples, tolerance)
        sizes = f"int8 weights: {before / 1e6:.1f} MB of weights became {weight_bytes(fast) / 1e6:.1f} MB"
        chosen.quantized = f"{sizes}; {change} on {len(examples):,} examples"
    if names := ", ".join(chosen.unoptimized):
        warnings.warn(f"not optimized, because not plain nn.Linear layers: {names}", stacklevel=2)
    return fast


def check_arguments(model: Model, dtype: torch.dtype | None, rows: str) -> None:
    """Raise ValueError for what cannot be optimized; warn of a dtype that this CPU computes slowly."""
    if rows not in ("many", "one"):
        raise ValueError(f"rows={rows!r}: expected 'many' or 'one'")
    check_dtype(dtype)
    if not isinstance(model, Model):
        raise ValueError(f"expected a zoo.Model, got a {type(model).__name__}; unwrap it first (ddp.module)")
    if isinstance(model, Optimized):
        raise ValueError("this model is optimized already: call zoo.optimize on the model it was made from")
    if dtype == torch.bfloat16 and torch.bfloat16 not in onednn_dtypes() and model.device.type == "cpu":
        warnings.warn(
            "this CPU has no instructions for bfloat16 (AVX-512): zoo.optimize(dtype=torch.bfloat16) computes without "
            "oneDNN and more slowly than in float32, so omit dtype=",
            stacklevel=3,
        )


def check_quantization(
    model: Model, quantize: str | None, examples: Sequence[Example] | None, tolerance: float | None
) -> None:
    """Raise ValueError for options that quantize no model, or not this one."""
    if quantize is not None:
        check_options(model, quantize, examples, tolerance, "optimize it")
    elif examples is not None or tolerance is not None:
        raise ValueError("examples= and tolerance= measure quantized models: give quantize='int8', or omit them")


def copy_for_inference(model: Model) -> Model:
    """A copy of a model in evaluation mode, which shares its weights."""
    shared = {id(t): t for t in [*model.parameters(), *model.buffers()]}
    attributes = [value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor)]
    shared |= {id(t): t for t in attributes if not t.is_leaf}  # computed weights, of pruning or weight norm
    report, preprocess = model.load_report, model.preprocess
    fast = copy.deepcopy(model, shared | {id(report): report, id(preprocess): preprocess})
    fast.eval()
    return fast


def approximate(model: Model) -> str:
    """Replace the exact GELU of MLPs by its tanh form in place, if that is faster; what the report says about it."""
    reason = why_not_approximated(model.device, model.dtype)
    mlps = [module for module in model.modules() if type(module) is MLP and module.act_name == "gelu"]
    if reason is None and not mlps:
        reason = "no MLP has an exact GELU"
    if reason is None:
        for mlp in mlps:
            mlp.act_name, mlp.act = "gelu_tanh", activation("gelu_tanh")
        return "gelu by its tanh form, up to 4.8e-4 from the exact one"
    warnings.warn(f"approximate_gelu=True: nothing is approximated, because {reason}", stacklevel=3)
    return f"gelu as created: {reason}"


def why_not_approximated(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the tanh form is not used; None if it is."""
    if device.type != "cuda":
        return f"the tanh form is a part of the product on CUDA, and the model is on {device.type!r}"
    if dtype != torch.bfloat16:
        return f"its error is below that of rounding in bfloat16 only, and the dtype is {dtype}"
    return None


def compiled(model: Model, int8: bool) -> str:
    """Compile the blocks of a model in place, if that is possible; what the report says about it."""
    reason = why_not_compiled(model.device) or (WHY_NOT_COMPILED if int8 else None)
    if reason is None:
        return f"blocks compiled by torch.compile: {compile_blocks(model)}, for batches without padding"
    warnings.warn(f"compile=True: the blocks are not compiled, because {reason}", stacklevel=3)
    return f"blocks not compiled: {reason}"


def replace_parts(
    model: Model,
    rows: Rows,
    choices: str | PathLike[str] | OptimizeReport | None,
    int8: bool = False,
    approximated: str = "",
) -> OptimizeReport:
    """Replace the parts of a model in place as chosen, by measuring or by `choices`; returns the report."""
    parts, unoptimized = parts_of(model, rows)
    if int8:
        parts = with_int8_weights(parts)
    distinct: dict[str, Part] = {}
    for part in parts:
        distinct.setdefault(part.key, part)
    dtype = str(model.dtype).removeprefix("torch.")
    if choices is None:
        started = time.perf_counter()
        seconds = measure(distinct, model.device)
        report = OptimizeReport(dtype, rows, machine(model.device), choose(distinct, seconds), seconds)
        report.source = f"measured in {time.perf_counter() - started:.1f} s"
    else:
        report = read_choices(choices, distinct, dtype, rows)
    report.unoptimized, report.approximated = unoptimized, approximated
    report.layers = {key: sum(part.key == key for part in parts) for key in distinct}
    for part in parts:
        replacement = build(part, report.choices[part.key])
        if replacement is not None:
            part.install(replacement.eval())
    return report


def machine(device: torch.device) -> str:
    """The machine and the versions that the speed depends on."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        threads = torch.get_num_threads()
        name = f"{cpu_name()}, {threads} thread{'s' * (threads > 1)}"
    return f"{name}, torch {torch.__version__}"
