"""A run is tested on texts of at most `data.max_length` tokens; the saved model cuts longer ones in the same place."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from recipe_calls import caller

import zoo
from zoo.training.recipes.config import FinetuneSettings

call = caller({"finetune_text": FinetuneSettings})
OPTIONS = ("accelerator=cpu", "precision=fp32", "progress=false", "plots=false", "batch_size=4", "depth=1", "width=16",
           "heads=2", "lr=0.01", "epochs=4", "data.max_length=4")  # fmt: skip


def write(folder: Path) -> list[tuple[str, str]]:
    """Write train.csv and test.csv, whose texts of 9 words differ after the fourth token; returns the test rows."""
    for name, count in (("train", 40), ("test", 12)):
        rows = [(f"{['good', 'bad'][i % 2]} film " + " ".join(["fine", "poor"][(i + k) % 2] for k in range(7)),
                 "ab"[i % 2]) for i in range(count)]  # fmt: skip
        (folder / f"{name}.csv").write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    return rows


@pytest.mark.parametrize("truncate", ["warn", "cut"])
def test_texts_longer_than_max_length(truncate: str, tmp_path: Path) -> None:
    rows = write(tmp_path)
    options = (*OPTIONS, f"data={tmp_path / 'train.csv'}", f"test={tmp_path / 'test.csv'}", f"truncate={truncate}")
    assert call("finetune_text", tmp_path / "run", *options) == 0
    measured = json.loads((tmp_path / "run" / "metrics.json").read_text())["result"]
    model = zoo.load(tmp_path / "run")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        logits = torch.cat([model(**model.preprocess([text])) for text, _ in rows])
    labels = torch.tensor(["ab".index(label) for _, label in rows])
    assert torch.nn.functional.cross_entropy(logits, labels).item() == pytest.approx(measured["test_loss"], abs=1e-5)
    assert bool([w for w in caught if "texts are truncated" in str(w.message)]) == (truncate == "warn")
