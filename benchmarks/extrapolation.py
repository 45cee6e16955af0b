"""How models with each kind of positions read texts longer than those they were trained on.

    python benchmarks/extrapolation.py [minutes=4] [seeds=3] [kinds=none,sinusoid,learned,rotary,alibi,t5] [out=DIR]

Trains equal decoders of characters on rows of 128 tokens of tinyshakespeare, each for the same time, which differ in
their positions alone, and tests them on rows of 128, 256 and 512 tokens of the held-out text: the loss of all tokens,
and that of the last quarter of the rows, which were never as long in training. Learned positions end at 128: the rows
after that begin as they were initialized, which is what a longer table would hold. Prints a table with mean and
standard error over the seeds, and writes `extrapolation.yaml` and `.png` into `out`.

The decoder is made of parts of zoo.nn: no family has each of the six kinds.
"""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from _measure import machine, options, record
from _text_lm import characters, losses, train
from torch import Tensor, nn

from zoo.nn.block_config import BlockConfig
from zoo.nn.context import Context
from zoo.nn.frontends.text import TextEmbedding
from zoo.nn.heads import LMHead
from zoo.nn.init import Initializer, initialize, trunc_normal_
from zoo.nn.masks import CAUSAL
from zoo.nn.position_biases import ALiBi, T5RelativeBias
from zoo.nn.rotary import rotary

KINDS = ("none", "sinusoid", "learned", "rotary", "alibi", "t5")
LENGTHS = (1, 2, 4)  # times the length in training


class Decoder(nn.Module):
    """forward(input_ids [B, N]) -> logits [B, N, V]: a pre-norm decoder with positions of one kind."""

    def __init__(self, kind: str, vocab_size: int, max_length: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        if kind not in KINDS:
            raise SystemExit(f"kinds={kind}: expected some of {','.join(KINDS)}")
        config = BlockConfig(width=width, heads=heads, causal=True)
        self.kind, self.heads, self.head_dim = kind, heads, width // heads
        self.tokens = TextEmbedding(
            vocab_size,
            width,
            max_length=max_length if kind in ("sinusoid", "learned") else None,
            sinusoids="interleaved" if kind == "sinusoid" else None,
            scale=width**0.5 if kind == "sinusoid" else 1.0,  # as large as the sinusoids (Vaswani et al. 2017, 3.4)
        )
        self.buckets = nn.Parameter(torch.empty(32, heads)) if kind == "t5" else None
        self.blocks = config.stack(depth)
        self.head = LMHead(width, vocab_size, self.tokens.word)

    def initialize(self, generator_for: Initializer) -> None:
        if self.buckets is not None:
            trunc_normal_(self.buckets, 0.02, generator_for("buckets"))

    def forward(self, input_ids: Tensor) -> Tensor:
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        bias = ALiBi(self.heads) if self.kind == "alibi" else None
        if self.buckets is not None:
            bias = T5RelativeBias(self.buckets, bidirectional=False)
        tables = rotary(positions, self.head_dim) if self.kind == "rotary" else None
        x = self.tokens(input_ids, positions)
        return self.head(self.blocks(x, Context(mask=CAUSAL, bias=bias, rotary=tables)))


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard error."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return round(statistics.fmean(values), 4), round(error, 4)


def plot(found: dict[str, dict[str, list[float]]], length: int, file: Path) -> None:
    """Loss over the length of the rows."""
    from zoo.utils.plotting import PALETTE, make_figure

    figure = make_figure(7, 4.2)
    axis = figure.subplots()
    for number, (kind, values) in enumerate(found.items()):
        points = [mean_and_error(values[f"{length * times} tokens"]) for times in LENGTHS]
        axis.errorbar([length * times for times in LENGTHS], [p[0] for p in points], [p[1] for p in points],
                      color=PALETTE[number % len(PALETTE)], marker="os^DvP"[number], capsize=2, label=kind)  # fmt: skip
    axis.axvline(length, color="0.6", linewidth=0.8, linestyle=":")
    axis.set_xscale("log", base=2)
    axis.set_xticks([length * times for times in LENGTHS], [str(length * times) for times in LENGTHS])
    axis.set_xlabel(f"tokens of a row; trained on {length}")
    axis.set_ylabel("loss per character")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(title="positions", frameon=False)
    figure.savefig(file)


def measure(kind: str, seed: int, text: tuple[Tensor, Tensor, int], o: Any) -> dict[str, float]:
    """Train one model; its losses."""
    longest = o.length * max(LENGTHS)
    model = Decoder(kind, text[2], longest, o.width, o.depth, o.heads)
    initialize(model, seed)
    model.to(o.device).train()
    steps = train(model, model, text[0], o, o.length, o.minutes, seed)
    model.eval()
    found = {"steps": float(steps)}
    for times in LENGTHS:
        each = losses(model, text[1], o.length * times, o)
        found[f"{o.length * times} tokens"] = float(each.mean())
    return found | {f"last quarter of {longest}": float(each[-len(each) // 4 :].mean())}


def main() -> None:
    smoke = dict(steps=2, seeds=1, length=16, width=16, depth=1, heads=2, batch_size=4, rows=4, out="")
    o = options(smoke, minutes=4.0, steps=0, seeds=3, kinds=",".join(KINDS), length=128, width=128, depth=4, heads=4,
                batch_size=16, lr=1e-3, rows=0, device="cpu", out="benchmarks/results")  # fmt: skip
    text, kinds = characters(), o.kinds.split(",")
    found: dict[str, dict[str, list[float]]] = {kind: {} for kind in kinds}
    for seed in range(o.seeds):
        for kind in kinds:
            for name, value in measure(kind, seed, text, o).items():
                found[kind].setdefault(name, []).append(value)
    names = list(found[kinds[0]])
    print(f"Trained on {o.length} tokens: loss per character of the held-out text; {machine()}")
    print("| positions | " + " | ".join(names) + " |\n" + "|---" * (len(names) + 1) + "|")
    for kind, values in found.items():
        cells = ["{:.4g} ± {:.2g}".format(*mean_and_error(values[name])) for name in names]
        print(f"| {kind} | " + " | ".join(cells) + " |", flush=True)
        record(f"extrapolation, {kind}", {name: values[name] for name in names})
    if o.out:
        Path(o.out).mkdir(parents=True, exist_ok=True)
        values = {"machine": machine(), "options": vars(o), "losses": found}
        (Path(o.out) / "extrapolation.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
        plot(found, o.length, Path(o.out) / "extrapolation.png")


if __name__ == "__main__":
    main()
