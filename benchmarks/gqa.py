"""Fewer key and value heads: quality against the memory of the cache, from scratch and by `zoo.to_gqa`.

    python benchmarks/gqa.py [minutes=4] [tune=0.4] [seeds=3] [heads=8] [out=DIR]

Trains a small LLaMA of characters on tinyshakespeare with 8, 4, 2 and 1 key and value heads, each for the same time.
What a model with fewer of them saves in its projections, its MLP is wider by, so that all have nearly the same number
of parameters. Then the model with 8 is converted by `zoo.to_gqa` (the mean of the heads of each group), tested, and
tuned for `tune` minutes (a tenth of its training; the paper: a twentieth). Prints the held-out loss of each, mean and
standard error over the seeds, beside the bytes of the cache for a token, measured on a cache; writes `gqa.yaml` and
`.png` into `out`. Source: Ainslie et al. 2023, https://arxiv.org/abs/2305.13245.
"""

from pathlib import Path
from typing import Any

import yaml
from _measure import machine, options, record
from _text_lm import characters, losses, train
from extrapolation import mean_and_error
from torch import Tensor

import zoo

STAGES = ("trained from scratch", "converted", "converted and tuned")


def fields(kv_heads: int, o: Any) -> dict[str, Any]:
    """Overrides of a model with `kv_heads` and the parameters of one with `heads` of them."""
    saved = 2 * o.width * (o.width // o.heads) * (o.heads - kv_heads)  # of k and v in each layer
    wider = round(saved / (3 * o.width))  # the gated MLP has three matrices
    return dict(width=o.width, depth=o.depth, heads=o.heads, kv_heads=kv_heads, mlp_dim=2 * o.width + wider)


def cache_bytes(model: Any) -> int:
    """Bytes that a token takes in the cache of all layers."""
    state = model.new_state(1, capacity=64)
    return sum((layer.mixer.k.nbytes + layer.mixer.v.nbytes) // layer.mixer.k.shape[2] for layer in state)


def measure(seed: int, text: tuple[Tensor, Tensor, int], o: Any) -> dict[tuple[str, int], dict[str, float]]:
    """All models of one seed: {(stage, key and value heads): loss, parameters, bytes of the cache}."""
    found: dict[tuple[str, int], dict[str, float]] = {}

    def test(stage: str, kv_heads: int, model: Any) -> None:
        found[stage, kv_heads] = {
            "loss": float(losses(model.eval(), text[1], o.length, o).mean()),
            "parameters": sum(p.numel() for p in model.parameters()),
            "bytes of the cache for a token": cache_bytes(model),
        }

    numbers = [o.heads >> i for i in range(o.heads.bit_length())]
    models = {}
    for kv_heads in numbers:
        own = fields(kv_heads, o)
        model = zoo.create_model("llama_nano", seed=seed, vocab_size=text[2], max_length=o.length, **own).to(o.device)
        train(model.train(), model, text[0], o, o.length, o.minutes, seed)
        test(STAGES[0], kv_heads, model)
        models[kv_heads] = model
    for kv_heads in numbers[1:]:
        model = zoo.to_gqa(models[o.heads], kv_heads=kv_heads)
        test(STAGES[1], kv_heads, model)
        train(model.train(), model, text[0], o, o.length, o.tune, seed + 1000)
        test(STAGES[2], kv_heads, model)
    return found


def plot(rows: dict[tuple[str, int], dict[str, list[float]]], file: Path) -> None:
    """Loss over the bytes of the cache."""
    from zoo.utils.plotting import PALETTE, make_figure

    figure = make_figure(7, 4.2)
    axis = figure.subplots()
    for number, stage in enumerate(STAGES):
        own = [values for (which, _), values in rows.items() if which == stage]
        x = [values["bytes of the cache for a token"][0] for values in own]
        points = [mean_and_error(values["loss"]) for values in own]
        axis.errorbar(x, [p[0] for p in points], [p[1] for p in points], color=PALETTE[number], marker="os^"[number],
                      capsize=2, label=stage)  # fmt: skip
    axis.set_xscale("log", base=2)
    sizes = sorted({int(values["bytes of the cache for a token"][0]) for values in rows.values()})
    axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axis.set_xlabel("bytes of the cache for a token")
    axis.set_ylabel("loss per character")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    figure.savefig(file)


def main() -> None:
    smoke = dict(steps=2, seeds=1, length=16, width=16, depth=1, heads=2, batch_size=4, rows=4, out="")
    o = options(smoke, minutes=4.0, tune=0.4, steps=0, seeds=3, heads=8, length=128, width=128, depth=4, batch_size=16,
                lr=1e-3, rows=0, device="cpu", out="benchmarks/results")  # fmt: skip
    if o.heads & (o.heads - 1) or o.width % o.heads:
        raise SystemExit(f"heads={o.heads}: expected a power of two that divides width={o.width}")
    text = characters()
    rows: dict[tuple[str, int], dict[str, list[float]]] = {}
    for seed in range(o.seeds):
        for key, values in measure(seed, text, o).items():
            for name, value in values.items():
                rows.setdefault(key, {}).setdefault(name, []).append(value)
    print(f"Loss per character of the held-out text; {machine()}")
    print("| key and value heads | model | loss | parameters | bytes of the cache for a token |\n|---|---|---|---|---|")
    for (stage, kv_heads), values in rows.items():
        loss = "{:.4g} ± {:.2g}".format(*mean_and_error(values["loss"]))
        sizes = " | ".join(f"{values[name][0]:,.0f}" for name in list(values)[1:])
        print(f"| {kv_heads} | {stage} | {loss} | {sizes} |", flush=True)
        record(f"gqa, {stage}, {kv_heads} of {o.heads}", values)
    if o.out:
        Path(o.out).mkdir(parents=True, exist_ok=True)
        found = {f"{stage}, {kv_heads}": values for (stage, kv_heads), values in rows.items()}
        values = {"machine": machine(), "options": vars(o), "results": found}
        (Path(o.out) / "gqa.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
        plot(rows, Path(o.out) / "gqa.png")


if __name__ == "__main__":
    main()
