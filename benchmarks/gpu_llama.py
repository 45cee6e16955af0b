"""Decoding of LLaMA 3.2 1B's size on a GPU in bfloat16 against transformers' generate in the same process.

    python benchmarks/gpu_llama.py [rows=1] [new=64] [rounds=3] [device=cuda|cpu]

1.24 billion random weights: reading them once for each token is the bound. Target on an H100: >= 700 tokens/s (bound
1,200; published: 78 % of the bandwidth by a single kernel for all layers, at most 50 % by engines that serve models).
"""

from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from _measure import attempt, clock_of, options, paired
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

import zoo
from zoo.checkpoints import create

SIZES = {
    "llama32_1b": dict(vocab_size=128_256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16,
                       num_attention_heads=32, num_key_value_heads=8, tie_word_embeddings=True),
    "llama_nano": dict(vocab_size=1000, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                       num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True),
}  # fmt: skip


def candidates(o: Any) -> dict[str, Callable[[], object]]:
    """Name -> function that generates `new` tokens after 8."""
    with torch.device(o.device):
        theirs = LlamaForCausalLM(LlamaConfig(**SIZES[o.size])).to(torch.bfloat16).eval()
        with mock.patch.object(create, "initialize"):  # in one thread of the CPU: 1.24 billion numbers take long
            ours = zoo.create_model(o.size, seed=0).to(torch.bfloat16).eval().requires_grad_(False)
    for p in ours.parameters():
        p.fill_(1) if p.ndim == 1 else p.normal_(std=0.02)
    ids = torch.randint(256, (o.rows, 8), device=o.device)

    def transformers_generate() -> Tensor:
        return theirs.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=o.new, do_sample=False,
                               eos_token_id=None, pad_token_id=0)  # fmt: skip

    def optimized() -> Callable[[], Tensor]:
        fast = zoo.optimize(ours, rows="one" if o.rows == 1 else "many")
        return lambda: zoo.generate(fast, ids, max_new_tokens=o.new, eos_token_id=None)

    return {
        "transformers": transformers_generate,
        "zoo": lambda: zoo.generate(ours, ids, max_new_tokens=o.new, eos_token_id=None),
        "zoo optimized": attempt(optimized),
    }


def main() -> None:
    smoke = dict(size="llama_nano", new=3, rounds=1)
    o = options(smoke, size="llama32_1b", rows=1, new=64, rounds=3, device="cpu")
    calls = candidates(o)
    with torch.device("meta"):
        weights = 2 * sum(p.numel() for p in zoo.create_model(o.size).parameters())  # bytes
    with torch.no_grad():
        paired(calls, rounds=o.rounds, clock=clock_of(o.device), items=o.rows * o.new, moved=o.new * weights,
               title=f"LLaMA decoding, {o.rows} rows, {o.new} new tokens after 8")  # fmt: skip


if __name__ == "__main__":
    main()
