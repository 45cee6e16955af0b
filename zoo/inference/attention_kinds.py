"""`zoo.attention_kinds`: what each attention kind and mixer can do and what it costs, found by running it.

`zoo.check` says what runs and what raises ValueError; how time, memory and the cache for decoding grow is counted at
two lengths. So a kind has its row as soon as it is registered.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from zoo.inference.cost import PeakMemory, counted_flops, state_bytes
from zoo.models.encoder_decoder import check_cross_attention
from zoo.nn.attention import Attention
from zoo.nn.block_config import BlockConfig
from zoo.nn.conformance import CHECKS_OF, Harness, find_class, run_one
from zoo.nn.conformance_mixers import MixerHarness, assert_close
from zoo.nn.context import Context
from zoo.nn.core import Core, CoreSpec
from zoo.nn.frontends.packed_documents import PackedDocuments
from zoo.nn.graphs.graph_core import EdgeCore, EdgeFeatureCore
from zoo.nn.init import initialize
from zoo.nn.masks import CAUSAL, Window
from zoo.nn.mixers.base import Mixer
from zoo.nn.position_biases import ALiBi
from zoo.nn.registry import CORES, MIXERS, construct
from zoo.nn.stack import Stack

LENGTHS = 1024, 4096  # of the counts: beyond the blocks and windows of every kind
CACHED = 512, 1024
QUADRATIC = "N²"
SHARED = {"padding": "padding", "packing": "packing", "masks": "any mask", "bias": "bias", "gqa": "GQA"}
DOCUMENT_IDS = torch.tensor([[0, 0, 0, 1, 1, 2, -1], [0, 1, 1, 1, 1, 1, 1]])
FOUND: dict[tuple[str, Any, str], "AttentionKind"] = {}


@dataclass(frozen=True)
class AttentionKind:
    """What an attention kind or mixer can do, and what it costs: a row of `zoo.attention_kinds()`.

    "yes": it works, with the results that `zoo.check` expects. "refused": it raises ValueError. "-": mixers have no
    scores, so that it does not change them.

    argument: of a model, "attention" or "mixer". packing: documents in one row. masks: masks of any pairs, such as
    windows. gqa: shared key heads. state: how the memory of a cache for decoding grows with the tokens N ("constant",
    "N"). capture: whether `zoo.capture` has its weights. time, memory: how both grow, where memory is that of a
    training step.
    """

    name: str
    argument: str
    causal: str
    cross: str
    padding: str
    packing: str
    masks: str
    bias: str
    gqa: str
    decoding: str
    state: str
    capture: str
    time: str
    memory: str


COLUMNS = (
    "kind", "argument", "causal", "cross", "padding", "packing", "any mask", "bias", "GQA", "decoding", "state",
    "capture", "time", "memory",
)  # fmt: skip


class AttentionKinds(tuple[AttentionKind, ...]):
    """The rows of `zoo.attention_kinds()`; prints as a Markdown table."""

    def __str__(self) -> str:
        head = "| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|"
        rows = ((f"`{row.name}`", *astuple(row)[1:]) for row in self)
        return "\n".join([head, *("| " + " | ".join(cells) + " |" for cells in rows)])


def attention_kinds(*names: Any) -> AttentionKinds:
    """What attention kinds and mixers can do, and how their costs grow: one `AttentionKind` for each.

    names: registered names, classes, or dicts with "kind" and options, as `zoo.check` takes them; without any, all
    that are registered, the built-in ones included. The result prints as a table. Everything in it is found by running
    the kind, some tenths of a second each at first. Raises ValueError for an unknown name.

        print(zoo.attention_kinds())
        [row.name for row in zoo.attention_kinds() if row.state == "constant"]
    """
    return AttentionKinds(map(facts, names or [*CORES, *MIXERS]))


def facts(kind: Any) -> AttentionKind:
    """The row of one kind."""
    cls, options = find_class(kind)
    name = kind if isinstance(kind, str) else str(kind.get("kind")) if isinstance(kind, dict) else kind.__name__
    key = name, cls, repr(options)
    if key in FOUND:
        return FOUND[key]
    with torch.random.fork_rng(devices=[]):
        if isinstance(cls, type) and issubclass(cls, Core):
            FOUND[key] = attention_facts(name, Harness(cls, options))
        elif isinstance(cls, type) and (issubclass(cls, Mixer) or cls in MIXERS.values()):
            FOUND[key] = mixer_facts(name, MixerHarness(cls, options))
        else:
            raise ValueError(f"{name} is not a subclass of zoo.nn.Core or zoo.nn.Mixer")
    return FOUND[key]


# --- what runs --------------------------------------------------------------------------------------------------------


def attention_facts(name: str, harness: Harness) -> AttentionKind:
    found = results(harness, "attention")
    spec = CoreSpec(heads=2, kv_heads=2, head_dim=64, causal=True)  # where skipping blocks pays
    core: Core = construct(harness.cls, harness.options, spec, name)
    initialize(core, 0)
    parts = torch.randn(3, 1, spec.heads, LENGTHS[-1], spec.head_dim, generator=torch.Generator().manual_seed(0))

    def run(tokens: int) -> list[Tensor]:
        q, k, v = (part[:, :, :tokens].clone().requires_grad_(torch.is_grad_enabled()) for part in parts)
        return [core(q, k, v, CAUSAL if found["causal"] == "yes" else None)]

    # all weights are computed, without a graph
    written_out = type(core).forward in (Core.forward, EdgeCore.forward, EdgeFeatureCore.forward)
    time, memory = (QUADRATIC, QUADRATIC) if written_out else growth(run)
    return AttentionKind(
        name,
        "attention",
        causal=found["causal"],
        # what a model checks before it has cross-attention of this kind
        cross=found["cross"] if attempt(lambda: check_cross_attention(core)) == "yes" else "refused",
        decoding=found["decoding"],
        **{field: found[check] for field, check in SHARED.items()},
        state=state_growth(harness.stack(causal=True), harness.x().shape[-1]) if found["decoding"] == "yes" else "-",
        capture=found["law"],
        time=time,
        memory=memory,
    )


def mixer_facts(name: str, harness: MixerHarness) -> AttentionKind:
    found, causal = results(harness, "mixer"), harness.stack(causal=True)
    stack, x = harness.stack(), harness.x()
    sizes = [sum(p.numel() for p in harness.stack(kv_heads=heads).parameters()) for heads in (4, 1)]
    long = torch.randn(1, LENGTHS[-1], x.shape[-1], generator=torch.Generator().manual_seed(0))

    def run(tokens: int) -> list[Tensor]:
        own, mask = (causal, CAUSAL) if found["causal"] == "yes" else (stack, None)
        context = Context(mask=mask).for_forward(tokens)
        return [own[0].mixer(long[:, :tokens].clone().requires_grad_(torch.is_grad_enabled()), context, None)]

    time, memory = growth(run)
    return AttentionKind(
        name,
        "mixer",
        causal=found["causal"],
        cross=attempt(lambda: BlockConfig(width=x.shape[-1], heads=4).stack(1, cross=name)),
        padding=found["padding"],
        packing=found["packing"],
        masks=attempt(lambda: stack(x, Context(mask=Window(1, 1))), stack(x)),
        bias=attempt(lambda: stack(x, Context(bias=ALiBi(4))), stack(x)),
        gqa="-" if sizes[0] == sizes[1] else "yes",
        decoding=found["decoding"],
        state=state_growth(causal, x.shape[-1]) if found["decoding"] == "yes" else "-",
        capture="yes" if isinstance(stack[0].mixer, Attention) else "refused",
        time=time,
        memory=memory,
    )


def results(harness: Any, kind: str) -> dict[str, str]:
    """The results of the checks of `zoo.check` that make columns."""
    shown = (check for check in CHECKS_OF[kind] if check in COLUMNS or check == "law")
    found = {check: run_one(CHECKS_OF[kind][check][0], harness, True)[0] for check in shown}
    return found | {"packing": run_one(check_packing, harness, True)[0]}


def check_packing(harness: Harness | MixerHarness) -> str:
    """Documents that share a row give the outputs of each alone."""
    stack, x = harness.stack(), harness.x()
    documents = PackedDocuments.of(DOCUMENT_IDS)
    y = documents.put(stack(documents.take(x), keep=documents.keep))
    for row, ids in enumerate(DOCUMENT_IDS):
        for document in range(int(ids.max()) + 1):
            own = ids == document
            message = "a document that shares a row gives other outputs than alone"
            assert_close(y[row : row + 1, own], stack(x[row : row + 1, own]), 1e-5, message)
    return "yes"


def attempt(run: Callable[[], Any], without: Tensor | None = None) -> str:
    """ "refused" where it raises ValueError, "-" where the output is that `without`."""
    try:
        found = run()
    except ValueError:
        return "refused"
    return "-" if without is not None and torch.equal(found, without) else "yes"


def state_growth(stack: Stack, width: int) -> str:
    """How the memory of the cache for decoding grows with the number of tokens."""
    sizes = []
    for tokens in CACHED:
        x = torch.zeros(1, tokens, width)
        state = stack.new_state(1, 1, x)
        with torch.no_grad():
            for part in (x, x[:, :1]):
                stack(part, Context(mask=CAUSAL), state=state)
        sizes.append(state_bytes(state))
    return grows(sizes, CACHED, "constant")


# --- what it costs ----------------------------------------------------------------------------------------------------


class Work(PeakMemory):
    """Also counts the numbers that all operations write, and whether there are Fourier transforms among these."""

    written = 0
    fourier = False

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = super().__torch_dispatch__(func, types, args, kwargs)
        self.written += sum(t.numel() for t in tree_leaves(result) if isinstance(t, Tensor))
        self.fourier = self.fourier or "_fft" in func.__name__
        return result


def growth(run: Callable[[int], list[Tensor]]) -> tuple[str, str]:
    """How time and memory of `run(tokens)` grow: products, and numbers that are written; the peak with gradients."""
    work, peaks, fourier = [], [], False
    for tokens in LENGTHS:
        with torch.no_grad():
            run(tokens)  # what is found once for all calls, such as the blocks of a pattern
        with torch.no_grad(), Work([]) as done, counted_flops() as flops:
            run(tokens)
        work.append(flops[0] + done.written)
        fourier = fourier or done.fourier
        with PeakMemory([]) as memory:
            outputs = run(tokens)
            torch.autograd.backward(outputs, [torch.ones_like(y) for y in outputs])
            del outputs
        peaks.append(memory.peak)
    time = grows(work, LENGTHS, "constant")
    return "N log N" if fourier and time == "N" else time, grows(peaks, LENGTHS, "constant")


def grows(values: Sequence[float], lengths: Sequence[int], constant: str) -> str:
    """The power of N nearest to the growth of values at two lengths."""
    exponent = math.log(values[1] / values[0]) / math.log(lengths[1] / lengths[0])
    return (constant, "N", QUADRATIC, "N³")[max(0, round(exponent))]
