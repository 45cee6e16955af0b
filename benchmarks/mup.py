"""Whether the best learning rate of a narrow model is that of wider ones, with muP and without.

    python benchmarks/mup.py [widths=16,32,64,128] [first=-10] [last=-4] [steps=600] [seeds=1] [tied=1] [out=DIR]

Trains GPTs of a few blocks on the characters of tinyshakespeare, each for the same number of steps, at each width and
at the rates 2 ** first, ..., 2 ** last, a factor of 2 apart. With muP the narrowest width is the base: `lr` is that of
the narrowest model, and its own runs are the same with and without. Heads have the same size at all widths. tied=1: the
output layer shares the word embeddings. Prints a table of the losses of the held-out text, the best rate of each width,
and how many steps of the grid it is away from that of the narrowest, also for rates between those of the grid
(`vertex`); writes `mup.yaml` and `mup.png` into `out`. Losses that are in `mup.yaml` already are not computed again, so
that a run can be stopped and continued, or be given more seeds.
"""

import math
import statistics
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from _measure import machine, options, record
from _text_lm import characters, losses
from torch import Tensor
from torch.nn import functional as F

import zoo
from zoo.tasks import adamw, initialize_mup, mup_rates, param_groups, warmup_cosine

HEAD_DIM = 16
FIXED = ("steps", "depth", "length", "batch_size", "weight_decay", "rows", "tied", "base")  # those of kept losses
Found = dict[tuple[bool, int, int], float]  # {(mup, width, exponent of the rate): loss}


def train(width: int, lr: float, mup: bool, seed: int, text: tuple[Tensor, Tensor, int], o: Any) -> float:
    """Loss of the held-out text after training one model; infinite if it is not finite."""
    sizes = dict(width=width, depth=o.depth, heads=width // HEAD_DIM, vocab_size=text[2], max_length=o.length)
    model = zoo.create_model("gpt_nano", seed=seed, tie_word_embeddings=bool(o.tied), **sizes).train()
    rates = None
    if mup:
        initialize_mup(model, o.base)
        rates = mup_rates(model, o.base)
    optimizer = adamw(param_groups(model, lr, o.weight_decay, scales=rates), betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: warmup_cosine(step, steps=o.steps, warmup=o.steps // 10)
    )
    generator = torch.Generator().manual_seed(seed)
    for _ in range(o.steps):
        starts = torch.randint(len(text[0]) - o.length - 1, (o.batch_size, 1), generator=generator)
        rows = text[0][starts + torch.arange(o.length + 1)]
        loss = F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    found = float(losses(model.eval(), text[1], o.length, o).mean())
    return found if math.isfinite(found) else math.inf


def sweep(o: Any, text: tuple[Tensor, Tensor, int], file: Path | None) -> Found:
    """The mean loss over the seeds, of each width and each rate."""
    widths, exponents = [int(width) for width in o.widths.split(",")], range(o.first, o.last + 1)
    kept: dict[str, float] = {}
    o.base = widths[0]
    if file is not None and file.exists():
        before = yaml.safe_load(file.read_text())
        if changed := [name for name in FIXED if before["options"][name] != vars(o)[name]]:
            raise SystemExit(f"{file} has losses with another {', '.join(changed)}: use another out=")
        kept = before["losses"]
    for seed, width, mup, exponent in product(range(o.seeds), widths, (False, True), exponents):
        name = run_name(mup, width, exponent, seed, o.base)
        if name not in kept:
            kept[name] = round(train(width, 2.0**exponent, mup, seed, text, o), 4)
            if file is not None:
                values = {"machine": machine(), "options": vars(o), "losses": kept}
                file.write_text(yaml.safe_dump(values, sort_keys=False))
    return {
        (mup, width, e): statistics.fmean(kept[run_name(mup, width, e, s, o.base)] for s in range(o.seeds))
        for mup, width, e in product((False, True), widths, exponents)
    }


def run_name(mup: bool, width: int, exponent: int, seed: int, base: int) -> str:
    """The name of one training; at the base width there is nothing to scale."""
    return f"mup {mup and width != base}, width {width}, lr 2 ** {exponent}, seed {seed}"


def vertex(line: dict[int, float]) -> float:
    """The exponent of the best rate between those of the grid: of a parabola fitted to the five losses around it."""
    best = min(line, key=line.__getitem__)
    near = sorted(line, key=lambda exponent: abs(exponent - best))[:5]
    near = [exponent for exponent in near if math.isfinite(line[exponent])]
    if len(near) < 3:
        return float(best)
    curve, slope, _ = np.polyfit(near, [line[exponent] for exponent in near], 2)
    return float(np.clip(-slope / (2 * curve), min(near), max(near))) if curve > 0 else float(best)


def plot(found: Found, file: Path) -> None:
    """Loss over the learning rate, one line for each width, without muP and with it."""
    from zoo.utils.plotting import PALETTE, make_figure

    figure = make_figure(9, 3.8)
    axes = figure.subplots(1, 2, sharey=True)
    finite = [loss for loss in found.values() if math.isfinite(loss)]
    for axis, mup in zip(axes, (False, True), strict=True):
        for number, width in enumerate(sorted({width for _, width, _ in found})):
            line = {exponent: loss for (m, w, exponent), loss in found.items() if (m, w) == (mup, width)}
            best = min(line, key=line.__getitem__)
            color = PALETTE[number % len(PALETTE)]
            axis.plot([2.0**e for e in line], list(line.values()), color=color, marker="o", markersize=3, label=width)
            axis.plot(2.0**best, line[best], color=color, marker="*", markersize=13)
        axis.set_xscale("log", base=2)
        axis.set_xlabel("lr, that of the narrowest model" if mup else "lr")
        axis.set_title("mup=true" if mup else "mup=false", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylim(min(finite) - 0.05, min(max(finite), min(finite) + 1.2))
    axes[0].set_ylabel("loss per character, held-out text")
    axes[0].legend(title="width", frameon=False)
    figure.savefig(file)


def main() -> None:
    smoke = dict(widths="16,32", first=-7, last=-6, steps=2, length=16, depth=1, batch_size=4, rows=4, out="")
    o = options(smoke, widths="16,32,64,128", first=-10, last=-4, steps=600, seeds=1, depth=2, length=64,
                batch_size=16, weight_decay=0.1, rows=256, tied=1, device="cpu", out="benchmarks/results")  # fmt: skip
    if o.out:
        Path(o.out).mkdir(parents=True, exist_ok=True)
    found = sweep(o, characters(), Path(o.out) / "mup.yaml" if o.out else None)
    widths, exponents = (sorted({key[i] for key in found}) for i in (1, 2))
    print(f"Loss per character of the held-out text after {o.steps} steps; {machine()}")
    print("| mup | width | " + " | ".join(f"2^{e}" for e in exponents) + " | best lr | steps away | between rates |")
    print("|---" * (len(exponents) + 5) + "|")
    for mup in (False, True):
        lines = {width: {e: found[mup, width, e] for e in exponents} for width in widths}
        best = {width: min(line, key=line.__getitem__) for width, line in lines.items()}
        for width, line in lines.items():
            away, shift = best[width] - best[widths[0]], vertex(line) - vertex(lines[widths[0]])
            cells = " | ".join(f"{loss:.3f}" for loss in line.values())
            print(f"| {str(mup).lower()} | {width} | {cells} | 2^{best[width]} | {away:+d} | {shift:+.2f} |")
            values = {"best lr": 2.0 ** best[width], "steps away": float(away), "between rates": round(shift, 2)}
            record(f"mup={str(mup).lower()}, width {width}", values)
    if o.out:
        plot(found, Path(o.out) / "mup.png")


if __name__ == "__main__":
    main()
