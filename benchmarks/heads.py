"""More heads are not always better: loss against the number of heads, trained with so many or with some removed.

    python benchmarks/heads.py [heads=1,2,4,8,16] [pruned=8] [steps=700] [seeds=3] [width=96] [depth=4] [length=96]
        [orders=3] [tune=70] [speed=bert_base] [turn=0] [out=benchmarks/results]

Trains a small GPT of characters on tinyshakespeare with 1 to 16 heads of the same total width, so that all have the
same number of parameters, for the same number of steps. From the model with `pruned` heads in each layer heads are then
removed by `zoo.prune`, the least important first: by gradient, by ablation (`zoo.head_importance` on text of the
training set), and in random order (mean of `orders`); and, by gradient, tuned for `tune` further steps. Prints the
held-out loss of each, mean and standard error over the seeds. Last, the parameters, FLOPs and time of `speed` with all,
3/4, 1/2 and 1/4 of its heads.

Writes `heads.yaml` and `.png` into `out`; a run continues with the seeds that the file lacks. turn: seeds to train in
this run, 0 for all. Source: Michel et al. 2019, https://arxiv.org/abs/1905.10650.
"""

import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from _measure import machine, options, paired, record
from _text_lm import characters, losses, train
from extrapolation import mean_and_error
from torch import Tensor

import zoo

ORDERS = ("gradient", "ablation", "random")
FRACTIONS = (1.0, 0.75, 0.5, 0.25)
Losses = dict[str, dict[str, float]]


def importance_data(ids: Tensor, o: Any) -> dict[str, Tensor]:
    """Rows of the training text, on which heads are measured."""
    starts = torch.randint(len(ids) - o.length, (o.importance_rows, 1), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids[starts + torch.arange(o.length)]}


def prune_and_test(model: Any, seed: int, text: tuple[Tensor, Tensor, int], o: Any) -> Losses:
    """{order: {heads that stay: held-out loss}} of a trained model whose heads are removed step by step."""
    data, total = importance_data(text[0], o), o.depth * o.pruned
    scores: dict[str, Any] = {f"by {m}": zoo.head_importance(model, data, method=m) for m in ORDERS[:2]}
    generator = torch.Generator().manual_seed(seed)
    for number in range(o.orders):
        scores[f"random {number}"] = torch.rand(o.depth, o.pruned, generator=generator)
    counts = sorted({max(o.depth, round(total * part / 8)) for part in range(1, 9)})
    found: Losses = {}

    def test(order: str, count: int, small: Any) -> None:
        found.setdefault(order, {})[str(count)] = float(losses(small.eval(), text[1], o.length, o).mean())

    for (order, own), count in itertools.product(scores.items(), counts):
        small = zoo.prune(model, keep=count, importance=own)
        test(order, count, small)
        if order == "by gradient" and count < total and o.tune:
            train(small.train(), small, text[0], tuning(o), o.length, 0, seed + 1000)
            test("by gradient, tuned", count, small)
    for count in map(str, counts):
        several = [found[f"random {number}"][count] for number in range(o.orders)]
        found.setdefault("random", {})[count] = sum(several) / len(several)
    return {order: own for order, own in found.items() if not order.startswith("random ")}


def tuning(o: Any) -> Any:
    return type(o)(**vars(o) | {"steps": o.tune, "lr": o.lr / 4})


def measure(seed: int, text: tuple[Tensor, Tensor, int], o: Any) -> Losses:
    """All losses of one seed: {"trained": {heads: loss}, "by gradient": {heads in all layers: loss}, ...}."""
    found: Losses = {"trained": {}}
    for heads in map(int, o.heads.split(",")):
        model = zoo.create_model("gpt_nano", seed=seed, vocab_size=text[2], max_length=o.length, width=o.width,
                                 depth=o.depth, heads=heads).to(o.device)  # fmt: skip
        train(model.train(), model, text[0], o, o.length, 0, seed)
        found["trained"][str(heads)] = float(losses(model.eval(), text[1], o.length, o).mean())
        print(f"seed {seed}, {heads} heads: {found['trained'][str(heads)]:.4f}", flush=True)
        if heads == o.pruned:
            found |= prune_and_test(model, seed, text, o)
    return found


def cost_of_sizes(o: Any) -> list[dict[str, Any]]:
    """Parameters, FLOPs and time of a model with parts of its heads, 8 rows of 128 tokens."""
    from zoo.inference.cost import measure as cost

    own: dict[str, Any] = {"depth": 1} if o.steps < 10 else {}
    model = zoo.create_model(o.speed, seed=0, head="pool", **own).eval()
    scores = torch.rand(model.config.depth, model.config.heads, generator=torch.Generator().manual_seed(0))
    models = {f"{part:g}": zoo.prune(model, keep=part, importance=scores, per_layer=True) for part in FRACTIONS}
    ids = torch.randint(5, 1000, (8, 128), generator=torch.Generator().manual_seed(0))

    def run(small: Any) -> None:
        with torch.inference_mode():
            small(input_ids=ids)

    calls: dict[str, Callable[[], object]] = {name: partial(run, small) for name, small in models.items()}
    table = paired(calls, title=f"{o.speed}, 8 x 128 tokens", rounds=o.rounds)
    rows = []
    for name, small in models.items():
        size = cost(small, 8, length=128)
        rows.append({"heads": float(name), "parameters": size.parameters, "GFLOP": size.flops / 1e9,
                     "seconds": table.median(name), "speed": table.ratio(name)})  # fmt: skip
    return rows


def plot(results: dict[str, Losses], o: Any, file: Path) -> None:
    """Loss over the heads of trained models, and over the heads that stay."""
    from zoo.utils.plotting import PALETTE, make_figure

    figure = make_figure(9, 3.8)
    left, right = figure.subplots(1, 2)
    for number, order in enumerate(["trained", *orders_of(results)]):
        points = {int(count): mean_and_error([own[order][count] for own in results.values()])
                  for count in next(iter(results.values()))[order]}  # fmt: skip
        x = sorted(points)
        y, errors = ([points[count][i] for count in x] for i in (0, 1))
        axis = left if order == "trained" else right
        axis.errorbar(x, y, errors, color=PALETTE[number], marker="osd^v"[number], capsize=2, label=order)
    left.set_xscale("log", base=2)
    left.set_xticks(numbers := [int(count) for count in o.heads.split(",")], list(map(str, numbers)))
    left.set_xlabel("heads in each layer, equal width")
    right.set_xlabel(f"heads that stay, of {o.depth} x {o.pruned}")
    right.legend(frameon=False, fontsize=8)
    for axis in (left, right):
        axis.set_ylabel("held-out loss per character")
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(file)


def orders_of(results: dict[str, Losses]) -> list[str]:
    return [order for order in next(iter(results.values())) if order != "trained"]


def main() -> None:
    smoke = dict(steps=2, seeds=1, length=16, width=16, depth=2, heads="1,2", pruned=2, orders=1, tune=1, batch_size=4,
                 rows=4, importance_rows=4, speed="bert_mini", rounds=1, out="")  # fmt: skip
    o = options(smoke, heads="1,2,4,8,16", pruned=8, steps=700, seeds=3, width=96, depth=4, length=96, orders=3,
                tune=70, batch_size=16, lr=2e-3, rows=256, importance_rows=64, speed="bert_base", rounds=3, turn=0,
                device="cpu", out="benchmarks/results")  # fmt: skip
    file = Path(o.out) / "heads.yaml"
    stored = yaml.safe_load(file.read_text()) if o.out and file.exists() else {}
    ours = {name: value for name, value in vars(o).items() if name not in ("seeds", "turn", "speed", "rounds", "out")}
    same = ours.items() <= stored.get("options", {}).items()
    results: dict[str, Losses] = stored["results"] if same else {}
    missing = [seed for seed in range(o.seeds) if str(seed) not in results]
    text = characters()
    for seed in missing[: o.turn or None]:
        results[str(seed)] = measure(seed, text, o)
        if o.out:
            file.parent.mkdir(parents=True, exist_ok=True)
            kept = {"machine": machine(), "options": {**vars(o), "turn": 0}, "results": results}
            file.write_text(yaml.safe_dump(kept, sort_keys=False))
    print(f"Held-out loss per character, {len(results)} seeds; {machine()}")
    show("heads in each layer", ["trained"], results)
    show(f"heads that stay, of {o.depth} x {o.pruned}", orders_of(results), results)
    if o.out:
        plot(results, o, Path(o.out) / "heads.png")
    if len(results) < o.seeds:
        return
    rows = cost_of_sizes(o)
    print("| heads that stay | parameters | GFLOP | ms | times as fast |\n|---|---|---|---|---|")
    for row in rows:
        print(f"| {row['heads']:.0%} | {row['parameters']:,} | {row['GFLOP']:.1f} | {1000 * row['seconds']:.0f} | "
              f"{row['speed']:.2f} |", flush=True)  # fmt: skip
        record(f"heads, {o.speed}, {row['heads']:g}", row)


def show(what: str, orders: list[str], results: dict[str, Losses]) -> None:
    """Print a table of losses, mean and standard error over the seeds."""
    print(f"| {what} | " + " | ".join(orders) + " |\n|---" + "|---" * len(orders) + "|")
    first = next(iter(results.values()))
    for count in first[orders[0]]:
        cells = []
        for order in orders:
            values = [own[order][count] for own in results.values() if count in own[order]]
            cells.append("{:.3f} ± {:.3f}".format(*mean_and_error(values)) if values else "")
            if values:
                record(f"heads, {order}, {count}", {"loss": values})
        print(f"| {count} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
