"""Training steps of Mamba and Mamba-2 against transformers, and decoding of each mixer at the start and far from it.

    python benchmarks/mixers.py [tokens=512] [widths=256,768] [depth=4] [batch=1] [rounds=3] [vocabulary=1000]
        [families=mamba,mamba2] [mixers=all] [far=16384] [new=64]

The first tables: forward, cross-entropy of the next token, backward and AdamW, with the same code and weights for both;
transformers takes its path without kernels, as it does without mamba-ssm. Target: mamba at least 3 times as fast. The
others: `new` tokens of one row, one by one, after 1 and after `far` tokens, with the bytes of the state; attention with
its keys and values stands beside the mixers. Target: within 10 %, and the same bytes.
"""

from collections.abc import Callable
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from _measure import options, paired, record
from torch import Tensor, nn

import zoo
from zoo.nn.kv_cache import KVCache, State
from zoo.nn.registry import BUILT_IN_MIXERS


def training_step(model: nn.Module, ids: Tensor) -> Callable[[], float]:
    """A function that takes one step and returns its loss."""
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-3, fused=True)

    def step() -> float:
        output = model(ids)
        logits = output if isinstance(output, Tensor) else output.logits
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def compare_training(family: str, width: int, o: Any) -> None:
    """Print the table of one family and width."""
    import transformers

    more = {"heads": max(2 * width // 64, 1)} if family == "mamba2" else {}
    ours = zoo.create_model(
        f"{family}_nano", seed=0, width=width, depth=o.depth, vocab_size=o.vocabulary, max_length=o.tokens, **more
    )
    with TemporaryDirectory() as folder:
        zoo.export(ours, folder, format="transformers")
        cls = getattr(transformers, f"{family.capitalize()}ForCausalLM")
        theirs = cls.from_pretrained(folder)
    ids = torch.randint(o.vocabulary, (o.batch, o.tokens), generator=torch.Generator().manual_seed(1))
    steps = {"transformers": training_step(theirs, ids), "zoo": training_step(ours, ids)}
    title = f"{family}, width {width}, {o.depth} layers, {o.batch} x {o.tokens} tokens, training step"
    losses = [step() for step in steps.values()]
    assert abs(losses[0] - losses[1]) < 1e-3 * losses[0], f"the losses differ: {losses}"
    paired(steps, rounds=o.rounds, warmup=0, title=title, items=o.batch * o.tokens)


def state_bytes(state: list[Any]) -> int:
    """Bytes of the tokens that the caches of all layers hold."""

    def of(cache: State) -> int:
        if isinstance(cache, KVCache):
            return sum(t[:, :, : cache.length].nbytes for t in (cache.k, cache.v))
        return sum(t.nbytes for t in getattr(cache, "tensors", vars(cache)).values() if isinstance(t, Tensor))

    return sum(of(layer.mixer) for layer in state)


@torch.no_grad()
def decoding(model: zoo.Model, tokens: int, new: int) -> tuple[Callable[[], None], int]:
    """(a function that decodes `new` tokens after `tokens` others, bytes of the state there)."""
    ids = torch.randint(256, (1, tokens), generator=torch.Generator().manual_seed(tokens))
    state = model.new_state(1, tokens + new)
    for chunk in ids.split(1024, 1):
        model.decode(chunk, state)
    size, start = state_bytes(state), state.length
    one = ids[:, :1]

    @torch.no_grad()
    def run() -> None:
        for _ in range(new):
            model.decode(one, state)
        if isinstance(state[0].mixer, KVCache):
            state.crop(start)

    return run, size


def compare_decoding(kind: str, o: Any) -> None:
    """Print the table of one mixer, or of attention."""
    model = zoo.create_model(
        "llama_nano", seed=0, width=256, heads=4, kv_heads=4, depth=o.depth, max_length=10**6,
        mixer=None if kind == "attention" else kind,
    ).eval()  # fmt: skip
    runs, sizes = {}, {}
    for tokens in (1, o.far):
        name = f"after {tokens} tokens"
        runs[name], sizes[name] = decoding(model, tokens, o.new)
    title = f"{kind}, width 256, {o.depth} layers, decoding"
    paired(runs, rounds=2 * o.rounds + 1, title=title, items=o.new)
    print("bytes of the state: " + ", ".join(f"{name} {size:,}" for name, size in sizes.items()))
    record(f"{title}, bytes of the state", sizes)


def main() -> None:
    smoke = {"tokens": 40, "widths": "32", "depth": 1, "rounds": 1, "far": 50, "new": 4, "vocabulary": 50}
    o = options(
        smoke, tokens=512, widths="256,768", depth=4, batch=1, rounds=3, vocabulary=1000, families="mamba,mamba2",
        mixers="all", far=16384, new=64,
    )  # fmt: skip
    for family in filter(None, o.families.split(",")):
        for width in str(o.widths).split(","):
            compare_training(family, int(width), o)
    for kind in ("attention", *BUILT_IN_MIXERS) if o.mixers == "all" else filter(None, o.mixers.split(",")):
        compare_decoding(kind, o)


if __name__ == "__main__":
    main()
