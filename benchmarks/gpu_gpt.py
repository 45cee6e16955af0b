"""A training step of GPT-2 124M on a GPU in bfloat16 autocast, against GPT2LMHeadModel in the same loop.

    python benchmarks/gpu_gpt.py [rows=16] [context=1024] [depth=12] [rounds=5] [device=cuda|cpu]
        [compile=no,ours,peer]

A step is forward, cross-entropy of the next token, backward and fused AdamW, without dropout. `zoo task` computes the
loss as recipes/gpt_text.py does. transformers is also compiled as a whole, ours by its stack of blocks. Targets on an
H100: MFU >= 50 % (transformers 15 %, published: nanochat 41 to 50 %, llm.c 40 %). MFU counts attention in full, as
nanoGPT does.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from _measure import attempt, clock_of, in_tables, options, paired, transformer_flops
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

import zoo
from zoo.tasks.language_modeling import CausalLMTask
from zoo.training.compile_blocks import compile_stacks

WIDTH, VOCABULARY = 768, 50257


def theirs(o: Any, compiled: bool = False) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of transformers' model as a function of tokens and labels; its parameters are `.parameters`."""
    with torch.device(o.device):
        model = GPT2LMHeadModel(GPT2Config(n_layer=o.depth, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0))
    if compiled:
        model.compile()
    model.train()

    def loss_of(ids: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(model(ids, use_cache=False).logits.flatten(0, 1), labels.flatten())

    return with_parameters(loss_of, model)


def ours(o: Any, compiled: bool = False) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of our task as a function of tokens and labels."""
    with torch.device(o.device):
        model = zoo.create_model("gpt2", depth=o.depth, dropout=0.0, attention_dropout=0.0, seed=0)
    if compiled:
        compile_stacks(model)
    task = CausalLMTask(model.train(), lr=1e-4).to(o.device)

    def loss_of(ids: Tensor, labels: Tensor) -> Tensor:
        return task.loss_of({"input_ids": ids, "labels": labels}, 0, 0)

    return with_parameters(loss_of, model)


def with_parameters(loss_of: Any, model: nn.Module) -> Any:
    """The function, with the list of parameters to train."""
    loss_of.parameters = list(model.parameters())
    return loss_of


def stepper(loss_of: Any, ids: Tensor) -> Callable[[], None]:
    """A function that takes one training step."""
    optimizer = torch.optim.AdamW(loss_of.parameters, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    tokens, labels = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

    def step() -> None:
        with torch.autocast(ids.device.type, torch.bfloat16):
            loss = loss_of(tokens, labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    smoke = dict(rows=1, context=8, depth=1, rounds=1, compile="no")
    o = options(smoke, rows=16, context=1024, depth=12, rounds=5, compile="yes", device="cpu")
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(VOCABULARY, (o.rows, o.context + 1), generator=generator).to(o.device)
    eager = {"transformers": lambda: theirs(o), "zoo task": lambda: ours(o)}
    own, peer = {"zoo task, stack compiled": lambda: ours(o, True)}, {"transformers compiled": lambda: theirs(o, True)}
    flops = 3 * transformer_flops([o.context] * o.rows, width=WIDTH, depth=o.depth, head=VOCABULARY)
    for makes in in_tables(o.compile, eager, own, peer):
        calls = {name: attempt(lambda make=make: stepper(make(), ids)) for name, make in makes.items()}
        paired(calls, rounds=o.rounds, clock=clock_of(o.device), items=o.rows * o.context, flops=flops,
               title=f"gpt2 training step, {o.rows} x {o.context} tokens, bfloat16 autocast")  # fmt: skip


if __name__ == "__main__":
    main()
