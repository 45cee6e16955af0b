"""RWKV and retention: a training step against a loop over the tokens, and decoding at the start and far from it.

    python benchmarks/recurrent_mixers.py [tokens=512] [width=256] [depth=4] [heads=4] [batch=1] [far=16384] [steps=64]
                                          [rounds=7]

Training: forward, cross-entropy, backward and AdamW of a decoder of this size. `loop` runs the same model token by
token, as it decodes. In `inner loop` only the recurrence takes one token at a time, and projections and MLPs take all;
transformers' RwkvForCausalLM is such a model on a CPU. Target: >= 5x of the loop. The outputs are compared first.

Decoding: `steps` tokens of one text, after 1 and after `far` tokens, and the bytes of the state there. Target: the
bytes are constant, the tokens per second within 10 %.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from _measure import options, paired, record
from torch import Tensor, nn
from transformers import RwkvConfig, RwkvForCausalLM

import zoo
from zoo.nn.mixers import retention, rwkv4, rwkv6

VOCABULARY = 256
FAMILIES = {"rwkv4": "rwkv_nano", "rwkv6": "rwkv_nano", "retention": "retnet_nano"}


def loop_rwkv4(k: Tensor, v: Tensor, decay: Tensor, start: Any, keep: Tensor | None) -> tuple[Any, Any]:
    """`past_sums`, one token at a time."""
    top, sums = start[0][:, 0].to(k.dtype), start[1][:, 0]
    tops, all_sums = [], []
    for key, value in zip(k.unbind(1), v.unbind(1), strict=True):
        tops.append(top)
        all_sums.append(sums)
        after = torch.maximum(top - decay, key)
        old, new = (top - decay - after).exp(), (key - after).exp()
        sums = old[:, None] * sums + torch.stack([new * value, new], 1)
        top = after
    return (torch.stack(tops, 1), torch.stack(all_sums, 1)), (top[:, None], sums[:, None])


def loop_rwkv6(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """`gated_attention`, one token at a time."""
    outputs = []
    for q_t, k_t, v_t, d_t in zip(*(t.unbind(2) for t in (q, k, v, log_decay)), strict=True):
        outputs.append((q_t[:, :, None] @ state)[:, :, 0])
        state = d_t.exp()[..., None] * state + k_t[..., None] * v_t[:, :, None]
    return torch.stack(outputs, 2), state


def loop_retention(q: Tensor, k: Tensor, v: Tensor, decay: Tensor, state: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """`decayed_attention`, one token at a time."""
    outputs, decays = [], decay.exp()
    for q_t, k_t, v_t, d_t in zip(*(t.unbind(2) for t in (q, k, v, decays)), strict=True):
        state = d_t[..., None, None] * state + k_t[..., None] * v_t[:, :, None]
        outputs.append((q_t[:, :, None] @ state)[:, :, 0])
    return torch.stack(outputs, 2), state


LOOPS = {
    "rwkv4": (rwkv4, "past_sums", loop_rwkv4),
    "rwkv6": (rwkv6, "gated_attention", loop_rwkv6),
    "retention": (retention, "decayed_attention", loop_retention),
}


@contextmanager
def by_token(name: str) -> Iterator[None]:
    """The recurrence of a mixer takes one token at a time."""
    module, function, loop = LOOPS[name]
    with mock.patch.object(module, function, loop):
        yield


def decoder(name: str, o: Any) -> zoo.Model:
    mixer = None if name == "retention" else name
    sizes = dict(
        vocab_size=VOCABULARY, max_length=o.far, width=o.width, depth=o.depth, heads=1 if name == "rwkv4" else o.heads
    )
    return zoo.create_model(FAMILIES[name], seed=0, mixer=mixer, dropout=0.0, **sizes)


def read_by_token(model: zoo.Model, ids: Tensor) -> Tensor:
    """The scores [B, N, V] of a model that reads one token after the other."""
    state = model.new_state(len(ids))
    return torch.cat([model.decode(token, state, every=True) for token in ids.split(1, 1)], 1)


def step(model: nn.Module, ids: Tensor, read: Callable[[Any, Tensor], Any] | None = None) -> Callable[[], float]:
    """A training step, which returns its loss. read: how the model gives its scores."""
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-4, fused=True)

    def run() -> float:
        output = model(ids) if read is None else read(model, ids)
        scores = output if isinstance(output, Tensor) else output.logits
        loss = F.cross_entropy(scores[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return run


def transformers_rwkv(model: zoo.Model) -> nn.Module:
    with tempfile.TemporaryDirectory() as folder:
        zoo.export(model, folder, format="transformers")
        theirs = RwkvForCausalLM(RwkvConfig.from_pretrained(folder))
        theirs.load_state_dict(RwkvForCausalLM.from_pretrained(folder).state_dict())
    return theirs


def training(name: str, o: Any, ids: Tensor) -> None:
    model = decoder(name, o)
    with torch.no_grad(), by_token(name):
        looped = model.train()(ids)
    with torch.no_grad():
        error = (looped - model(ids)).abs().max().item()
    inner = step(decoder(name, o), ids)

    def inner_loop() -> float:
        with by_token(name):
            return inner()

    loop = step(decoder(name, o), ids, read_by_token)
    candidates: dict[str, Callable[[], object]] = {"loop": loop, "inner loop": inner_loop, "zoo": step(model, ids)}
    if name == "rwkv4":
        candidates["transformers"] = step(transformers_rwkv(decoder(name, o)), ids)
    paired(candidates, rounds=o.rounds, title=f"{name}, training step", items=ids.numel())
    print(f"largest difference of the outputs from those of the loop: {error:.1e}\n")


def decoding(name: str, o: Any) -> None:
    model = decoder(name, o).eval()
    ids = torch.randint(VOCABULARY, (1, o.far))

    def start(tokens: int) -> tuple[Callable[[], object], Any]:
        state = model.new_state(1)
        with torch.inference_mode():
            for part in ids[:, :tokens].split(512, 1):
                model.decode(part, state)

        def run() -> None:
            with torch.inference_mode():
                for token in ids[0, : o.steps]:
                    model.decode(token[None, None], state)

        return run, state

    (near, first), (far, later) = start(1), start(o.far)
    paired({"after 1 token": near, f"after {o.far} tokens": far}, rounds=o.rounds, title=f"{name}, decoding",
           items=o.steps)  # fmt: skip
    sizes = [float(sum(t.nbytes for layer in state for t in tensors(layer))) for state in (first, later)]
    record(f"{name}, bytes of the state", {"near": sizes[0], "far": sizes[1]})
    print(f"bytes of the state: {sizes[0]:.0f} and {sizes[1]:.0f}\n")


def tensors(layer: Any) -> list[Tensor]:
    """Of the state of a layer."""
    states = [state for state in (layer.mixer, layer.mlp) if state is not None]
    return [t for state in states for t in state.tensors.values()]


def main() -> None:
    smoke = dict(tokens=16, width=32, depth=2, batch=1, far=40, steps=2, rounds=1)
    o = options(smoke, tokens=512, width=256, depth=4, heads=4, batch=1, far=16384, steps=64, rounds=7)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    ids = torch.randint(VOCABULARY, (o.batch, o.tokens))
    for name in LOOPS:
        training(name, o, ids)
        decoding(name, o)


if __name__ == "__main__":
    main()
