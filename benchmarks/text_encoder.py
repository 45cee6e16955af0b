"""BERT-base against transformers in the same process: full and ragged batches, and a fine-tuning step of bert-small.

    python benchmarks/text_encoder.py [what=full,ragged,train] [depth=12] [rounds=7] [device=cpu|cuda]

full: 8 rows of 128 tokens; targets after zoo.optimize: >= 1.2x in float32, >= 2.2x in bfloat16 over its float32.
ragged: lengths 8, 16, 24, 32, 48, 64, 96, 128, which transformers pads; targets for tokens per second, without padding:
>= 2.3x as loaded, >= 3.0x optimized, >= 5.5x optimized in bfloat16. train: a step of bert-small (512 wide, 4 layers, 8
heads) with a classifier and AdamW, 32 rows with 1179 of 2048 tokens not padding; >= 1.7x. Both have the same random
weights.
"""

from collections.abc import Callable
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from _measure import options, paired
from torch import Tensor

import zoo

LENGTHS = (8, 16, 24, 32, 48, 64, 96, 128)
TRAINING = (64, 58, 50, 44, 41, 38, 36, 34, 33, 32, 31, 30, 64, 60, 52, 46)
TRAINING = (*TRAINING, 42, 38, 36, 35, 33, 32, 31, 30, 28, 26, 25, 24, 22, 20, 18, 26)


def batch_of(lengths: tuple[int, ...], longest: int, device: str) -> dict[str, Tensor]:
    """A batch with rows of these lengths; without a mask if no row is padded."""
    ids = torch.randint(5, 30000, (len(lengths), longest), generator=torch.Generator().manual_seed(0))
    keep = (torch.arange(longest) < torch.tensor(lengths)[:, None]).long()
    mask = {} if keep.all() else {"attention_mask": keep.to(device)}
    return {"input_ids": (ids * keep).to(device)} | mask


def both(name: str, device: str, **config: Any) -> tuple[torch.nn.Module, zoo.Model]:
    """(transformers model, zoo model) with the same weights."""
    cls = getattr(transformers, name)
    theirs = cls(transformers.BertConfig(**config)).to(device).eval()
    with TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = zoo.load(folder, device=device)
        ours.load_state_dict({key: value.clone() for key, value in ours.state_dict().items()}, assign=True)
    return theirs, ours


def inference(lengths: tuple[int, ...], depth: int, device: str) -> dict[str, Callable[[], object]]:
    theirs, ours = both("BertModel", device, num_hidden_layers=depth)
    half = transformers.BertModel(theirs.config).to(device, torch.bfloat16).eval()
    fast, fast_half = zoo.optimize(ours), zoo.optimize(ours, dtype=torch.bfloat16)
    batch = batch_of(lengths, 128, device)
    real = batch.get("attention_mask", torch.ones_like(batch["input_ids"]))[..., None]
    with torch.inference_mode():
        reference = theirs(**batch).last_hidden_state * real
        for name, model in (("as loaded", ours), ("optimized", fast), ("optimized bfloat16", fast_half)):
            error = ((model(**batch) - reference).abs().max() / reference.abs().max().clamp_min(1)).item()
            print(f"{name}: maximum difference to transformers {error:.1e}")
    return {
        "transformers float32": lambda: theirs(**batch),
        "transformers bfloat16": lambda: half(**batch),
        "zoo as loaded": lambda: ours(**batch),
        "zoo optimized float32": lambda: fast(**batch),
        "zoo optimized bfloat16": lambda: fast_half(**batch),
    }


def training(device: str) -> dict[str, Callable[[], object]]:
    small = dict(hidden_size=512, num_hidden_layers=4, num_attention_heads=8, intermediate_size=2048)
    theirs, ours = both("BertForSequenceClassification", device, **small)
    batch = batch_of(TRAINING, 64, device)
    labels = torch.arange(len(TRAINING), device=device) % 2

    def step(model: torch.nn.Module, logits_of: Callable[[Any], Tensor]) -> Callable[[], None]:
        model.train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=model is ours)

        def run() -> None:
            F.cross_entropy(logits_of(model(**batch)), labels).backward()
            optimizer.step()
            optimizer.zero_grad()

        return run

    return {
        "transformers + AdamW": step(theirs, lambda output: output.logits),
        "zoo + fused AdamW": step(ours, lambda output: output),
    }


def main() -> None:
    o = options(dict(depth=1, rounds=1), what="full,ragged,train", depth=12, rounds=7, device="cpu")
    clock = "cuda" if o.device == "cuda" else "cpu"
    torch.set_num_threads(1)
    for what in o.what.split(","):
        if what == "train":
            calls, tokens = training(o.device), sum(TRAINING)
            paired(calls, rounds=o.rounds, clock=clock, items=tokens, title=f"bert_small, a step on {tokens} tokens")
            continue
        lengths = LENGTHS if what == "ragged" else (128,) * 8
        calls = inference(lengths, o.depth, o.device)
        with torch.inference_mode():
            title = f"bert_base, {what}: {sum(lengths)} tokens of {128 * len(lengths)}"
            paired(calls, rounds=o.rounds, clock=clock, items=sum(lengths), title=title)


if __name__ == "__main__":
    main()
