"""Is an attention core right? `zoo.check(MyCore)` puts it through what the library's own cores are held to.

report = zoo.check(MyCore)          # or a registered name, {"kind": ..., options}, or "my_file:MyCore"
print(report)                       # its row of the table, and what is wrong
assert report.ok, report.failures
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from zoo.nn.core import Core, CoreSpec
from zoo.nn.init import initialize
from zoo.nn.masks import CAUSAL, Mask, PaddingMask, Window
from zoo.nn.position_biases import ALiBi
from zoo.nn.registry import BUILT_IN, CORES, construct, load_class, resolve
from zoo.nn.sdpa import share

SECONDS = 30.0  # no check is begun after that
BATCH, HEADS, TOKENS, DIM = 2, 4, 7, 8
KEEP = torch.tensor([[1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1, 1]]).bool()


class CheckFailed(Exception):
    """A check that failed, and how."""


@dataclass(frozen=True)
class Report:
    """What `zoo.check` found. results: check -> "yes", "refused" (an honest ValueError), "no" or "FAILS"."""

    name: str
    results: dict[str, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return not self.failures

    def row(self) -> str:
        """As a line of the Markdown table whose head is `header()`."""
        return f"| `{self.name}` | " + " | ".join(self.results.get(name, "-") for name in CHECKS) + " |"

    def __str__(self) -> str:
        verdict = "ok" if self.ok else f"{len(self.failures)} failed"
        wrong = "".join(f"\n  {failure}" for failure in self.failures)
        return f"{header()}\n{self.row()}\n{self.name}: {verdict} in {self.seconds:.1f} s{wrong}"


def header() -> str:
    return "| attention | " + " | ".join(CHECKS) + " |\n" + "|---" * (len(CHECKS) + 1) + "|"


def check(core: Any) -> Report:
    """Hold a core to the law, and to all that models rely on.

    core: a `zoo.nn.Core` class, a registered name, a dict with "kind" and options, or "my_file:MyCore". Never raises on
    a bad core (on a name that nobody knows it does), and takes about a second.
    """
    name = core if isinstance(core, str) else getattr(core, "__name__", str(core))
    cls, options = find(core)
    if not (isinstance(cls, type) and issubclass(cls, Core)):
        return Report(name, failures=[f"{name} is no subclass of zoo.nn.Core"])
    bench, start = Bench(cls, options), perf_counter()
    results: dict[str, str] = {}
    failures = []
    for title, (examine, may_refuse) in CHECKS.items():
        if perf_counter() - start > SECONDS:
            failures.append(f"{title}: not checked, the checks before it took more than {SECONDS:.0f} s")
            continue
        results[title], wrong = outcome(examine, bench, may_refuse)
        if wrong:
            failures.append(f"{title}: {wrong}")
    return Report(name, results, failures, perf_counter() - start)


def find(core: Any) -> tuple[Any, dict[str, Any]]:
    """(class, options), without registering anything."""
    if isinstance(core, dict):
        cls, _ = find(core.get("kind"))
        return cls, {key: value for key, value in core.items() if key != "kind"}
    if isinstance(core, str) and ":" in core and core not in CORES:
        return load_class(core), {}
    return (core, {}) if isinstance(core, type) else resolve(core, CORES)


def outcome(examine: Callable[["Bench"], str], bench: "Bench", may_refuse: bool) -> tuple[str, str]:
    """(what stands in the table, what is wrong: an empty string if nothing is)."""
    try:
        return examine(bench), ""
    except CheckFailed as wrong:
        return "FAILS", str(wrong)
    except ValueError as refusal:
        return ("refused", "") if may_refuse else ("FAILS", f"it raised ValueError: {refusal}")
    except Exception as error:  # whatever a core of somebody's own may do
        first = str(error).strip().split("\n")[0]
        return "FAILS", f"it raised {type(error).__name__}: {first}"


@dataclass
class Bench:
    """Makes cores of the class under test and inputs for them, the same ones each time."""

    cls: type[Core]
    options: dict[str, Any]

    def core(self, groups: int = HEADS, causal: bool = False, device: str = "cpu") -> Core:
        spec = CoreSpec(heads=HEADS, kv_heads=groups, head_dim=DIM, causal=causal)
        with torch.random.fork_rng(devices=[]), torch.device(device):
            torch.manual_seed(0)
            core: Core = construct(self.cls, self.options, spec, self.cls.__name__)
            if device == "meta":
                return core.eval()
            initialize(core, 0)
            with torch.no_grad():
                for p in core.parameters():  # what starts at zero would stop the gradient of its neighbors
                    p.copy_(torch.where(p == 0, 0.02 * torch.randn(p.shape), p))
        return core.eval()

    def qkv(self, queries: int = TOKENS, keys: int = TOKENS, groups: int = HEADS) -> tuple[Tensor, Tensor, Tensor]:
        draw = torch.Generator().manual_seed(0)
        q = torch.randn(BATCH, HEADS, queries, DIM, generator=draw)
        k, v = torch.randn(2, BATCH, groups, keys, DIM, generator=draw)
        return q, k, v


def near(a: Tensor, b: Tensor, tolerance: float, what: str) -> None:
    """Raises Wrong unless a and b agree: max|a - b| / max(1, max|b|) <= tolerance."""
    if a.shape != b.shape:
        raise CheckFailed(f"{what}: shape {tuple(a.shape)}, expected {tuple(b.shape)}")
    if not a.isfinite().all():
        raise CheckFailed(f"{what}: not finite")
    a, b = a.detach().double(), b.detach().double()
    off = float((a - b).abs().max() / b.abs().max().clamp(min=1))
    if not off <= tolerance:
        raise CheckFailed(f"{what}: off by {off:.1e}")


def hold_law(core: Core, q: Tensor, k: Tensor, v: Tensor, mask: Any = None, bias: Any = None, what: str = "") -> Tensor:
    """core(q, k, v) == weights(q, k) @ v; returns it."""
    y = core(q, k, v, mask, bias)
    weights = core.maps(q, k, mask, bias)
    full = (*q.shape[:3], k.shape[2])
    if weights.shape != full:
        raise CheckFailed(f"weights have the shape {tuple(weights.shape)}, expected [B, H, N, M] = {full}{what}")
    near(y, weights @ share(v, q.shape[1]), 1e-4, f"forward is not weights @ v{what}")
    return y


def law(bench: Bench) -> str:
    """Without a mask, at several lengths, and the same in two calls."""
    core = bench.core()
    for n in (1, TOKENS, 70):
        y = hold_law(core, *(qkv := bench.qkv(n, n)), what=f" at length {n}")
        near(core(*qkv), y, 0.0, "two calls in evaluation differ")
    return "yes"


def gradient(bench: Bench) -> str:
    core = bench.core()
    q, k, v = (t.requires_grad_() for t in bench.qkv())
    core(q, k, v).square().sum().backward()
    for name, p in core.named_parameters():
        if p.requires_grad and (p.grad is None or not p.grad.any()):
            raise CheckFailed(f"no gradient reaches the parameter {name!r}")
    for name, leaf in [("q", q), ("k", k), ("v", v), *core.named_parameters()]:
        if leaf.grad is not None and not leaf.grad.isfinite().all():
            raise CheckFailed(f"the gradient of {name!r} is not finite")
    if v.grad is None or not v.grad.any():
        raise CheckFailed("no gradient reaches the values")
    return "yes"


def causal(bench: Bench) -> str:
    """Later tokens change: earlier outputs do not."""
    core, early = bench.core(causal=True), 4
    before = hold_law(core, *(qkv := bench.qkv()), mask=CAUSAL, what=" under a causal mask")
    for later in qkv:
        later[:, :, early:] = 5 * later[:, :, early:].flip(0) + 1
    after = core(*qkv, CAUSAL)
    near(after[:, :, :early], before[:, :, :early], 1e-6, "the future leaks: later tokens change earlier outputs")
    return "yes"


def hidden(bench: Bench, mask: Mask, seen: Tensor, what: str) -> Tensor:
    """Keys [B, M] that nobody sees change: outputs do not."""
    core = bench.core()
    y = hold_law(core, *(qkv := bench.qkv()), mask=mask, what=f" under {what}")
    unseen = ~seen[:, None, :, None]
    q, k, v = qkv[0], qkv[1].masked_fill(unseen, 9.0), qkv[2].masked_fill(unseen, -40.0)
    near(core(q, k, v, mask), y, 1e-5, f"{what} is ignored: hidden keys change the outputs")
    return y


def padding(bench: Bench) -> str:
    y = hidden(bench, PaddingMask(KEEP), KEEP, "padding")
    real = int(KEEP[0].sum())
    alone = bench.core()(*(t[:1, :, :real] for t in bench.qkv()))
    near(y[:1, :, :real], alone, 1e-5, "a padded row differs from the row alone")
    return "yes"


def masks(bench: Bench) -> str:
    """Any pairs may be hidden; a window stands for all such masks."""
    core, window = bench.core(), Window(1, 1)
    before = hold_law(core, *(qkv := bench.qkv()), mask=window, what=" under a window")
    for t in qkv[1:]:
        t[:, :, 4:] = 7.0
    near(core(*qkv, window)[:, :, :3], before[:, :, :3], 1e-5, "a window is ignored: hidden keys change the outputs")
    return "yes"


def bias(bench: Bench) -> str:
    core, qkv = bench.core(), bench.qkv()
    plain = core(*qkv)
    for added in (ALiBi(HEADS), 3 * torch.eye(TOKENS)):
        y = hold_law(core, *qkv, bias=added, what=" with a bias")
        if torch.allclose(y, plain):
            raise CheckFailed("a bias is ignored; add it to the scores (self.scores does) or raise ValueError")
    return "yes"


def cross(bench: Bench) -> str:
    """More keys than queries, and fewer."""
    for queries, keys in ((3, TOKENS), (1, TOKENS), (TOKENS, 3)):
        hold_law(bench.core(), *bench.qkv(queries, keys), what=f" with {queries} queries and {keys} keys")
    return "yes"


def rows(bench: Bench) -> str:
    core, qkv = bench.core(), bench.qkv()
    near(core(*(t[:1] for t in qkv)), core(*qkv)[:1], 1e-5, "a row of a batch differs from the row alone")
    return "yes"


def gqa(bench: Bench) -> str:
    """Shared keys and values are the same as repeated ones."""
    q, k, v = bench.qkv(groups=2)
    shared, own = bench.core(groups=2), bench.core()
    y = hold_law(shared, q, k, v, what=" with shared keys")
    state = shared.state_dict()
    if all(state[name].shape == value.shape for name, value in own.state_dict().items()):
        own.load_state_dict(state)
        near(y, own(q, share(k, HEADS), share(v, HEADS)), 1e-5, "shared keys differ from repeated keys")
    return "yes"


def decoding(bench: Bench) -> str:
    """Token by token, and in chunks, with a state."""
    core, (q, k, v) = bench.core(groups=2, causal=True), bench.qkv(groups=2)
    full = core(q, k, v, CAUSAL)
    for sizes in ([1] * TOKENS, [3, 1, 2, 1]):
        state, parts = core.new_state(BATCH, 2, q), []
        for step in zip(q.split(sizes, 2), k.split(sizes, 2), v.split(sizes, 2)):
            parts.append(core.decode(*step, state, CAUSAL))
        near(torch.cat(parts, 2), full, 1e-4, f"decoding in steps of {sizes} differs from the full forward")
    return "yes"


def precision(dtype: torch.dtype, tolerance: float) -> Callable[[Bench], str]:
    def examine(bench: Bench) -> str:
        core, qkv = bench.core(), bench.qkv()
        exact = core(*qkv)
        y = core.to(dtype)(*(t.to(dtype) for t in qkv))
        if y.dtype != dtype:
            raise CheckFailed(f"outputs are {y.dtype} for inputs of {dtype}")
        near(y, exact, tolerance, f"{dtype} differs from float32")
        return "yes"

    return examine


def blind(bench: Bench) -> str:
    """A query that may see no key gives zeros and finite gradients."""
    core, (q, k, v) = bench.core(), (t.requires_grad_() for t in bench.qkv())
    y = core(q, k, v, PaddingMask(KEEP & torch.tensor([[False], [True]])))
    if y[0].any() or not y.isfinite().all():
        raise CheckFailed("a query that may see no key gets something other than zeros")
    y.square().sum().backward()
    if not all(t.grad is None or t.grad.isfinite().all() for t in (q, k, v, *core.parameters())):
        raise CheckFailed("gradients are not finite where a query sees no key")
    return "yes"


def loading(bench: Bench) -> str:
    """Built on meta and filled from a file: nothing may be left there."""
    core, filled, qkv = bench.core(), bench.core(device="meta"), bench.qkv()
    filled.load_state_dict(core.state_dict(), assign=True)
    for name, tensor in [*filled.named_buffers(), *filled.named_parameters()]:
        if tensor.is_meta:
            raise CheckFailed(f"{name!r} is not in the state dict, so a loaded model lacks it: register it persistent")
    near(filled(*qkv), core(*qkv), 0.0, "a loaded core differs; keep tensors in buffers or parameters")
    return "yes"


def sums(bench: Bench) -> str:
    """For information: a sigmoid need not."""
    q, k, _ = bench.qkv()
    total = bench.core().maps(q, k).sum(-1)
    return "yes" if torch.allclose(total, torch.ones_like(total), atol=1e-4) else "no"


# column -> (what examines it, whether an honest ValueError is an answer)
CHECKS: dict[str, tuple[Callable[[Bench], str], bool]] = {
    "law": (law, False),
    "gradients": (gradient, False),
    "causal": (causal, True),
    "padding": (padding, True),
    "any mask": (masks, True),
    "bias": (bias, True),
    "cross": (cross, True),
    "GQA": (gqa, True),
    "decoding": (decoding, True),
    "bfloat16": (precision(torch.bfloat16, 0.1), False),
    "float64": (precision(torch.float64, 1e-3), False),
    "hidden rows": (blind, True),
    "batch rows": (rows, False),
    "loading": (loading, False),
    "rows sum to 1": (sums, False),
}


def table(kinds: tuple[str, ...] = BUILT_IN) -> str:
    """The Markdown table of what each attention kind can do; the README shows it."""
    shown = ("causal", "padding", "any mask", "bias", "cross", "GQA", "decoding")
    lines = ["| attention | " + " | ".join(shown) + " |", "|---" * (len(shown) + 1) + "|"]
    for kind in kinds:
        results = check(kind).results
        lines.append(f"| `{kind}` | " + " | ".join(results[name] for name in shown) + " |")
    return "\n".join(lines)
