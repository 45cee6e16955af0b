"""The recipe of contact maps from its command line."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from recipe_calls import RESUMED, caller, check_resumed_run, result

import zoo
from zoo.data.synthetic.alignments import make_families
from zoo.preprocessing.alignment import Alignment, letters_of, write_a3m
from zoo.preprocessing.alignment_processor import AlignmentProcessor
from zoo.training.config import ModelSettings
from zoo.training.parse import SettingsError
from zoo.training.recipes.contacts import alignment_model
from zoo.training.recipes.contacts_config import ContactSettings, ContactTaskSettings

call = caller({"contacts": ContactSettings})
TINY = ("width=8", "heads=2", "model.pair_width=8", "model.pair_heads=2", "model.outer_width=4", "depth=1",
        "batch_size=4", "max_sequences=8", "max_train_samples=8", "max_test_samples=2", "accelerator=cpu",
        "precision=fp32", "progress=false", "log_every=1")  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """Ten families, nine of them to train and to validate on."""
    (tmp_path / "families").mkdir()
    for i, family in enumerate(make_families(10, seed=3, depth=8, lengths=(24, 26))):
        write_a3m(tmp_path / "families" / f"{i}.a3m", Alignment.of_rows(letters_of(family.msa)))
        np.save(tmp_path / "families" / f"{i}.npy", family.contacts.numpy())
    return f"data={tmp_path / 'families'}"


def test_the_whole_way(tmp_path, capsys):
    assert call("contacts", tmp_path / "run", *TINY, "steps=2", "validate_every=2") == 0
    metrics = result(tmp_path / "run")["result"]
    names = {f"{method}precision_{at}" for method in ("", "mutual_information_", "mean_field_dca_")
             for at in ("l5", "l2", "l")}  # fmt: skip
    assert {f"test_{name}" for name in names | {"loss"}} == metrics.keys()
    output = capsys.readouterr().out
    assert "Synthetic data" in output and "zoo predict" in output and "sample.a3m" in output
    assert (tmp_path / "run" / "contacts.png").read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader((tmp_path / "run" / "families.csv").open()))
    assert [row["family"] for row in rows] == ["synthetic_test_0", "synthetic_test_1"]
    mean = np.mean([float(row["mean_field_dca_precision_l"]) for row in rows])
    assert abs(mean - metrics["test_mean_field_dca_precision_l"]) < 1e-3
    model = zoo.load(tmp_path / "run")
    assert model.preprocess.max_sequences == 8
    found = zoo.predict(model, tmp_path / "run" / "sample.a3m", top_k=2)
    assert len(found) == 2 and found[0].second - found[0].first >= 6


def test_resume(tmp_path, monkeypatch, folder):
    """With masked residues; the model keeps its head for them, which another run needs."""
    words = (*TINY, folder, *RESUMED, "task.baselines=false", "masked_msa_weight=2")
    check_resumed_run(lambda run: call("contacts", run, *words), tmp_path, monkeypatch)
    metrics = result(tmp_path / "whole")["result"]
    assert {"test_masked_msa_loss", "test_column_frequencies_loss", "test_precision_l5"} <= metrics.keys()
    assert zoo.load(tmp_path / "whole").masked_msa is not None


def test_a_pretrained_model_keeps_its_processor():
    """All but the number of sequences, which is an option of the recipe."""
    model = SimpleNamespace(inputs=("msa",), preprocess=AlignmentProcessor(sampling="first", unknown="X"))
    run = SimpleNamespace(build_model=lambda head: model, config=ContactSettings(), model_name="a")
    expected = AlignmentProcessor(max_sequences=64, sampling="first", unknown="X")
    assert alignment_model(run).preprocess == expected
    model.preprocess = None
    assert alignment_model(run).preprocess == AlignmentProcessor(max_sequences=64)
    run.config = ContactSettings(task=ContactTaskSettings(masked_msa_weight=2), model=ModelSettings(source="a"))
    with pytest.raises(SettingsError, match="a has no head for masked residues"):
        alignment_model(run)


def test_options_that_do_not_fit(tmp_path, capsys):
    for words, message in (
        (("model=bert_tiny",), "head"),
        (("data=nowhere",), "expected synthetic, or a folder of alignments"),
        (("data.min_separation=20",), "long_range=12: expected at least min_separation=20"),
    ):
        assert call("contacts", tmp_path / "run", *(words if "model=bert_tiny" in words else (*TINY, *words))) == 2
        assert message in capsys.readouterr().err, words


def test_loss_falls(tmp_path, folder):
    """Twelve steps on four families, which a model can learn by heart."""
    words = [word for word in TINY if not word.startswith(("depth", "max_train", "log_every"))]
    assert call("contacts", tmp_path / "run", *words, folder, "depth=1", "max_train_samples=4", "steps=12", "lr=0.02",
                "task.baselines=false", "plots=false", "validate_every=12", "log_every=1") == 0  # fmt: skip
    lines = list(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))
    losses = [float(row["train_loss"]) for row in lines if row.get("train_loss")]
    assert losses[-1] < 0.7 * losses[0] and torch.isfinite(torch.tensor(losses)).all()
