"""The graph of a model in ONNX, by torch.export and the dynamo exporter, and its comparison with the model."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.checkpoints.golden import named_outputs
from zoo.checkpoints.onnx.inputs import Axis, Part, example_inputs
from zoo.models.base import Model
from zoo.models.mapping.tensors import config_as_tied, tie, tied_names
from zoo.models.registry import build, family

OPSET = 20
ONE_FILE = 2_000_000_000  # bytes of weights that one file of at most 2 GiB holds; more are stored beside it
BATCHES = range(1, 10)  # that are compared
TOLERANCE = 1e-5
INSTALL = 'format="onnx" needs onnx, onnxscript and onnxruntime: pip install "attention-zoo[export]"'


class Graph(nn.Module):
    """A model that takes its inputs in order and returns its outputs as a tuple."""

    def __init__(self, model: Model, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(named_outputs(self.model(**dict(zip(self.names, inputs, strict=True)))).values())


def check_installed() -> None:
    """Raise ImportError with the line that installs the extra."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        raise ImportError(INSTALL) from None


def plain_float32(model: Model, tensors: Mapping[str, Tensor]) -> Model:
    """A model on the CPU in float32 and evaluation mode with these tensors, which are copied only if they differ."""
    same = build(family(model.family), config_as_tied(model))
    state = {name: t.to("cpu", torch.float32 if t.is_floating_point() else t.dtype) for name, t in tensors.items()}
    state |= {name: state[other] for name, other in tied_names(model).items()}
    tied = tied_names(same)
    same.load_state_dict(state, assign=True)
    tie(same, tied)
    if lost := [name for name, buffer in same.named_buffers() if buffer.is_meta]:
        raise ValueError(f"the buffer {lost[0]} is not part of the state dict: register it as persistent")
    return same.eval().requires_grad_(False)


def output_names(model: Model, outputs: Mapping[str, Tensor]) -> list[str]:
    """Names of the outputs: those of a model with several, else logits, features (head="pool") or hidden_states. One
    that is called as an input is `output_...`, since names are unique in a graph."""
    if list(outputs) != ["output"]:
        return [f"output_{name}" if name in model.inputs else name for name in outputs]
    return [{"pool": "features", None: "hidden_states"}.get(model.config.head, "logits")]


def write_graph(model: Model, parts: list[Part], file: Path) -> None:
    """Write a model as ONNX. Raises ValueError for a part of it that cannot be traced at any batch size and length."""
    check_mixers(model, parts)
    inputs = example_inputs(parts, 3, 2)
    axes = {name: part.ranges(name) for part in parts for name in part.names.values()}
    with torch.no_grad(), quiet():
        outputs = output_names(model, named_outputs(model(**example_inputs(parts, 2, 0))))
    write_module(Graph(model, list(inputs)), inputs, axes, outputs, file, refusal(model))


def write_module(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    axes: Mapping[str, Mapping[int, Axis]],
    outputs: Sequence[str],
    file: Path,
    refused: str,
) -> None:
    """Write a module, which takes its inputs in order and returns a tuple, as ONNX; its weights go beside the file if
    one file cannot hold them.

    inputs: examples by name. axes: those of each input that have any size. outputs: their names. refused: the beginning
    of the ValueError for a module that cannot be traced at any such size.
    """
    shapes = tuple(dict.fromkeys(axes[name], torch.export.Dim.DYNAMIC) for name in inputs)
    with torch.no_grad(), quiet():
        try:
            program = torch.export.export(module, tuple(inputs.values()), dynamic_shapes=(shapes,), strict=False)
            check_ranges(program, list(inputs), axes)
            written: Any = torch.onnx.export(
                program,
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_shapes=(tuple({i: axis.label for i, axis in axes[name].items()} for name in inputs),),
                opset_version=OPSET,
                verbose=False,
            )
        except Exception as error:  # the exporters raise errors of many types
            raise ValueError(f"{refused}: {reason(error)}") from error
    for node in written.model.graph.all_nodes():
        node.metadata_props.clear()  # the lines of source that it comes from, with the paths of this machine
    written.save(file, external_data=size_of(written.model.graph) > ONE_FILE)


def size_of(graph: Any) -> int:
    """The bytes of the weights of a graph."""
    weights = [value.const_value for value in graph.initializers.values()]
    return sum(weight.nbytes for weight in weights if weight is not None)


def check_mixers(model: Model, parts: list[Part]) -> None:
    """Raise ValueError for a mixer whose graph holds for one length, if the inputs have any length."""
    if not any(part.lengths for part in parts):
        return
    fixed = [module for module in model.modules() if getattr(module, "fixed_length_graph", False)]
    if kinds := {str(module.kind) for module in fixed if hasattr(module, "kind")}:
        raise ValueError(
            f"{refusal(model)}: the mixer {', '.join(map(repr, sorted(kinds)))} says that its graph would hold for one "
            "length only (fixed_length_graph=True); use another mixer, or run the model in PyTorch"
        )
    if fixed:
        raise ValueError(
            f"{refusal(model)}: {type(fixed[0]).__name__} chooses points one after another, and a graph would hold for "
            "one number of points only; set stages=(), or run the model in PyTorch"
        )


def check_ranges(program: Any, names: list[str], axes: Mapping[str, Mapping[int, Axis]]) -> None:
    """Raise ValueError if the graph holds for some batch sizes or lengths only."""
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    users = [nodes[name] for name in program.graph_signature.user_inputs]
    for name, node in zip(names, users, strict=True):
        for i, axis in axes[name].items():
            size = node.meta["val"].shape[i]
            bounds = program.range_constraints.get(size.node.expr) if isinstance(size, torch.SymInt) else None
            if bounds is None or bounds.lower > axis.least or bounds.upper < (axis.most or 2**30):
                found = f"{bounds.lower} to {bounds.upper}" if bounds else str(size)
                raise ValueError(f"the axis {axis.label!r} of {name} is fixed: the graph would hold for {found} only")


class Differences:
    """Largest differences of outputs in onnxruntime from those of torch, by name, over any number of batches."""

    def __init__(self) -> None:
        self.differences: dict[str, float] = {}
        self.scales: dict[str, float] = {}

    def add(self, name: str, got: Tensor, want: Tensor) -> None:
        """One output of one batch. Raises ValueError if the shapes differ."""
        if got.shape != want.shape:
            raise ValueError(
                f"the ONNX graph was not written: in onnxruntime its output {name!r} is {tuple(got.shape)} "
                f"for {len(want)} rows, and in torch {tuple(want.shape)}"
            )
        difference = float((got - want).abs().max().nan_to_num(nan=torch.inf))
        self.differences[name] = max(self.differences.get(name, 0.0), difference)
        self.scales[name] = max(self.scales.get(name, 0.0), float(want.abs().max()))

    def worst(self) -> float:
        """The largest difference, divided by the largest value of its output. Raises ValueError above 1e-5."""
        relative = {name: found / (self.scales[name] or 1.0) for name, found in self.differences.items()}
        name = max(relative, key=lambda each: relative[each])
        if not relative[name] <= TOLERANCE:
            raise ValueError(
                f"the ONNX graph was not written: its output {name!r} in onnxruntime differs from that of torch by "
                f"{self.differences[name]:.2g}, {relative[name]:.1e} of its largest value {self.scales[name]:.3g}, "
                f"more than {TOLERANCE:.0e}"
            )
        return relative[name]


def compare(model: Model, parts: list[Part], file: Path) -> float:
    """The largest difference of the graph in onnxruntime from the model, in batches of 1 to 9 rows at two lengths.

    Of each output: max |onnxruntime - torch| over all batches, divided by max |torch|. Texts and waveforms have padded
    rows. Raises ValueError if it is more than 1e-5.
    """
    session, found = open_session(file), Differences()
    names = [output.name for output in session.get_outputs()]
    sizes = (0, 1) if any(part.lengths for part in parts) else (0,)
    for rows in BATCHES:
        for size in sizes:
            inputs = example_inputs(parts, rows, size, seed=rows + size)
            with torch.no_grad(), quiet():
                expected = named_outputs(model(**inputs)).values()
            for name, got, want in zip(names, run(session, inputs), expected, strict=True):
                found.add(name, got, want)
    return found.worst()


def open_session(file: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def run(session: Any, inputs: Mapping[str, Tensor]) -> list[Tensor]:
    """Outputs of a session for the inputs that it takes."""
    taken = {value.name: inputs[value.name].numpy() for value in session.get_inputs()}
    return [torch.from_numpy(output) for output in session.run(None, taken)]


def refusal(model: Model) -> str:
    """The beginning of the error for a model that cannot be exported, naming what is unusual in it."""
    kinds = {str(getattr(m, "kind", "")) for m in model.modules() if hasattr(m, "pattern")} - {"", "softmax"}
    own = {type(m).__name__ for m in model.modules() if getattr(m, "foreign", False)}
    causal = any(getattr(getattr(m, "spec", None), "causal", False) for m in model.modules())
    named = [f"attention={kind!r}{' with a causal mask' * causal}" for kind in sorted(kinds)] + sorted(own)
    return f"this {model.family} cannot be exported to ONNX" + (f" (it has {', '.join(named)})" if named else "")


def reason(error: BaseException) -> str:
    """The first line of an error's cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of the exporters and of models about inputs that are examples."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # some of them go to the root logger
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
