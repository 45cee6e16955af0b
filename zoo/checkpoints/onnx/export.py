"""The folder of an ONNX export: the graph, or those of an encoder and its decoder, our config.json and the files of the
preprocessing."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from zoo.checkpoints import accuracy_gate
from zoo.checkpoints.onnx import encoder_decoder, graph, int8
from zoo.checkpoints.onnx.inputs import parts_of
from zoo.models.base import Model
from zoo.models.encoder_decoder import EncoderDecoder
from zoo.utils.escape import say

FILE = "model.onnx"


def write(
    model: Model,
    tensors: Mapping[str, Tensor],
    folder: Path,
    quantize: str | None,
    examples: Sequence[accuracy_gate.Example] | None,
    tolerance: float | None,
) -> None:
    """Write model.onnx to a folder, with these tensors of the model; for a model with a decoder beside its encoder the
    three files of `encoder_decoder`. Raises ValueError if a graph differs from the model.

    Says on stderr what was compared, and that weights in half precision are written as float32.
    """
    graph.check_installed()
    both_sides = "decoder_input_ids" in model.inputs
    if both_sides:
        encoder_decoder.check_kind(model, quantize)
    if quantize is not None:
        accuracy_gate.check_options(model, quantize, examples, tolerance, "export it")
    elif examples is not None or tolerance is not None:
        raise ValueError("examples= and tolerance= measure quantized models: give quantize='int8', or omit them")
    same = graph.plain_float32(model, tensors)
    parts, file = parts_of(same), folder / FILE
    if both_sides:
        assert isinstance(same, EncoderDecoder)
        (part,) = parts
        difference, names = encoder_decoder.write(same, part, folder), ", ".join(encoder_decoder.FILES)
    else:
        graph.write_graph(same, parts, file)
        difference, names = graph.compare(same, parts, file), FILE
    verb, whose = ("equal", "their") if both_sides else ("equals", "its")
    line = f"{names} {verb} the model to {difference:.1e} of its largest output, for 1 to 9 rows"
    if beside := sorted(path.name for path in folder.glob("*.onnx.data")):
        line += f"; {whose} weights are too large for one file: {', '.join(beside)} must stay beside it"
    if model.dtype != same.dtype:
        line += f"; {whose} weights are float32 ({str(model.dtype).removeprefix('torch.')} before)"
    say(line, file=sys.stderr)
    if quantize is not None and examples and tolerance is not None:
        same.preprocess, same.labels = model.preprocess, model.labels
        change = int8.quantize_file(same, file, examples, tolerance)
        say(f"{FILE} has int8 weights: {change} on {len(examples):,} examples", file=sys.stderr)
