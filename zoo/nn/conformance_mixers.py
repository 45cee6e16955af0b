"""Conformance tests of mixers, which `zoo.check(MyMixer)` runs, and what they share with those of attention cores."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo.nn.block_config import BlockConfig
from zoo.nn.context import Context
from zoo.nn.init import initialize
from zoo.nn.kv_cache import RecurrentState
from zoo.nn.masks import CAUSAL
from zoo.nn.mixers.base import MixerConfig
from zoo.nn.registry import construct
from zoo.nn.stack import Stack

WIDTH, HEADS, TOKENS = 32, 4, 7
KEEP_MASK = torch.tensor([[1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1, 1]]).bool()


class CheckFailed(Exception):
    """A failed check; the message describes the failure."""


def assert_filled(module: nn.Module) -> None:
    """Fail for a tensor of a loaded module that is still on the meta device."""
    for name, tensor in [*module.named_buffers(), *module.named_parameters()]:
        if tensor.is_meta:
            raise CheckFailed(f"{name!r} is not in the state dict, so a loaded model lacks it: use persistent=True")


def assert_close(a: Tensor, b: Tensor, tolerance: float, message: str) -> None:
    """Raise CheckFailed unless max|a - b| / max(1, max|b|) <= tolerance."""
    if a.shape != b.shape:
        raise CheckFailed(f"{message}: shape {tuple(a.shape)}, expected {tuple(b.shape)}")
    if not a.isfinite().all():
        raise CheckFailed(f"{message}: the values are not finite")
    a, b = a.detach().double(), b.detach().double()
    error = float((a - b).abs().max() / b.abs().max().clamp(min=1))
    if not error <= tolerance:
        raise CheckFailed(f"{message}: error {error:.1e}, tolerance {tolerance:.0e}")


def fill_zeros(module: nn.Module) -> None:
    """Small random values for parameters that start at zero, which could block the gradients of others."""
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.where(p == 0, 0.02 * torch.randn(p.shape), p))


@dataclass
class MixerHarness:
    """Builds stacks of one block with the mixer under test, and inputs for them; always the same values."""

    cls: type[nn.Module]
    options: dict[str, Any]
    what: str = "mixer"

    def stack(self, causal: bool = False, device: str = "cpu", kv_heads: int = HEADS) -> Stack:
        with torch.random.fork_rng(devices=[]), torch.device(device):
            torch.manual_seed(0)
            config = BlockConfig(width=WIDTH, heads=HEADS, kv_heads=kv_heads, causal=causal)
            stack = config.stack(1)
            stack[0].mixer = construct(self.cls, self.options, MixerConfig(config, 0, 1), self.cls.__name__)
            if device != "meta":
                initialize(stack, 0)
                fill_zeros(stack)
        return stack.eval()

    def x(self, tokens: int = TOKENS) -> Tensor:
        return torch.randn(2, tokens, WIDTH, generator=torch.Generator().manual_seed(0))


def mix(stack: Stack, x: Tensor) -> Tensor:
    """The outputs of the mixer itself."""
    y: Tensor = stack[0].mixer(x, Context().for_forward(x.shape[1]), None)
    return y


def check_forward(harness: MixerHarness) -> str:
    """The mixer gives [B, N, D] at several lengths, and two calls agree."""
    stack = harness.stack()
    for n in (1, TOKENS, 70):
        x = harness.x(n)
        y = mix(stack, x)
        if y.shape != x.shape:
            raise CheckFailed(f"the outputs have the shape {tuple(y.shape)}, expected [B, N, D] = {tuple(x.shape)}")
        assert_close(mix(stack, x), y, 0.0, "two calls in eval mode give different outputs")
    return "yes"


def check_gradients(harness: MixerHarness) -> str:
    stack, x = harness.stack(), harness.x().requires_grad_()
    stack(x).square().sum().backward()
    for name, p in stack[0].mixer.named_parameters():
        if p.requires_grad and (p.grad is None or not p.grad.any()):
            raise CheckFailed(f"the parameter {name!r} gets no gradient")
    for name, leaf in [("x", x), *stack[0].mixer.named_parameters()]:
        if leaf.grad is not None and not leaf.grad.isfinite().all():
            raise CheckFailed(f"the gradient of {name!r} is not finite")
    return "yes"


def check_causal(harness: MixerHarness) -> str:
    """Under a causal mask, later tokens do not influence earlier outputs."""
    stack, x, early = harness.stack(causal=True), harness.x(), 4
    before = stack(x, Context(mask=CAUSAL))
    x[:, early:] = 5 * x[:, early:].flip(0) + 1
    message = (
        "the causal mask is violated: later tokens change earlier outputs (a mixer without a causal form raises "
        "ValueError where spec.causal is True)"
    )
    assert_close(stack(x, Context(mask=CAUSAL))[:, :early], before[:, :early], 1e-6, message)
    return "yes"


def check_padding(harness: MixerHarness) -> str:
    """A padded row gives the outputs of the same row alone, and neither sees the padding."""
    stack, x, real = harness.stack(), harness.x(), int(KEEP_MASK[0].sum())
    y = stack(x, keep=KEEP_MASK)
    message = "a padded row gives other outputs than the same row without padding"
    assert_close(y[:1, :real], stack(x[:1, :real]), 1e-5, message)
    other = x.masked_fill(~KEEP_MASK[..., None], 9.0)
    assert_close(stack(other, keep=KEEP_MASK), y, 1e-5, "padding is not ignored")
    return "yes"


def check_rows(harness: MixerHarness) -> str:
    stack, x = harness.stack(), harness.x()
    assert_close(mix(stack, x[:1]), mix(stack, x)[:1], 1e-5, "a row of a batch gives other outputs than alone")
    return "yes"


def check_decoding(harness: MixerHarness) -> str:
    """Decoding with a cache, token by token and in chunks, and after rows have been reordered."""
    stack, x = harness.stack(causal=True), harness.x()
    if not hasattr(stack[0].mixer, "new_state"):
        return "refused"
    full = stack(x, Context(mask=CAUSAL))
    for sizes in ([1] * TOKENS, [3, 1, 2, 1]):
        state, parts = stack.new_state(len(x), 2, x), []
        for step in x.split(sizes, 1):
            parts.append(stack(step, Context(mask=CAUSAL), state=state))
        assert_close(torch.cat(parts, 1), full, 1e-4, f"decoding in steps of {sizes} differs from one full forward")
        if state.length != TOKENS:
            raise CheckFailed(f"the cache holds {state.length} of {TOKENS} tokens after decoding")
    swapped, early = torch.tensor([1, 0]), 4
    state = stack.new_state(len(x), 2, x)
    stack(x[:, :early], Context(mask=CAUSAL), state=state)
    try:
        state.reorder(swapped)
    except NotImplementedError:
        raise CheckFailed("the cache has no method reorder(index), which beam search needs") from None
    rest = stack(x[swapped, early:], Context(mask=CAUSAL), state=state)
    assert_close(rest, full[swapped, early:], 1e-4, "after reorder(index), rows do not continue those that they were")
    check_padded_prompt(stack, x)
    return "yes"


def check_padded_prompt(stack: Stack, x: Tensor) -> None:
    """A recurrent mixer decodes a prompt that is padded, on either side, as it does without the padding."""
    if not isinstance(stack.new_state(1, 1, x)[0].mixer, RecurrentState):
        return
    prompt = TOKENS - 2
    for keep in (KEEP_MASK, KEEP_MASK.flip(1)):
        keep, state = keep.clone(), stack.new_state(len(x), 2, x)
        keep[:, prompt:] = True
        parts = [stack(x[:, :prompt], Context(mask=CAUSAL), keep=keep[:, :prompt], state=state)]
        for end in range(prompt + 1, TOKENS + 1):
            parts.append(stack(x[:, end - 1 : end], Context(mask=CAUSAL), keep=keep[:, :end], state=state))
        y = torch.cat(parts, 1)
        for row, real in enumerate(keep):
            alone = stack(x[row : row + 1, real], Context(mask=CAUSAL))
            assert_close(y[row : row + 1, real], alone, 1e-4, "a padded prompt decodes otherwise than without padding")


def check_dtype(dtype: torch.dtype, tolerance: float) -> Callable[[MixerHarness], str]:
    def run_check(harness: MixerHarness) -> str:
        stack, x = harness.stack(), harness.x()
        exact, y = mix(stack, x), mix(harness.stack().to(dtype), x.to(dtype))
        if y.dtype != dtype:
            raise CheckFailed(f"the outputs are {y.dtype} for inputs of {dtype}")
        assert_close(y, exact, tolerance, f"outputs in {dtype} differ from those in float32")
        return "yes"

    return run_check


def check_loading(harness: MixerHarness) -> str:
    """A mixer that is built on the meta device gets all its tensors from the state dict."""
    stack, filled, x = harness.stack(), harness.stack(device="meta"), harness.x()
    filled.load_state_dict(stack.state_dict(), assign=True)
    assert_filled(filled[0].mixer)
    assert_close(filled(x), stack(x), 0.0, "a loaded mixer gives other outputs: keep tensors in buffers")
    return "yes"


# column -> (check, whether the mixer may raise ValueError as unsupported)
MIXER_CHECKS: dict[str, tuple[Callable[[MixerHarness], str], bool]] = {
    "forward": (check_forward, False),
    "gradients": (check_gradients, False),
    "causal": (check_causal, True),
    "padding": (check_padding, True),
    "decoding": (check_decoding, True),
    "bfloat16": (check_dtype(torch.bfloat16, 0.1), False),
    "float64": (check_dtype(torch.float64, 1e-3), False),
    "batch rows": (check_rows, False),
    "loading": (check_loading, False),
}
