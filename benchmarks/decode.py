"""Decoding and prefill of GPT-2: as loaded and after zoo.optimize, against transformers' generate in the same process.

    python benchmarks/decode.py [rows=1,8] [new=32] [rounds=7] [size=gpt2|small|llama] [prefill=512] [device=cpu|cuda]
        [steps=yes|no]

Targets: GPT-2 decode, one row, optimized with rows="one" >= 1.25x in float32 and >= 2.0x in bfloat16 over transformers
in float32; eight rows >= 2.0x and >= 3.0x; a small model (6 layers, 192 wide) >= 1.8x as loaded, >= 2.3x optimized;
prefill of 512 tokens >= 1.5x of transformers' model(input_ids). Weights are random; the tokens of all float32 variants
are compared.

On a GPU (device=cuda rows=1,32 new=128) both sides are in bfloat16, and zoo generates by CUDA graphs (steps=yes: by
steps, too), also with rows of different lengths, and sampling. Targets for GPT-2: >= 1,500 tokens/s with one row, >=
40,000 with 32.
"""

import tempfile
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from _measure import attempt, options, paired
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import zoo
from zoo.inference.generation import graph_decoding

SIZES = {
    "gpt2": (GPT2LMHeadModel, GPT2Config()),
    "small": (GPT2LMHeadModel, GPT2Config(vocab_size=256, n_embd=192, n_layer=6, n_head=6)),
    "llama": (
        LlamaForCausalLM,
        LlamaConfig(vocab_size=32000, hidden_size=768, intermediate_size=2048, num_hidden_layers=12,
                    num_attention_heads=12, num_key_value_heads=4),
    ),
}  # fmt: skip


def models(size: str, device: str) -> tuple[torch.nn.Module, zoo.Model]:
    """(transformers model, zoo model) with the same random weights."""
    cls, config = SIZES[size]
    torch.manual_seed(0)
    with torch.device(device):
        theirs = cls(config).eval()
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = zoo.load(folder)
        for name, tensor in list(ours.named_parameters()):  # copy out of the memory-mapped file
            owner, _, key = name.rpartition(".")
            setattr(ours.get_submodule(owner), key, torch.nn.Parameter(tensor.detach().clone(), requires_grad=False))
        if ours.config.tie_word_embeddings:
            ours.head.proj.weight = ours.tokens.word.weight
    return theirs.to(device), ours.to(device)


def decoding(theirs: torch.nn.Module, ours: zoo.Model, ids: torch.Tensor, new: int) -> dict[str, Callable[[], object]]:
    """Name -> function that generates `new` tokens after `ids`."""
    layout = "one" if len(ids) == 1 else "many"
    fast, half = zoo.optimize(ours, rows=layout), zoo.optimize(ours, dtype=torch.bfloat16, rows=layout)
    mask = torch.ones_like(ids)

    def transformers_generate() -> torch.Tensor:
        return theirs.generate(ids, attention_mask=mask, max_new_tokens=new, do_sample=False, eos_token_id=None,
                               pad_token_id=0)  # fmt: skip

    def zoo_generate(model: zoo.Model) -> Callable[[], torch.Tensor]:
        return lambda: zoo.generate(model, ids, max_new_tokens=new, eos_token_id=None)

    calls = {
        "transformers float32": transformers_generate,
        "zoo float32": zoo_generate(ours),
        "zoo optimized float32": zoo_generate(fast),
    }
    expected = transformers_generate()
    for name, call in calls.items():
        same = (call() == expected).float().mean()
        print(f"{name}: {100 * same:.0f} % of the tokens equal those of transformers")
    return calls | {"zoo optimized bfloat16": zoo_generate(half)}


def decoding_on_gpu(
    theirs: torch.nn.Module, ours: zoo.Model, ids: torch.Tensor, new: int, steps: bool
) -> dict[str, Callable[[], object]]:
    """Name -> function that generates `new` tokens after `ids` in bfloat16."""
    theirs, ours = theirs.bfloat16(), ours.bfloat16()
    mask = torch.ones_like(ids)
    mask[::2, : ids.shape[1] // 2] = 0

    def transformers_generate() -> torch.Tensor:
        return theirs.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False,
                               eos_token_id=None, pad_token_id=0)  # fmt: skip

    def zoo_generate(model: zoo.Model, **options: Any) -> Callable[[], torch.Tensor]:
        return lambda: zoo.generate(model, ids, max_new_tokens=new, eos_token_id=None, **options)

    def optimized() -> Callable[[], torch.Tensor]:
        return zoo_generate(zoo.optimize(ours, rows="one" if len(ids) == 1 else "many"))

    def by_steps() -> torch.Tensor:
        with mock.patch.object(graph_decoding, "DEVICE_TYPES", ()):
            return zoo_generate(ours)()

    calls = {
        "transformers": transformers_generate,
        "zoo": zoo_generate(ours),
        "zoo optimized": attempt(optimized),
        "zoo, top_p=0.9": zoo_generate(ours, temperature=0.8, top_p=0.9, seed=1),
    }
    if steps:
        calls["zoo by steps"] = by_steps
    if len(ids) > 1:
        calls["zoo, half of the rows padded"] = zoo_generate(ours, attention_mask=mask)
    return calls


def prefill(theirs: torch.nn.Module, ours: zoo.Model, length: int) -> dict[str, Callable[[], object]]:
    ids = torch.randint(ours.config.vocab_size, (1, length), device=ours.device)
    fast = zoo.optimize(ours)

    def first_token(model: zoo.Model) -> Callable[[], object]:
        return lambda: zoo.generate(model, ids, max_new_tokens=1)

    return {
        "transformers model(ids)": lambda: theirs(ids),
        "zoo float32": first_token(ours),
        "zoo optimized": first_token(fast),
    }


def main() -> None:
    smoke = dict(rows="1", new=3, rounds=1, size="small", prefill=16)
    o = options(smoke, rows="1,8", new=32, rounds=7, size="gpt2", prefill=512, device="cpu", steps="yes")
    theirs, ours = models(o.size, o.device)
    clock = "cuda" if o.device == "cuda" else "cpu"
    torch.set_num_threads(1)
    for rows in map(int, o.rows.split(",")):
        ids = torch.randint(ours.config.vocab_size, (rows, 8), device=o.device)
        with torch.no_grad():
            if clock == "cuda":
                calls = decoding_on_gpu(theirs, ours, ids, o.new, o.steps == "yes")
            else:
                calls = decoding(theirs, ours, ids, o.new)
            paired(calls, rounds=o.rounds, clock=clock, items=rows * o.new,
                   title=f"{o.size}, {rows} rows, {o.new} new tokens after 8")  # fmt: skip
    if o.prefill:
        with torch.no_grad():
            paired(prefill(theirs, ours, o.prefill), rounds=o.rounds, clock=clock, items=o.prefill,
                   title=f"{o.size}, a prompt of {o.prefill} tokens")  # fmt: skip


if __name__ == "__main__":
    main()
