"""Time and memory of attention against length: written out, fused, and under a pattern.

    python benchmarks/long_attention.py [pattern=local] [lengths=1024,4096,16384] [heads=12] [head_dim=64] [rounds=7]
        [what=time,memory] [device=cuda]

pattern: local (512 keys), longformer, bigbird, strided. For each length, forward and with backward:
"scores written out" is matmul, softmax, matmul over the N x N scores: what FlashAttention saves is the difference to
"fused, all keys", and "fused, causal" computes half of it. "fused, mask as a table" is the pattern as a bool matrix,
and "ours" the pattern as zoo computes it (on a GPU by flex_attention, on a CPU in tiles): what patterns save. On a CPU
local and bigbird also run as a layer with its projections of q, k and v, beside that of transformers: Longformer with
the same window, BigBird with as many random blocks. At the end, the exponents of a fit of time against length.
what=memory: on a CPU, the peak of a forward and backward pass above the level before, of each in a process of its own;
on a GPU the tables of time have it. Scores of more than 2^32 entries (on a CPU 2^28) are left out. bfloat16 on a GPU,
float32 on a CPU; one row.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from _measure import GLIBC, options, paired, peak_bytes, record
from torch import Tensor, nn

from zoo.nn import Attention, Core, CoreSpec
from zoo.nn.context import Context
from zoo.nn.registry import build_core
from zoo.nn.sdpa import plain_attention

PATTERNS = {
    "local": {"window": 512},
    "longformer": {"window": 512, "tokens": 1},
    "bigbird": {"block": 64, "random": 2},
    "strided": {"window": 512, "step": 256},
}
SHORTEST_PEER = 1024  # transformers' BigBird takes all keys below
MAX_SCORES = {"cuda": 2**32, "cpu": 2**28}


def forwards(core: Core, parts: list[Tensor]) -> dict[str, Callable[[], Tensor]]:
    """Name -> a function that computes the attention."""
    q, k, v = parts
    n, scale, most = q.shape[2], core.scale, MAX_SCORES[q.device.type]
    calls: dict[str, Callable[[], Tensor]] = {}
    if q.shape[1] * n * n <= most:
        calls["scores written out"] = lambda: plain_attention(q, k, v, None, scale)
    calls["fused, all keys"] = lambda: F.scaled_dot_product_attention(q, k, v, scale=scale)
    calls["fused, causal"] = lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
    if n * n <= most:
        table = core.pattern.dense(n, n, q.device)
        calls["fused, mask as a table"] = lambda: F.scaled_dot_product_attention(q, k, v, table, scale=scale)
    calls["ours"] = lambda: core(q, k, v, Context().for_forward(n).mask)
    return calls


def check(core: Core, parts: list[Tensor], tolerance: float) -> None:
    """Check that ours is the pattern, for 64 of the queries."""
    q, k, v = parts
    n = q.shape[2]
    with torch.no_grad():
        ours = core(q, k, v, Context().for_forward(n).mask)
        some = torch.linspace(0, n - 1, 64, device=q.device).long()
        zero = some.new_zeros(1, 1, 1, 1)
        allowed = core.pattern(zero, zero, some.view(1, 1, -1, 1), torch.arange(n, device=q.device).view(1, 1, 1, -1))
        expected = plain_attention(q[:, :, some], k, v, allowed, core.scale)
    difference = (ours[:, :, some] - expected).abs().max().item()
    assert difference < tolerance, f"ours differs from its pattern by {difference:.1e}"


def layers(core: Core, n: int) -> dict[str, Callable[[], Tensor]]:
    """One layer of ours and of transformers, with the projections of q, k and v."""
    spec = core.spec
    width = spec.heads * spec.head_dim
    x = torch.randn(1, n, width, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    attention = Attention(width, spec, attention={"kind": core.kind, **PATTERNS[core.kind]})
    attention.out = nn.Identity()
    sizes = dict(hidden_size=width, num_attention_heads=spec.heads, intermediate_size=8, num_hidden_layers=1)
    if core.kind == "local":
        from transformers.models.longformer.modeling_longformer import LongformerConfig, LongformerSelfAttention

        longformer = LongformerSelfAttention(LongformerConfig(**sizes, attention_window=[512]), 0).eval()
        for ours, theirs in (("q", "query"), ("k", "key"), ("v", "value")):
            getattr(longformer, theirs).load_state_dict(getattr(attention, ours).state_dict())
        seen, masked = torch.zeros(1, n), torch.zeros(1, n, dtype=torch.bool)

        def peer() -> Tensor:
            y: Tensor = longformer(x, seen, is_index_masked=masked, is_index_global_attn=masked, is_global_attn=False)[
                0
            ]
            return y

        with torch.no_grad():
            difference = (peer() - attention(x, Context().for_forward(n))).abs().max().item()
        assert difference < 1e-5, f"ours differs from transformers' by {difference:.1e}"
        return {"transformers' layer": peer, "our layer": lambda: attention(x, Context().for_forward(n))}
    from transformers.models.big_bird.modeling_big_bird import BigBirdConfig, BigBirdModel

    config = BigBirdConfig(
        **sizes,
        vocab_size=10,
        max_position_embeddings=n,
        block_size=64,
        num_random_blocks=PATTERNS["bigbird"]["random"],
    )
    model = BigBirdModel(config, add_pooling_layer=False).eval()
    inputs: list[tuple[tuple[object, ...], dict[str, object]]] = []
    module = model.encoder.layer[0].attention.self  # it takes masks that the model makes
    hook = module.register_forward_pre_hook(lambda _, args, options: inputs.append((args, options)), with_kwargs=True)
    with torch.no_grad():
        model(torch.ones(1, n, dtype=torch.long))
    hook.remove()
    (args, named), *_ = inputs
    return {
        "transformers' layer": lambda: module(*args, **named)[0],
        "our layer": lambda: attention(x, Context().for_forward(n)),
    }


def with_backward(forward: Callable[[], Tensor], parts: list[Tensor]) -> Callable[[], object]:
    gradient = torch.randn_like(parts[0])
    return lambda: torch.autograd.grad(forward(), parts, gradient)


def parts_of(spec: CoreSpec, n: int, device: str) -> list[Tensor]:
    """q, k and v of one row of n tokens."""
    generator, dtype = torch.Generator().manual_seed(0), torch.bfloat16 if device.startswith("cuda") else torch.float32
    parts = [torch.randn(1, n, spec.heads, spec.head_dim, generator=generator).transpose(1, 2) for _ in range(3)]
    return [part.to(device, dtype).requires_grad_() for part in parts]


def peak(core: Core, n: int, name: str) -> float:
    """Peak memory in MB of a forward and backward pass above the level before; to be run in a process of its own."""
    small = parts_of(core.spec, 64, "cpu")
    with_backward(forwards(core, small)[name], small)()  # loads what any call loads
    parts = parts_of(core.spec, n, "cpu")
    return peak_bytes(with_backward(forwards(core, parts)[name], parts)) / 2**20


def memory(core: Core, n: int, o: SimpleNamespace) -> None:
    """Print the peaks of one length."""
    title = f"{core.kind} attention, {n} tokens, {o.heads} heads of {o.head_dim}, forward and backward, peak memory"
    print(f"\n{title}\n| | MB |\n|---|---|")
    for name in forwards(core, parts_of(core.spec, n, "cpu")):
        words = [f"{key}={value}" for key, value in (vars(o) | {"lengths": n, "what": f"peak:{name}"}).items()]
        command = [sys.executable, __file__, *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | GLIBC)
        used = float(done.stdout)
        print(f"| {name} | {used:,.0f} |", flush=True)
        record(title, {name: used})


def compare(core: Core, n: int, device: str, rounds: int) -> dict[str, float]:
    """Check that ours is the pattern, print the tables of one length, and return the seconds of ours."""
    cuda, spec, times = device.startswith("cuda"), core.spec, {}
    parts = parts_of(spec, n, device)
    check(core, parts, 0.05 if cuda else 1e-5)
    calls = forwards(core, parts)
    for what in ("forward", "forward and backward"):
        run = calls if what == "forward" else {name: with_backward(call, parts) for name, call in calls.items()}
        title = f"{core.kind} attention, {n} tokens, {spec.heads} heads of {spec.head_dim}, {what}"
        if cuda:  # a peak counts what the candidates hold: q, k, v and the table
            title += f", {torch.cuda.memory_allocated() / 2**20:,.0f} MB at rest"
        with torch.set_grad_enabled(what != "forward"):
            table = paired(run, rounds=rounds, warmup=2, clock="cuda" if cuda else "cpu", title=title)
        times[what] = table.median("ours")
    if not cuda and core.kind in ("local", "bigbird") and n >= SHORTEST_PEER:
        with torch.no_grad():
            title = f"a layer of {core.kind} attention, {n} tokens, {spec.heads} heads of {spec.head_dim}, forward"
            paired(layers(core, n), rounds=rounds, warmup=2, clock="cpu", title=title)
    return times


def main() -> None:
    smoke = {"lengths": "64,128", "heads": 2, "head_dim": 16, "rounds": 2}
    args = options(smoke, pattern="local", lengths="1024,4096,16384", heads=12, head_dim=64, rounds=7, what="time",
                   device="cpu")  # fmt: skip
    if args.pattern not in PATTERNS:
        raise SystemExit(f"pattern={args.pattern}: expected one of {', '.join(PATTERNS)}")
    spec = CoreSpec(heads=args.heads, kv_heads=args.heads, head_dim=args.head_dim)
    core = build_core({"kind": args.pattern, **PATTERNS[args.pattern]}, spec)
    lengths = [int(n) for n in args.lengths.split(",")]
    if args.what.startswith("peak:"):
        print(peak(core, lengths[0], args.what.removeprefix("peak:")))
        return
    for n in lengths if "memory" in args.what and args.device == "cpu" else ():
        memory(core, n, args)
    if "time" not in args.what:
        return
    times = [compare(core, n, args.device, args.rounds) for n in lengths]
    for what in times[0] if len(lengths) > 1 else ():
        slope = np.polyfit(np.log(lengths), np.log([seconds[what] for seconds in times]), 1)[0]
        print(f"{core.kind} attention, {what}, {lengths[0]} to {lengths[-1]} tokens: time grows as N^{slope:.2f}")


if __name__ == "__main__":
    main()
