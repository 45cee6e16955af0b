"""Everything that a user does with a model, for the modality that test_add_one.py adds: time series."""

import math
import sys
from pathlib import Path

import torch
from lightning import Trainer
from torch.utils.data import DataLoader

import zoo
from zoo.checkpoints.model_card import model_card
from zoo.cli.main import main
from zoo.data.time_series.folder import TimeSeriesFolder
from zoo.models.example_batch import example_batch
from zoo.retrieval.embed import embed
from zoo.retrieval.search import search
from zoo.tasks import ClassificationTask

root, folder = Path(sys.argv[1]), Path(sys.argv[2])
assert Path(zoo.__file__).is_relative_to(root), zoo.__file__
series, model_folder = folder / "series", str(folder / "model")
for index in range(6):
    label = ("slow", "fast")[index % 2]
    (series / label).mkdir(parents=True, exist_ok=True)
    lines = [f"{math.sin((1 + index % 2) * step / 4) + 0.01 * index}" for step in range(70)]
    (series / label / f"{index}.csv").write_text("\n".join(["value", *lines]))
files = sorted(map(str, series.rglob("*.csv")))

model = zoo.create_model("tst_tiny", seed=0)
assert example_batch(model)["past_values"].shape == (2, 64, 1)
rows = TimeSeriesFolder(series, model.preprocess)
model.labels = rows.labels
trainer = Trainer(max_epochs=12, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu")
trainer.fit(ClassificationTask(model, lr=3e-3), DataLoader(rows, batch_size=6))
answers = zoo.predict(model.eval(), files)
assert [answer[0][0] for answer in answers] == ["fast"] * 3 + ["slow"] * 3, answers

zoo.save(model, model_folder)
loaded = zoo.load(model_folder)
assert zoo.predict(loaded, files) == answers and loaded.preprocess == model.preprocess
assert zoo.verify(model_folder).ok
card = model_card(model, model_folder)
assert 'zoo.predict(model, "series.csv")' in card and "time-series-classification" in card
assert main(["predict", model_folder, files[0]]) == 0 and main(["verify", model_folder]) == 0
assert main(["predict", model_folder, "missing.csv"]) != 0 and main(["info", "tst_tiny"]) == 0

pooled = zoo.load(model_folder, head="pool")
found = embed(pooled, series, folder / "embeddings.safetensors")
assert len(found) == 6 and {item.kind for item in found.items} == {"time_series"}
page = folder / "page.html"
hits = search(files[0], folder / "embeddings.safetensors", pooled, k=3, html=page)
assert [hit.name for hit in hits] == ["fast/1.csv", "fast/3.csv", "fast/5.csv"] and page.read_text().count("<svg") >= 4
assert zoo.preprocessing.modality.item_modality(zoo.preprocessing.time_series.TimeSeries(torch.zeros(3, 1))) == (
    "time_series"
)
