"""Attention that is linear in length: time, memory and exponents, against softmax attention and other computations.

    python benchmarks/linear_attention.py [kinds=linear,performer,rfa,gated_linear,delta,gated_delta]
        [lengths=1024,2048,4096,8192,16384] [heads=8] [head_dim=64] [rounds=5] [causal=yes] [step=4096] [loop=1024]

Tables, one row, float32, one thread:
- each length, forward: fused softmax attention over all keys, the same under a causal mask, and the kinds (causal, or
  not by causal=no). The exponent of a kind is the slope of log time over log length, first to last length.
- a training step of `step` tokens of causal linear attention: ours, and the cumulative sum of phi(k)^T v over all
  tokens; time, and the bytes that the forward pass keeps for the backward pass.
- a training step of `loop` tokens of the gated kinds: chunks, and a loop over the tokens.
- decoding: time of a token with 1 and with 16,384 tokens before it, and bytes of the state.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from _measure import options, paired, record
from torch import Tensor

from zoo.nn import CAUSAL, Core, CoreSpec, initialize
from zoo.nn.linear_attention import positive
from zoo.nn.registry import build_core

GATED = ("gated_linear", "delta", "gated_delta")


def make_core(kind: str, heads: int, dim: int) -> Core:
    core = build_core(kind, CoreSpec(heads=heads, kv_heads=heads, head_dim=dim, causal=True))
    initialize(core, 0)
    return core.eval()


def random_parts(n: int, heads: int, dim: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, n, heads, dim, generator=generator).transpose(1, 2) for _ in range(3)]


def cumulative(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal linear attention by the sums up to each token: N x F x P numbers for each head."""
    q, k = positive(q), positive(k)
    sums = (k[..., None] * v[..., None, :]).cumsum(2)
    return torch.einsum("bhnf,bhnfp->bhnp", q, sums) / (q * k.cumsum(2)).sum(-1, keepdim=True)


def kept_bytes(forward: Callable[[], Tensor]) -> int:
    """Bytes of the tensors that a forward pass keeps for its backward pass, each storage counted once."""
    storages = {}

    def keep(x: Tensor) -> Tensor:
        storages[x.untyped_storage().data_ptr()] = x.untyped_storage()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        y = forward()
    assert y.requires_grad
    return sum(storage.nbytes() for storage in storages.values())


def with_backward(forward: Callable[[], Tensor], leaves: list[Tensor]) -> Callable[[], object]:
    return lambda: torch.autograd.grad(forward().square().sum(), leaves)


def compare_lengths(kinds: list[str], lengths: list[int], causal: bool, heads: int, dim: int, rounds: int) -> None:
    mask = CAUSAL if causal else None
    cores = {kind: make_core(kind, heads, dim) for kind in kinds}
    medians: dict[str, list[float]] = {}
    for n in lengths:
        q, k, v = random_parts(n, heads, dim)
        calls: dict[str, Callable[[], object]] = {
            "softmax, all keys": lambda q=q, k=k, v=v: F.scaled_dot_product_attention(q, k, v),
            "softmax, causal": lambda q=q, k=k, v=v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        }
        for kind, core in cores.items():
            calls[kind] = lambda core=core, q=q, k=k, v=v: core(q, k, v, mask)
        title = f"{'causal' if causal else 'bidirectional'} attention, {n} tokens, {heads} heads of {dim}, forward"
        with torch.no_grad():
            table = paired(calls, rounds=rounds, title=title, items=n)
        for name in calls:
            medians.setdefault(name, []).append(min(table.seconds[name]))
    if len(lengths) > 1:
        apart = math.log(lengths[-1] / lengths[0])
        exponents = {name: math.log(times[-1] / times[0]) / apart for name, times in medians.items()}
        print(f"\n| exponent, {lengths[0]} to {lengths[-1]} tokens | |\n|---|---|")
        print("\n".join(f"| {name} | {exponent:.2f} |" for name, exponent in exponents.items()))
        record("exponents of attention", exponents)


def training_memory(n: int, heads: int, dim: int, rounds: int) -> None:
    leaves = [part.requires_grad_() for part in random_parts(n, heads, dim)]
    core = make_core("linear", heads, dim)
    calls = {"cumulative sum": lambda: cumulative(*leaves), "linear": lambda: core(*leaves, CAUSAL)}
    with torch.no_grad():
        assert torch.allclose(calls["linear"](), calls["cumulative sum"](), atol=1e-4)
    title = f"causal linear attention, {n} tokens, training step"
    paired({name: with_backward(call, leaves) for name, call in calls.items()}, rounds=rounds, title=title)
    kept = {name: kept_bytes(call) / 2**20 for name, call in calls.items()}
    print("\n| kept for the backward pass | MB | ratio |\n|---|---|---|")
    print("\n".join(f"| {name} | {size:,.1f} | {kept['cumulative sum'] / size:.1f}x |" for name, size in kept.items()))
    record(f"{title}, MB", kept)


def training_loops(kinds: list[str], n: int, heads: int, dim: int, rounds: int) -> None:
    for kind in kinds:
        core = make_core(kind, heads, dim)
        assert hasattr(core, "mix")
        leaves = [part.requires_grad_() for part in random_parts(n, heads, dim)]
        calls = {
            "token by token": lambda core=core, leaves=leaves: core.mix(*leaves, True, None, None, core.recurrence),
            "chunks": lambda core=core, leaves=leaves: core(*leaves, CAUSAL),
        }
        with torch.no_grad():
            assert torch.allclose(calls["chunks"](), calls["token by token"](), atol=1e-3)
        steps = {name: with_backward(call, leaves) for name, call in calls.items()}
        paired(steps, rounds=rounds, title=f"{kind} attention, {n} tokens, training step", items=n)


def decoding(kinds: list[str], before: int, heads: int, dim: int, rounds: int) -> None:
    for kind in kinds:
        core = make_core(kind, heads, dim)
        calls: dict[str, Callable[[], object]] = {}
        sizes = {}
        for n in (1, before):
            state = core.new_state(1, n, torch.zeros(1))
            q, k, v = random_parts(n + 1, heads, dim)

            def run(core: Core = core, state: object = state, token: tuple = tuple(x[:, :, -1:] for x in (q, k, v))):
                for _ in range(20):
                    core.decode(*token, state, CAUSAL)

            with torch.no_grad():
                core.decode(*(x[:, :, :-1] for x in (q, k, v)), state, CAUSAL)
            tensors = getattr(state, "tensors", vars(state)).values()
            sizes[f"{n} tokens before"] = sum(t.nbytes for t in tensors if isinstance(t, Tensor)) / 2**10
            calls[f"{n} tokens before"] = run
        with torch.no_grad():
            paired(calls, rounds=rounds, title=f"{kind} attention, 20 tokens decoded", items=20)
        print(", ".join(f"{name}: {size:,.0f} KB" for name, size in sizes.items()))
        record(f"{kind} attention, KB of its state", sizes)


def main() -> None:
    smoke = {"lengths": "64,128", "heads": 2, "head_dim": 16, "rounds": 2, "step": 128, "loop": 70}
    kinds = "linear,performer,rfa,gated_linear,delta,gated_delta"
    lengths = "1024,2048,4096,8192,16384"
    args = options(
        smoke, kinds=kinds, lengths=lengths, heads=8, head_dim=64, rounds=5, causal="yes", step=4096, loop=1024
    )
    sizes = args.heads, args.head_dim, args.rounds
    chosen, counts = args.kinds.split(","), [int(n) for n in args.lengths.split(",")]
    compare_lengths(chosen, counts, args.causal == "yes", *sizes)
    if args.step:
        training_memory(args.step, *sizes)
    if args.loop:
        training_loops([kind for kind in chosen if kind in GATED], args.loop, *sizes)
    decoding(chosen, counts[-1], *sizes)


if __name__ == "__main__":
    main()
