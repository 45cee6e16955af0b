"""int8 weights by onnxruntime's dynamic quantization, accepted only if a measure on labeled examples allows it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.checkpoints.accuracy_gate import (
    Change,
    Example,
    check_change,
    indices,
    measure,
    name_of_measure,
    preprocessed,
)
from zoo.checkpoints.onnx import graph
from zoo.checkpoints.onnx.graph import open_session, quiet, run
from zoo.models.base import Model

OPERATORS = ("MatMul", "Gemm", "Gather")  # linear layers and embeddings; convolutions would be slower in int8 on a CPU


def quantize_file(model: Model, file: Path, examples: Sequence[Example], tolerance: float) -> Change:
    """Replace a float32 graph by its int8 version. Raises ValueError if the measure gets worse by more than tolerance.

    Linear layers and embeddings get int8 weights, with one scale per channel; activations are quantized as they come.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    small = file.parent / "int8" / file.name
    small.parent.mkdir()
    labels = indices(model, [label for _, label in examples])
    before = measure_file(model, file, examples, labels)
    with quiet():
        quantize_dynamic(
            file,
            small,
            op_types_to_quantize=list(OPERATORS),
            per_channel=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=sum(t.nbytes for t in model.state_dict().values()) > graph.ONE_FILE,
        )
    after = measure_file(model, small, examples, labels)
    change = Change(name_of_measure(model), before, after)
    check_change(change, tolerance, len(examples), "the int8 model was not written", "export it")
    for old in file.parent.glob(f"{file.name}*"):
        old.unlink()
    for new in small.parent.iterdir():
        new.replace(file.parent / new.name)
    small.parent.rmdir()
    return change


def measure_file(model: Model, file: Path, examples: Sequence[Example], labels: Sequence[Any]) -> float:
    """The accuracy or the loss of a graph on examples."""
    session = open_session(file)

    def compute(items: list[Any]) -> tuple[Tensor, dict[str, Tensor]]:
        batch = preprocessed(model, items)
        batch = {value.name: batch[value.name] for value in session.get_inputs()}
        return run(session, batch)[0], batch

    return measure(model, compute, examples, labels)
