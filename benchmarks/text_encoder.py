"""BERT-base against transformers in the same process: full and ragged batches, and a fine-tuning step of bert-small.

    python benchmarks/text_encoder.py [what=full,ragged,train] [depth=12] [rounds=7] [device=cpu|cuda]
    python benchmarks/text_encoder.py what=rows,step device=cuda [rows=64] [longest=128]

full: 8 rows of 128 tokens; targets after zoo.optimize: >= 1.2x in float32, >= 2.2x in bfloat16 over its float32.
ragged: lengths 8, 16, 24, 32, 48, 64, 96, 128, which transformers pads; targets for tokens per second, without padding:
>= 2.3x as loaded, >= 3.0x optimized, >= 5.5x optimized in bfloat16. train: a step of bert-small (512 wide, 4 layers, 8
heads) with a classifier and AdamW, 32 rows with 1179 of 2048 tokens not padding; >= 1.7x. Both have the same random
weights. rows and step are for a GPU: a classifier of BERT-base's size in bfloat16 on `rows` rows of 8 to `longest`
tokens, and the same forward and backward; transformers computes the padding, with `sdpa` attention. On a GPU, full and
ragged are in bfloat16, too.
"""

import copy
from collections.abc import Callable
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from _measure import attempt, clock_of, options, paired, transformer_flops
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
    with torch.device(device):
        theirs = cls(transformers.BertConfig(**config)).eval()
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


def half_inference(lengths: tuple[int, ...], longest: int, depth: int, device: str) -> dict[str, Callable[[], object]]:
    """The encoders in bfloat16; their numbers are compared with transformers' in float32."""
    theirs, ours = both("BertForSequenceClassification", device, num_hidden_layers=depth)
    batch = batch_of(lengths, longest, device)
    with torch.inference_mode():
        reference = theirs(**batch).logits
    theirs, ours = theirs.to(torch.bfloat16), ours.to(torch.bfloat16).requires_grad_(False)
    with_lengths = batch | {"lengths": torch.tensor(lengths)}  # as our collators put them beside the mask

    def padded() -> Callable[[], object]:
        model = copy.deepcopy(ours)
        model.drop_padding = False
        return lambda: model(**batch)

    def optimized() -> Callable[[], object]:
        fast = zoo.optimize(ours, dtype=torch.bfloat16)
        print(fast.optimize_report)
        return lambda: fast(**batch)

    calls = {
        "transformers bfloat16": lambda: theirs(**batch).logits,
        "zoo bfloat16": lambda: ours(**batch),
        "zoo optimized bfloat16": attempt(optimized),
        "zoo drop_padding=False": attempt(padded),
    }
    if "lengths" in ours.inputs:
        calls["zoo with lengths"] = lambda: ours(**with_lengths)
    with torch.inference_mode():
        for name in ("transformers bfloat16", "zoo bfloat16"):
            error = ((calls[name]() - reference).abs().max() / reference.abs().max().clamp_min(1)).item()
            print(f"{name}: maximum difference to transformers in float32 {error:.1e}")
    return calls


def half_steps(lengths: tuple[int, ...], longest: int, depth: int, device: str) -> dict[str, Callable[[], object]]:
    """Forward and backward pass of the classifiers in bfloat16, without dropout."""
    dropout = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    theirs, ours = both("BertForSequenceClassification", device, num_hidden_layers=depth, **dropout)
    theirs, ours = theirs.to(torch.bfloat16).train(), ours.to(torch.bfloat16).train()
    batch, labels = batch_of(lengths, longest, device), (torch.arange(len(lengths)) % 2).to(device)

    def step(model: torch.nn.Module, inputs: dict[str, Tensor], logits_of: Callable[[Any], Tensor]) -> Callable:
        def run() -> None:
            F.cross_entropy(logits_of(model(**inputs)).float(), labels).backward()
            model.zero_grad()

        return run

    calls = {
        "transformers bfloat16": step(theirs, batch, lambda output: output.logits),
        "zoo bfloat16": step(ours, batch, lambda output: output),
    }
    if "lengths" in ours.inputs:
        calls["zoo with lengths"] = step(ours, batch | {"lengths": torch.tensor(lengths)}, lambda output: output)
    return calls


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


def random_rows(o: Any, what: str) -> None:
    """Print the table of what=rows or what=step."""
    generator = torch.Generator().manual_seed(1)
    lengths = tuple(torch.randint(min(8, o.longest), o.longest + 1, (o.rows,), generator=generator).tolist())
    calls = (half_inference if what == "rows" else half_steps)(lengths, max(lengths), o.depth, o.device)
    passes, more = (1, "") if what == "rows" else (3, ", forward and backward")
    with torch.set_grad_enabled(what == "step"):
        paired(calls, rounds=o.rounds, warmup=3, clock=clock_of(o.device), items=sum(lengths),
               title=f"bert_base, {o.rows} rows of 8 to {o.longest} tokens{more}",
               flops=passes * transformer_flops(lengths, width=768, depth=o.depth))  # fmt: skip


def main() -> None:
    smoke = dict(depth=1, rounds=1, rows=4, longest=16)
    o = options(smoke, what="full,ragged,train", depth=12, rounds=7, device="cpu", rows=64, longest=128)
    clock = clock_of(o.device)
    if clock == "cpu":
        torch.set_num_threads(1)
    for what in o.what.split(","):
        if what in ("rows", "step"):
            random_rows(o, what)
            continue
        if what == "train":
            calls, tokens = training(o.device), sum(TRAINING)
            paired(calls, rounds=o.rounds, clock=clock, items=tokens, title=f"bert_small, a step on {tokens} tokens")
            continue
        lengths = LENGTHS if what == "ragged" else (128,) * 8
        title = f"bert_base, {what}: {sum(lengths)} tokens of {128 * len(lengths)}"
        if o.device == "cuda":
            calls, title = half_inference(lengths, 128, o.depth, o.device), f"{title}, bfloat16"
        else:
            calls = inference(lengths, o.depth, o.device)
        with torch.inference_mode():
            paired(calls, rounds=o.rounds, clock=clock, items=sum(lengths), title=title)


if __name__ == "__main__":
    main()
