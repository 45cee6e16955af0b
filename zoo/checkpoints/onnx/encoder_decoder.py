"""Graphs of a model with a decoder beside its encoder, by the names of optimum: the encoder, the decoder for the first
tokens, and the decoder for tokens that follow, whose keys and values are inputs and outputs.

    encoder_model.onnx              input_ids, attention_mask (or input_features) -> last_hidden_state
    decoder_model.onnx              input_ids, encoder_hidden_states, encoder_attention_mask -> logits and present.*
    decoder_with_past_model.onnx    input_ids, encoder_attention_mask, past_key_values.* -> logits and present.*

Of layer i there are `past_key_values.{i}.decoder.key`, `.decoder.value`, `.encoder.key` and `.encoder.value`, all
[B, G, tokens, P]. The encoder's keys and values are computed once, by the first graph of the decoder.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.checkpoints.onnx.graph import BATCHES, Differences, open_session, quiet, refusal, run, write_module
from zoo.checkpoints.onnx.inputs import Axis, Part
from zoo.models.base import Model
from zoo.models.encoder_decoder import EncoderDecoder
from zoo.nn.attention import Attention
from zoo.nn.kv_cache import EncoderDecoderState, KVCache, LayerState, StackState
from zoo.nn.masks import AnyMask
from zoo.nn.position_biases import AnyBias
from zoo.nn.stack import Stack

ENCODER, DECODER, WITH_PAST = FILES = ("encoder_model.onnx", "decoder_model.onnx", "decoder_with_past_model.onnx")
STATES, MASK = "encoder_hidden_states", "encoder_attention_mask"
KEYS = ("decoder.key", "decoder.value", "encoder.key", "encoder.value")
FIRST, NEXT = 5, 3  # tokens that the decoder's graphs are traced with
STEPS = (1, 1, 3, 1)  # tokens that are read one after the other when the graphs are compared


class EncoderGraph(nn.Module):
    """The encoder, with its inputs in order."""

    def __init__(self, model: EncoderDecoder, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: Tensor) -> tuple[Tensor]:
        given: dict[str, Any] = dict(zip(self.names, inputs, strict=True))
        return (self.model.encode(**given),)


class GrowingCache(KVCache):
    """Keys and values [B, G, n, P] that are replaced by longer ones, so that a graph has no writes in place."""

    def __init__(self, k: Tensor | None, v: Tensor | None) -> None:
        self.past = None if k is None or v is None else (k, v)

    def extend(self, k: Tensor, v: Tensor, mask: AnyMask, bias: AnyBias) -> tuple[Tensor, Tensor, AnyMask, AnyBias]:
        if self.past is not None:
            k, v = (torch.cat([old, new], 2) for old, new in zip(self.past, (k, v), strict=True))
        self.k, self.v = k, v
        return k, v, mask, bias


class DecoderGraph(nn.Module):
    """The decoder and its head, with its inputs in order: `names`, of which those of caches may be missing."""

    def __init__(self, model: EncoderDecoder, names: list[str]) -> None:
        super().__init__()
        assert model.decoder is not None
        self.model, self.names, self.depth = model, names, len(model.decoder.blocks)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        assert self.model.head is not None
        given = dict(zip(self.names, inputs, strict=True))
        past, layers = STATES not in given, StackState()
        for i in range(self.depth):
            k, v, *memory = [given.get(f"past_key_values.{i}.{key}") for key in KEYS]
            layers.append(LayerState(GrowingCache(k, v)))
            if past:
                layers[i].memory = memory[0], memory[1]  # type: ignore[assignment]
        # after the first tokens nothing reads the encoder's states, whose number of rows is looked at
        states = given["past_key_values.0.encoder.key" if past else STATES]
        state = EncoderDecoderState(layers, states, given.get(MASK))
        state.advance(given["past_key_values.0.decoder.key"].shape[2] if past else 0)
        x = self.model.run_decoder(given["input_ids"], None, states, state.memory_mask, state)
        caches: list[Any] = []
        for layer in state:
            assert isinstance(layer.mixer, GrowingCache) and layer.memory is not None
            caches += [layer.mixer.k, layer.mixer.v, *(() if past else layer.memory)]
        return (self.model.head(x), *caches)


@dataclass(frozen=True)
class Decoder:
    """Inputs and outputs of both graphs of the decoder. masked: whether the encoder's texts have padding; states_axis:
    of the encoder's states, None where they have one length."""

    depth: int
    masked: bool
    states_axis: Axis | None
    most: int

    def inputs(self, past: bool) -> list[str]:
        """Names of the inputs in order."""
        names = ["input_ids", *([] if past else [STATES]), *([MASK] if self.masked else [])]
        return names + ([f"past_key_values.{i}.{key}" for i in range(self.depth) for key in KEYS] if past else [])

    def outputs(self, past: bool) -> list[str]:
        """Names of the outputs in order; the encoder's keys and values are those of the first graph alone."""
        return ["logits", *(f"present.{i}.{key}" for i in range(self.depth) for key in KEYS[: 2 if past else 4])]

    def axes(self, name: str) -> dict[int, Axis]:
        """The axes of an input that have any size."""
        batch: dict[int, Axis] = {0: Axis("batch")}
        if name == "input_ids":
            return batch | {1: Axis("decoder_sequence_length", most=self.most)}
        if ".decoder." in name:
            return batch | {2: Axis("past_decoder_sequence_length", most=self.most)}
        own = {} if self.states_axis is None else {2 if ".encoder." in name else 1: self.states_axis}
        return batch | own


def check_kind(model: Model, quantize: str | None) -> None:
    """Raise ValueError for a model whose decoder keeps something else than keys and values, or has another head."""
    if not isinstance(model, EncoderDecoder) or not isinstance(getattr(model.decoder, "blocks", None), Stack):
        raise ValueError(f"{refusal(model)}: its decoder keeps no keys and values; use zoo.generate")
    if quantize is not None:
        raise ValueError(
            f"quantize={quantize!r}: what int8 weights change is measured for models of one graph; omit it for a "
            "model with a decoder beside its encoder"
        )
    if model.config.head != "lm":
        raise ValueError(
            f"{refusal(model)}: the decoder is exported with its language modeling head, and the model has "
            f"head={model.config.head!r}; load it with head='lm', or the encoder alone with head=None, decoder_depth=0"
        )
    assert model.decoder is not None
    for block in model.decoder.blocks:
        core = getattr(block.mixer, "core", None)
        kept = None if core is None else type(core.new_state(1, 1, torch.empty(0)))
        if not isinstance(block.cross, Attention) or kept is not KVCache:
            kind = getattr(core, "kind", type(block.mixer).__name__)
            raise ValueError(
                f"{refusal(model)}: its decoder has {kind!r}, which keeps something else than the keys and values of "
                "all tokens; use attention with a cache of these, such as 'softmax', or zoo.generate"
            )


def write(model: EncoderDecoder, part: Part, folder: Path) -> float:
    """Write the three graphs of a model; part: the inputs of its encoder. Returns the largest difference of an output.

    Raises ValueError for a part that cannot be traced at any size, and for a graph that differs by more than 1e-5.
    """
    assert model.decoder is not None
    own = part.ranges(next(iter(part.names.values())))
    states_axis = Axis("encoder_sequence_length", own[1].least, own[1].most) if part.lengths else None
    most = min(model.config.max_length, 2**20)
    decoder = Decoder(len(model.decoder.blocks), "attention_mask" in part.names, states_axis, most)
    source = part.examples(3, part.lengths[2] if part.lengths else 0, 0)
    write_module(EncoderGraph(model, list(source)), source, dict.fromkeys(source, own), ["last_hidden_state"],
                 folder / ENCODER, refusal(model))  # fmt: skip
    given = example_states(model, source)
    for past, file in ((False, DECODER), (True, WITH_PAST)):
        names, length = decoder.inputs(past), NEXT if past else FIRST
        given["input_ids"] = torch.arange(3 * length).view(3, length) % model.config.vocab_size
        graph = DecoderGraph(model, names)
        inputs = {name: given[name] for name in names}
        write_module(graph, inputs, {name: decoder.axes(name) for name in names}, decoder.outputs(past), folder / file,
                     refusal(model))  # fmt: skip
        if not past:
            with torch.no_grad(), quiet():
                given |= as_past(dict(zip(decoder.outputs(False), graph(*inputs.values()), strict=True)))
    return compare(model, part, decoder, folder)


def example_states(model: EncoderDecoder, source: Mapping[str, Any]) -> dict[str, Tensor]:
    """What the decoder reads of an encoder's inputs."""
    with torch.no_grad(), quiet():
        found = {STATES: model.encode(**source)}
    return found | ({MASK: source["attention_mask"]} if "attention_mask" in source else {})


def as_past(outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The caches among the outputs of a decoder's graph, by the names that the next one takes."""
    return {name.replace("present.", "past_key_values."): x for name, x in outputs.items() if name != "logits"}


def compare(model: EncoderDecoder, part: Part, decoder: Decoder, folder: Path) -> float:
    """The largest difference of the graphs in onnxruntime from the model, in batches of 1 to 9 rows at two lengths, the
    decoder over several steps with its own caches; see `graph.compare`."""
    encoder, *decoders = [open_session(folder / name) for name in FILES]
    found, vocab, most = Differences(), model.config.vocab_size, decoder.most
    for rows in BATCHES:
        for size in (0, 1) if part.lengths else (0,):
            source = part.examples(rows, part.lengths[size] if part.lengths else 0, rows + size)
            given = example_states(model, source)
            (states,) = run(encoder, source)
            found.add("last_hidden_state", states, given[STATES])
            state = model.new_state(given[STATES], given.get(MASK))
            given[STATES] = states
            generator = torch.Generator().manual_seed(rows)
            for step, tokens in enumerate([size + 1, *STEPS]):
                if state.length + tokens > most:
                    break
                ids = torch.randint(vocab, (rows, tokens), generator=generator)
                outputs = dict(zip(decoder.outputs(step > 0), run(decoders[step > 0], given | {"input_ids": ids}),
                                   strict=True))  # fmt: skip
                given |= as_past(outputs)
                with torch.no_grad(), quiet():
                    found.add("logits", outputs["logits"], model.decode(ids, state, every=True))
    return found.worst()
