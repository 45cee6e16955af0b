"""`recipes/ast_audio.py` and `recipes/ctc_speech.py` with folders of transformers that lack the head of the task."""

from pathlib import Path

import pytest
import torch
import transformers
from audio_peers import STABLE, transformers_audio
from recipe_calls import caller

import zoo
from zoo.training.recipes.config import AudioSettings, CTCSettings

call = caller({"ast_audio": AudioSettings, "ctc_speech": CTCSettings})
QUIET = ("accelerator=cpu", "precision=fp32", "progress=false", "plots=false", "batch_size=4", "steps=1", "lr=1e-9",
         "resample=true", "max_train_samples=12", "max_test_samples=4")  # fmt: skip


@pytest.fixture(autouse=True)
def few_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, count in (("TRAIN", 40), ("TEST", 10), ("SPELLED_TRAIN", 40), ("SPELLED_TEST", 10)):
        monkeypatch.setattr(f"zoo.data.synthetic.audio.{name}", count)


@pytest.mark.parametrize("name", ["ASTModel", "ASTForAudioClassification"])
def test_any_ast_becomes_a_classifier(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    transformers_audio(tmp_path / "source", name)
    transformers.ASTFeatureExtractor(num_mel_bins=16, max_length=24).save_pretrained(tmp_path / "source")
    assert call("ast_audio", tmp_path / "run", *QUIET, f"model.source={tmp_path / 'source'}") == 0
    model = zoo.load(tmp_path / "run")
    assert f"new, for {len(model.labels or [])} classes: tone" in capsys.readouterr().out
    before = zoo.load(tmp_path / "source").state_dict()
    after = model.state_dict()
    assert all(torch.allclose(before[key], after[key], atol=1e-5) for key in before if not key.startswith("head."))


def test_a_multi_label_ast_becomes_a_single_label_classifier(tmp_path: Path) -> None:
    """The clips of the recipe have one class each; the classes of the weights are the same."""
    shape = ("depth=1", "width=16", "heads=2")
    assert call("ast_audio", tmp_path / "first", *QUIET, *shape) == 0
    model = zoo.load(tmp_path / "first")
    model.config = model.config.replace(problem_type="multi_label_classification")
    zoo.save(model, tmp_path / "source")
    assert call("ast_audio", tmp_path / "run", *QUIET, f"model.source={tmp_path / 'source'}") == 0
    assert zoo.load(tmp_path / "run").config.resolved_problem_type == "single_label_classification"


@pytest.mark.parametrize(
    "name", ["Wav2Vec2Model", pytest.param("Wav2Vec2ForPreTraining", marks=pytest.mark.full), "HubertModel"]
)
def test_any_wav2vec2_becomes_a_recognizer(name: str, tmp_path: Path) -> None:
    transformers_audio(tmp_path / "source", name, **STABLE)
    transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(tmp_path / "source")
    assert call("ctc_speech", tmp_path / "run", *QUIET, f"model.source={tmp_path / 'source'}") == 0
    model = zoo.load(tmp_path / "run")
    assert model.config.head == "ctc" and model.preprocess.vocabulary is not None
    before, after = zoo.load(tmp_path / "source").state_dict(), model.state_dict()
    assert all(torch.allclose(before[key], after[key], atol=1e-5) for key in before if not key.startswith("head."))
