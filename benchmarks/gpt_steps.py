"""Training steps of a small GPT in nanoGPT's CPU setup, against a GPT2LMHeadModel of equal size in the same loop.

    python benchmarks/gpt_steps.py [depth=4] [heads=4] [width=128] [context=64] [batch=12] [vocabulary=65] [steps=10]
                                   [rounds=9] [device=cpu|cuda]

A step is forward, cross-entropy of the next token, backward, clipping at 1 and fused AdamW, with the same code for
both; `zoo task` computes the loss as recipes/gpt_text.py does, and seeds each step. Both start from the same weights;
their losses are compared. Target: at least as many steps per second as transformers.
"""

from collections.abc import Callable
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from _measure import options, paired
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

import zoo
from zoo.tasks.base import seed_all
from zoo.tasks.language_modeling import CausalLMTask


def both(o: Any) -> tuple[nn.Module, zoo.Model]:
    """(transformers model, zoo model) with the same weights and no dropout."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=o.vocabulary, n_positions=o.context, n_embd=o.width, n_layer=o.depth, n_head=o.heads,
                        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)  # fmt: skip
    theirs = GPT2LMHeadModel(config)
    with TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = zoo.load(folder)
        fresh = zoo.models.registry.build(zoo.models.registry.family("gpt2"), ours.config, "cpu")
        fresh.load_state_dict({key: value.clone() for key, value in ours.state_dict().items()})
    return theirs.to(o.device).train(), fresh.to(o.device).train()


def loop(
    model: nn.Module, loss_of: Callable[[dict[str, Tensor]], Tensor], batches: list[dict[str, Tensor]]
) -> Callable:
    """A function that takes a step on each batch and returns the last loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1, fused=True)

    def run() -> float:
        for batch in batches:
            loss = loss_of(batch)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        return loss.item()

    return run


def candidates(o: Any) -> dict[str, Callable[[], object]]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(o.vocabulary, (o.steps, o.batch, o.context + 1), generator=generator).to(o.device)
    batches = [{"input_ids": row[:, :-1], "labels": row[:, 1:].contiguous()} for row in ids]
    (theirs, ours), (_, own) = both(o), both(o)
    task = CausalLMTask(own, lr=1e-3)
    counter = {"step": 0}

    def plain(model: nn.Module, scores: Callable[[Any], Tensor]) -> Callable[[dict[str, Tensor]], Tensor]:
        def loss_of(batch: dict[str, Tensor]) -> Tensor:
            return F.cross_entropy(scores(model(batch["input_ids"])).flatten(0, 1), batch["labels"].flatten())

        return loss_of

    def of_task(batch: dict[str, Tensor]) -> Tensor:
        counter["step"] += 1
        seed_all(0, counter["step"], 0, batch["input_ids"].device)
        return task.loss_of(batch, counter["step"], 0)

    calls = {
        "transformers": loop(theirs, plain(theirs, lambda output: output.logits), batches),
        "zoo": loop(ours, plain(ours, lambda output: output), batches),
        "zoo task": loop(own, of_task, batches),
    }
    losses = {name: call() for name, call in calls.items()}
    print("loss after the first steps:", ", ".join(f"{name} {loss:.6f}" for name, loss in losses.items()))
    return calls


def main() -> None:
    o = options(dict(depth=1, steps=2, rounds=1), depth=4, heads=4, width=128, context=64, batch=12, vocabulary=65,
                steps=10, rounds=9, device="cpu")  # fmt: skip
    torch.set_num_threads(1)
    title = f"{o.depth} layers, {o.width} wide, context {o.context}, batch {o.batch}: {o.steps} steps"
    paired(candidates(o), rounds=o.rounds, clock="cuda" if o.device == "cuda" else "cpu", items=o.steps, title=title)


if __name__ == "__main__":
    main()
