"""What the tests of decoding share: decoders of every kind, and their outputs in steps."""

import torch
from nn_cases import KINDS

from zoo.nn import CAUSAL, ALiBi, BlockConfig, Context, T5RelativeBias, initialize, rotary

WIDTH, HEADS, N, BATCH = 32, 4, 11, 2
TABLE = torch.randn(8, HEADS, generator=torch.Generator().manual_seed(1))


def decoder(kind="softmax", groups=HEADS, depth=2, **options):
    spec = BlockConfig(width=WIDTH, heads=HEADS, kv_heads=groups, causal=True, attention=attention(kind), **options)
    stack = spec.stack(depth)
    initialize(stack, 0)
    return stack.eval()


def attention(kind):
    return {"kind": kind, **KINDS[kind]} if isinstance(kind, str) and kind in KINDS else kind


def context(position, start, stop, mask=CAUSAL):
    """What a model would hand to its stack for tokens start to stop - 1."""
    turn = rotary(torch.arange(start, stop), WIDTH // HEADS) if position == "rope" else None
    bias = {"alibi": ALiBi(HEADS), "buckets": T5RelativeBias(TABLE, False, 20)}.get(position)
    return Context(mask=mask, rotary=turn, bias=bias)


def tokens(n=N, batch=BATCH):
    return torch.randn(batch, n, WIDTH, generator=torch.Generator().manual_seed(7))


def decode(stack, x, sizes, position, state=None, mask=CAUSAL):
    state = state or stack.new_state(len(x), 4, x)
    start, parts = 0, []
    for size in sizes:
        parts.append(stack(x[:, start : start + size], context(position, start, start + size, mask), state=state))
        start += size
        assert state.length == start
    return torch.cat(parts, 1)
