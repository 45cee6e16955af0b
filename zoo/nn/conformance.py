"""Conformance tests: `zoo.check(MyCore)` runs the tests that the library's own cores pass, `zoo.check(MyMixer)` others.

report = zoo.check(MyCore)          # or a registered name, {"kind": ..., options}, or "my_file:MyCore"
print(report)                       # its row of the table, and the failures
assert report.ok, report.failures
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from zoo.nn.block_config import BlockConfig
from zoo.nn.conformance_mixers import (
    KEEP_MASK,
    MIXER_CHECKS,
    CheckFailed,
    MixerHarness,
    assert_close,
    assert_filled,
    fill_zeros,
)
from zoo.nn.core import Core, CoreSpec
from zoo.nn.init import initialize
from zoo.nn.masks import CAUSAL, Mask, PaddingMask, Window
from zoo.nn.mixers.base import Mixer
from zoo.nn.position_biases import ALiBi
from zoo.nn.registry import CORES, MIXERS, construct, resolve
from zoo.nn.sdpa import repeat_kv
from zoo.nn.stack import Stack
from zoo.utils.class_import import load_class

SECONDS = 30.0  # no check is started after this time
BATCH, HEADS, TOKENS, DIM = 2, 4, 7, 8


@dataclass(frozen=True)
class Report:
    """Result of `zoo.check`.

    results: check -> "yes", "refused" (ValueError was raised: not supported), "no" or "FAILS". failures: one message
    per failed check. kind: "attention", or "mixer" for one without attention weights.
    """

    name: str
    results: dict[str, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0
    kind: str = "attention"

    @property
    def ok(self) -> bool:
        return not self.failures

    def row(self) -> str:
        """The results as a row of the Markdown table that `header()` starts."""
        return f"| `{self.name}` | " + " | ".join(self.results.get(name, "-") for name in CHECKS_OF[self.kind]) + " |"

    def __str__(self) -> str:
        verdict = "ok" if self.ok else f"{len(self.failures)} failed"
        wrong = "".join(f"\n  {failure}" for failure in self.failures)
        return f"{header(self.kind)}\n{self.row()}\n{self.name}: {verdict} in {self.seconds:.1f} s{wrong}"


def header(kind: str = "attention") -> str:
    return f"| {kind} | " + " | ".join(CHECKS_OF[kind]) + " |\n" + "|---" * (len(CHECKS_OF[kind]) + 1) + "|"


def check(core: Any) -> Report:
    """Test an attention core: `forward` against `weights`, gradients, masks, GQA, decoding, dtypes, loading.

    core: a `zoo.nn.Core` class, a registered name, a dict with "kind" and options, or "my_file:MyCore". A mixer, given
    in the same ways, is tested for gradients, causality, padding, decoding, dtypes and loading. A wrong class gives
    failures in the report, no exception; an unknown name raises ValueError. Takes about a second.
    """
    name = core if isinstance(core, str) else getattr(core, "__name__", str(core))
    cls, options = find_class(core)
    if isinstance(cls, type) and (issubclass(cls, Mixer) or cls in MIXERS.values()):
        return run_checks(name, MixerHarness(cls, options), "mixer")
    if not (isinstance(cls, type) and issubclass(cls, Core)):
        return Report(name, failures=[f"{name} is not a subclass of zoo.nn.Core or zoo.nn.Mixer"])
    return run_checks(name, Harness(cls, options), "attention")


def run_checks(name: str, harness: Any, kind: str) -> Report:
    start = perf_counter()
    results: dict[str, str] = {}
    failures = []
    for title, (run_check, may_raise) in CHECKS_OF[kind].items():
        if perf_counter() - start > SECONDS:
            failures.append(f"{title}: not checked, because the checks before it took more than {SECONDS:.0f} s")
            continue
        results[title], wrong = run_one(run_check, harness, may_raise)
        if wrong:
            failures.append(f"{title}: {wrong}")
    return Report(name, results, failures, perf_counter() - start, kind)


def find_class(core: Any) -> tuple[Any, dict[str, Any]]:
    """The class and options of a kind; registers nothing."""
    if isinstance(core, dict):
        cls, _ = find_class(core.get("kind"))
        return cls, {key: value for key, value in core.items() if key != "kind"}
    if isinstance(core, str) and ":" in core and core not in CORES and core not in MIXERS:
        return load_class(core), {}
    if isinstance(core, type):
        return core, {}
    return resolve(core, MIXERS if core in MIXERS and core not in CORES else CORES)


def run_one(run_check: Callable[[Any], str], harness: Any, may_raise: bool) -> tuple[str, str]:
    """Run one check. Returns (entry of the table, failure message or an empty string)."""
    try:
        return run_check(harness), ""
    except CheckFailed as failure:
        return "FAILS", str(failure)
    except ValueError as error:
        return ("refused", "") if may_raise else ("FAILS", f"the {harness.what} raised ValueError: {error}")
    except Exception as error:  # a custom class may raise anything
        first_line = str(error).strip().split("\n")[0]
        return "FAILS", f"the {harness.what} raised {type(error).__name__}: {first_line}"


@dataclass
class Harness:
    """Builds cores of the class under test, and inputs for them; always the same values."""

    cls: type[Core]
    options: dict[str, Any]
    what: str = "core"

    def core(self, groups: int = HEADS, causal: bool = False, device: str = "cpu") -> Core:
        spec = CoreSpec(heads=HEADS, kv_heads=groups, head_dim=DIM, causal=causal)
        with torch.random.fork_rng(devices=[]), torch.device(device):
            torch.manual_seed(0)
            core: Core = construct(self.cls, self.options, spec, self.cls.__name__)
            if device == "meta":
                return core.eval()
            initialize(core, 0)
            fill_zeros(core)
        return core.eval()

    def stack(self, causal: bool = False) -> Stack:
        """One block with such a core."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            stack = BlockConfig(width=HEADS * DIM, heads=HEADS, causal=causal).stack(1)
            initialize(stack, 0)
        stack[0].mixer.core = self.core(causal=causal)
        return stack.eval()

    def x(self, tokens: int = TOKENS) -> Tensor:
        return torch.randn(BATCH, tokens, HEADS * DIM, generator=torch.Generator().manual_seed(0))

    def qkv(self, queries: int = TOKENS, keys: int = TOKENS, groups: int = HEADS) -> tuple[Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        q = torch.randn(BATCH, HEADS, queries, DIM, generator=generator)
        k, v = torch.randn(2, BATCH, groups, keys, DIM, generator=generator)
        return q, k, v


def assert_weights_match(
    core: Core, q: Tensor, k: Tensor, v: Tensor, mask: Any = None, bias: Any = None, where: str = ""
) -> Tensor:
    """Check core(q, k, v) == weights(q, k) @ v and return the outputs."""
    y = core(q, k, v, mask, bias)
    weights = core.maps(q, k, mask, bias)
    shape = (*q.shape[:3], k.shape[2])
    if weights.shape != shape:
        raise CheckFailed(f"weights have the shape {tuple(weights.shape)}, expected [B, H, N, M] = {shape}{where}")
    assert_close(y, weights @ repeat_kv(v, q.shape[1]), 1e-4, f"forward differs from weights @ v{where}")
    return y


def check_law(harness: Harness) -> str:
    """forward == weights @ v without a mask, at several lengths, and two calls agree."""
    core = harness.core()
    for n in (1, TOKENS, 70):
        y = assert_weights_match(core, *(qkv := harness.qkv(n, n)), where=f" at length {n}")
        assert_close(core(*qkv), y, 0.0, "two calls in eval mode give different outputs")
    return "yes"


def check_gradients(harness: Harness) -> str:
    core = harness.core()
    q, k, v = (t.requires_grad_() for t in harness.qkv())
    core(q, k, v).square().sum().backward()
    for name, p in core.named_parameters():
        if p.requires_grad and (p.grad is None or not p.grad.any()):
            raise CheckFailed(f"the parameter {name!r} gets no gradient")
    for name, leaf in [("q", q), ("k", k), ("v", v), *core.named_parameters()]:
        if leaf.grad is not None and not leaf.grad.isfinite().all():
            raise CheckFailed(f"the gradient of {name!r} is not finite")
    if v.grad is None or not v.grad.any():
        raise CheckFailed("the values v get no gradient")
    return "yes"


def check_causal(harness: Harness) -> str:
    """Under a causal mask, later tokens do not influence earlier outputs."""
    core, early = harness.core(causal=True), 4
    before = assert_weights_match(core, *(qkv := harness.qkv()), mask=CAUSAL, where=" under a causal mask")
    for later in qkv:
        later[:, :, early:] = 5 * later[:, :, early:].flip(0) + 1
    after = core(*qkv, CAUSAL)
    message = "the causal mask is violated: later tokens change earlier outputs"
    assert_close(after[:, :, :early], before[:, :, :early], 1e-6, message)
    return "yes"


def assert_keys_masked(harness: Harness, mask: Mask, keep: Tensor, name: str) -> Tensor:
    """Check that keys where keep [B, M] is False do not influence the outputs."""
    core = harness.core()
    y = assert_weights_match(core, *(qkv := harness.qkv()), mask=mask, where=f" under {name}")
    masked = ~keep[:, None, :, None]
    q, k, v = qkv[0], qkv[1].masked_fill(masked, 9.0), qkv[2].masked_fill(masked, -40.0)
    assert_close(core(q, k, v, mask), y, 1e-5, f"{name} is ignored: masked keys change the outputs")
    return y


def check_padding(harness: Harness) -> str:
    y = assert_keys_masked(harness, PaddingMask(KEEP_MASK), KEEP_MASK, "padding")
    real = int(KEEP_MASK[0].sum())
    unpadded = harness.core()(*(t[:1, :, :real] for t in harness.qkv()))
    assert_close(y[:1, :, :real], unpadded, 1e-5, "a padded row gives other outputs than the same row without padding")
    return "yes"


def check_masks(harness: Harness) -> str:
    """Masks of arbitrary pairs, tested with a window."""
    core, window = harness.core(), Window(1, 1)
    before = assert_weights_match(core, *(qkv := harness.qkv()), mask=window, where=" under a window")
    for t in qkv[1:]:
        t[:, :, 4:] = 7.0
    message = "a window mask is ignored: masked keys change the outputs"
    assert_close(core(*qkv, window)[:, :, :3], before[:, :, :3], 1e-5, message)
    return "yes"


def check_bias(harness: Harness) -> str:
    core, qkv = harness.core(), harness.qkv()
    plain = core(*qkv)
    for added in (ALiBi(HEADS), 3 * torch.eye(TOKENS)):
        y = assert_weights_match(core, *qkv, bias=added, where=" with a bias")
        if torch.allclose(y, plain):
            raise CheckFailed("the bias is ignored: add it to the scores (self.scores does so) or raise ValueError")
    return "yes"


def check_cross(harness: Harness) -> str:
    """Different numbers of keys and queries, as in cross-attention."""
    for queries, keys in ((3, TOKENS), (1, TOKENS), (TOKENS, 3)):
        where = f" with {queries} queries and {keys} keys"
        assert_weights_match(harness.core(), *harness.qkv(queries, keys), where=where)
    return "yes"


def check_rows(harness: Harness) -> str:
    core, qkv = harness.core(), harness.qkv()
    assert_close(core(*(t[:1] for t in qkv)), core(*qkv)[:1], 1e-5, "a row of a batch gives other outputs than alone")
    return "yes"


def check_gqa(harness: Harness) -> str:
    """Shared key and value heads (GQA) give the same outputs as repeated ones."""
    q, k, v = harness.qkv(groups=2)
    shared, own = harness.core(groups=2), harness.core()
    y = assert_weights_match(shared, q, k, v, where=" with shared key heads")
    state = shared.state_dict()
    if all(state[name].shape == value.shape for name, value in own.state_dict().items()):
        own.load_state_dict(state)
        repeated = own(q, repeat_kv(k, HEADS), repeat_kv(v, HEADS))
        assert_close(y, repeated, 1e-5, "shared key heads give other outputs than repeated ones")
    return "yes"


def check_decoding(harness: Harness) -> str:
    """Decoding with a cache, token by token and in chunks."""
    core, (q, k, v) = harness.core(groups=2, causal=True), harness.qkv(groups=2)
    full = core(q, k, v, CAUSAL)
    for sizes in ([1] * TOKENS, [3, 1, 2, 1]):
        state, parts = core.new_state(BATCH, 2, q), []
        for step in zip(q.split(sizes, 2), k.split(sizes, 2), v.split(sizes, 2)):
            parts.append(core.decode(*step, state, CAUSAL))
        assert_close(torch.cat(parts, 2), full, 1e-4, f"decoding in steps of {sizes} differs from one full forward")
    return "yes"


def check_dtype(dtype: torch.dtype, tolerance: float) -> Callable[[Harness], str]:
    def run_check(harness: Harness) -> str:
        core, qkv = harness.core(), harness.qkv()
        exact = core(*qkv)
        y = core.to(dtype)(*(t.to(dtype) for t in qkv))
        if y.dtype != dtype:
            raise CheckFailed(f"the outputs are {y.dtype} for inputs of {dtype}")
        assert_close(y, exact, tolerance, f"outputs in {dtype} differ from those in float32")
        return "yes"

    return run_check


def check_fully_masked(harness: Harness) -> str:
    """A query whose keys are all masked gives zeros and finite gradients."""
    core, (q, k, v) = harness.core(), (t.requires_grad_() for t in harness.qkv())
    y = core(q, k, v, PaddingMask(KEEP_MASK & torch.tensor([[False], [True]])))
    if y[0].any() or not y.isfinite().all():
        raise CheckFailed("the output of a fully masked query is not zero")
    y.square().sum().backward()
    if not all(t.grad is None or t.grad.isfinite().all() for t in (q, k, v, *core.parameters())):
        raise CheckFailed("gradients are not finite where a query is fully masked")
    return "yes"


def check_loading(harness: Harness) -> str:
    """A core that is built on the meta device gets all its tensors from the state dict."""
    core, filled, qkv = harness.core(), harness.core(device="meta"), harness.qkv()
    filled.load_state_dict(core.state_dict(), assign=True)
    assert_filled(filled)
    assert_close(filled(*qkv), core(*qkv), 0.0, "a loaded core gives other outputs: keep tensors in buffers")
    return "yes"


def check_row_sums(harness: Harness) -> str:
    """Whether weights sum to 1, for information; sigmoid attention, for example, does not."""
    q, k, _ = harness.qkv()
    total = harness.core().maps(q, k).sum(-1)
    return "yes" if torch.allclose(total, torch.ones_like(total), atol=1e-4) else "no"


# column -> (check, whether the core may raise ValueError as unsupported)
CHECKS: dict[str, tuple[Callable[[Harness], str], bool]] = {
    "law": (check_law, False),
    "gradients": (check_gradients, False),
    "causal": (check_causal, True),
    "padding": (check_padding, True),
    "any mask": (check_masks, True),
    "bias": (check_bias, True),
    "cross": (check_cross, True),
    "GQA": (check_gqa, True),
    "decoding": (check_decoding, True),
    "bfloat16": (check_dtype(torch.bfloat16, 0.1), False),
    "float64": (check_dtype(torch.float64, 1e-3), False),
    "hidden rows": (check_fully_masked, True),
    "batch rows": (check_rows, False),
    "loading": (check_loading, False),
    "rows sum to 1": (check_row_sums, False),
}
CHECKS_OF: dict[str, dict[str, tuple[Callable[[Any], str], bool]]] = {"attention": CHECKS, "mixer": MIXER_CHECKS}
