"""`zoo.optimize`: a faster copy of a model for inference, with the same outputs.

What is fastest depends on the CPU, so it is measured: weights reordered for the kernels of oneDNN or MKL, activations
fused into the product before them, one product for q, k and v, patches and normalized audio frames as linear maps. The
weight norm of convolutional positions is folded, and the dtype may be one of half precision.
"""

import copy
import time
import warnings
from collections.abc import Callable
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from zoo.inference.kernel_choice import build, choose, measure
from zoo.inference.optimize_report import OptimizeReport, read_choices
from zoo.inference.optimized_model import Optimized, casting_method, detach_and_cast
from zoo.inference.optimized_parts import Part, fold_positions, parts_of
from zoo.inference.packed_linear import Rows, onednn_dtypes
from zoo.models.base import Model
from zoo.utils.arguments import check_dtype
from zoo.utils.cpu_features import cpu_name


def optimize(
    model: Model,
    *,
    dtype: torch.dtype | None = None,
    rows: Rows = "many",
    choices: str | PathLike[str] | OptimizeReport | None = None,
) -> Model:
    """Create an optimized copy of `model` for inference; `model` itself is not changed.

    For each distinct layer, the ways to compute it are timed on this machine, and the fastest is taken, which may be
    the layer as created: about a second for BERT-base on one core, less for small models. `.optimize_report` of the
    copy prints what was chosen; `optimize_report.save("choices.json")` writes it to a file.

    dtype: the dtype of the computation, such as torch.bfloat16; inputs are cast to it and outputs of half precision to
    float32, also under autocast.
    rows: "many" for batches and long sequences, "one" for a single row at a time (decoding one text). choices: the
    path of a saved report, or a report: nothing is measured, and the model is the same in every process. Raises
    LoadError if it does not fit this model, dtype, rows or machine.

    The copy cannot be trained or saved, and raises RuntimeError after the weights or layers of `model` have changed.
    Several threads may call it at the same time. Layers that cannot be optimized (with hooks, adapters or shards) are
    called unchanged, with a warning that names them.
    """
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
            stacklevel=2,
        )
    shared = {id(t): t for t in [*model.parameters(), *model.buffers()]}  # share the weights instead of copying them
    attributes = [value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor)]
    shared |= {id(t): t for t in attributes if not t.is_leaf}  # computed weights, of pruning or weight norm
    report, preprocess = model.load_report, model.preprocess
    fast = copy.deepcopy(model, shared | {id(report): report, id(preprocess): preprocess})
    fast.eval()
    fold_positions(fast)
    detach_and_cast(fast, dtype)
    chosen = replace_parts(fast, rows, choices)
    methods: dict[str, Callable[..., Any]] = {  # of multi-tower models
        name: casting_method(name) for name in dir(model) if name.startswith("encode_")
    }
    fast.__class__ = type(f"Optimized{type(model).__name__}", (Optimized, type(model)), methods)
    assert isinstance(fast, Optimized)
    fast.attach(model, dtype, chosen, cuda_graphs=True)
    if chosen.unoptimized:
        names = ", ".join(chosen.unoptimized)
        warnings.warn(f"not optimized, because not plain nn.Linear layers: {names}", stacklevel=2)
    return fast


def replace_parts(model: Model, rows: Rows, choices: str | PathLike[str] | OptimizeReport | None) -> OptimizeReport:
    """Replace the parts of a model in place as chosen, by measuring or by `choices`; returns the report."""
    parts, unoptimized = parts_of(model, rows)
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
    report.unoptimized = unoptimized
    report.layers = {key: sum(part.key == key for part in parts) for key in distinct}
    for part in parts:
        replacement = build(part, report.choices[part.key])
        if replacement is not None:
            part.install(replacement.eval())
    return report


def machine(device: torch.device) -> str:
    """The machine and the versions that the speed depends on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
    threads = torch.get_num_threads()
    return f"{name}, {threads} thread{'s' * (threads > 1)}, torch {torch.__version__}"
