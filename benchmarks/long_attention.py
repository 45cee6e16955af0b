"""Time and memory of attention against length: written out, fused, and under a pattern.

    python benchmarks/long_attention.py [pattern=local] [lengths=1024,4096,16384] [heads=12] [head_dim=64] [rounds=7]
        [device=cuda]

pattern: local (512 keys), longformer, bigbird, strided. For each length, forward and with backward:
"scores written out" is matmul, softmax, matmul over the N x N scores: what FlashAttention saves is the difference to
"fused, all keys", and "fused, causal" computes half of it. "fused, mask as a table" is the pattern as a bool matrix,
and "ours" the pattern as zoo computes it (on a GPU by flex_attention, on a CPU as a table): what patterns save.
Scores of more than 2^32 entries are left out. bfloat16 on a GPU, float32 on a CPU; one row.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from _measure import options, paired
from torch import Tensor

from zoo.nn import Core, CoreSpec
from zoo.nn.context import Context
from zoo.nn.registry import build_core
from zoo.nn.sdpa import plain_attention

PATTERNS = {
    "local": {"window": 512},
    "longformer": {"window": 512, "tokens": 1},
    "bigbird": {"block": 64, "random": 2},
    "strided": {"window": 512, "step": 256},
}
MAX_SCORES = 2**32


def forwards(core: Core, parts: list[Tensor]) -> dict[str, Callable[[], Tensor]]:
    """Name -> a function that computes the attention."""
    q, k, v = parts
    n, scale = q.shape[2], core.scale
    table = core.pattern.dense(n, n, q.device)
    calls: dict[str, Callable[[], Tensor]] = {}
    if q.shape[1] * n * n <= MAX_SCORES:
        calls["scores written out"] = lambda: plain_attention(q, k, v, None, scale)
    calls["fused, all keys"] = lambda: F.scaled_dot_product_attention(q, k, v, scale=scale)
    calls["fused, causal"] = lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
    calls["fused, mask as a table"] = lambda: F.scaled_dot_product_attention(q, k, v, table, scale=scale)
    calls["ours"] = lambda: core(q, k, v, Context().for_forward(n).mask)
    return calls


def with_backward(forward: Callable[[], Tensor], parts: list[Tensor]) -> Callable[[], object]:
    gradient = torch.randn_like(parts[0])
    return lambda: torch.autograd.grad(forward(), parts, gradient)


def compare(core: Core, n: int, device: str, rounds: int) -> None:
    """Check that ours is the pattern, and print the tables of one length."""
    cuda, spec = device.startswith("cuda"), core.spec
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(1, n, spec.heads, spec.head_dim, generator=generator).transpose(1, 2) for _ in range(3)]
    parts = [part.to(device, torch.bfloat16 if cuda else torch.float32).requires_grad_() for part in parts]
    calls = forwards(core, parts)
    with torch.no_grad():
        expected, ours = calls["fused, mask as a table"](), calls["ours"]()
    difference = (ours - expected).abs().max().item()
    assert difference < (0.05 if cuda else 1e-5), f"ours differs from the table by {difference:.1e}"
    for what in ("forward", "forward and backward"):
        run = calls if what == "forward" else {name: with_backward(call, parts) for name, call in calls.items()}
        title = f"{core.kind} attention, {n} tokens, {spec.heads} heads of {spec.head_dim}, {what}"
        if cuda:  # a peak counts what the candidates hold: q, k, v and the table
            title += f", {torch.cuda.memory_allocated() / 2**20:,.0f} MB at rest"
        with torch.set_grad_enabled(what != "forward"):
            paired(run, rounds=rounds, warmup=2, clock="cuda" if cuda else "cpu", title=title)


def main() -> None:
    smoke = {"lengths": "64,128", "heads": 2, "head_dim": 16, "rounds": 2}
    args = options(smoke, pattern="local", lengths="1024,4096,16384", heads=12, head_dim=64, rounds=7, device="cpu")
    if args.pattern not in PATTERNS:
        raise SystemExit(f"pattern={args.pattern}: expected one of {', '.join(PATTERNS)}")
    spec = CoreSpec(heads=args.heads, kv_heads=args.heads, head_dim=args.head_dim)
    core = build_core({"kind": args.pattern, **PATTERNS[args.pattern]}, spec)
    for n in map(int, args.lengths.split(",")):
        compare(core, n, args.device, args.rounds)


if __name__ == "__main__":
    main()
