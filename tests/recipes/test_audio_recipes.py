"""The recipes of audio from their command lines: what they leave behind, what they refuse, what they hand on."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from recipe_calls import RECIPES, RESUMED, caller, check_resumed_run, result

import zoo
from zoo.training.recipes.config import AudioSettings, CTCSettings

SETTINGS = {"ast_audio": AudioSettings, "ctc_speech": CTCSettings}
call = caller(SETTINGS)
QUIET = ("accelerator=cpu", "precision=fp32", "progress=false", "log_every=1")
TINY = {
    "ast_audio": ("width=16", "depth=2", "heads=2", "batch_size=8", "max_train_samples=48", "max_test_samples=16",
                  *QUIET),
    "ctc_speech": ("model.conv_channels=[8,8,16,16]", "width=16", "depth=1", "heads=2", "model.position_groups=2",
                   "model.position_kernel=8", "batch_size=8", "max_train_samples=40", "max_test_samples=12", *QUIET),
}  # fmt: skip


@pytest.fixture(autouse=True)
def few_sounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.data.synthetic.audio.TRAIN", 64)
    monkeypatch.setattr("zoo.data.synthetic.audio.TEST", 16)
    monkeypatch.setattr("zoo.data.synthetic.audio.SPELLED_TRAIN", 50)
    monkeypatch.setattr("zoo.data.synthetic.audio.SPELLED_TEST", 14)


def test_sounds_the_whole_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("ast_audio", tmp_path / "run", *TINY["ast_audio"], "steps=3", "ema=0.9", "export=transformers") == 0
    said = capsys.readouterr()
    for text in ("Synthetic data", "synthesized audio clips", "48 training and 16 test items", "test accuracy",
                 "sample.wav", "exported"):  # fmt: skip
        assert text in said.out, text
    folder = tmp_path / "run"
    there = {path.name for path in folder.iterdir()}
    assert {"confusion.png", "curves.png", "attention.png", "sample.wav", "model", "metrics.csv"} <= there
    names = {"test_loss", "test_accuracy", "test_f1", "test_calibration_error"}
    assert result(folder)["result"].keys() == names and not result(folder)["real"]
    model = zoo.load(folder)
    assert model.labels is not None and model.labels[0] == "tone" and model.preprocess.frames == 104
    ours = dict(zoo.predict(model, folder / "sample.wav", top_k=8))
    from zoo.cli.main import main as command

    assert command(["predict", str(folder), str(folder / "sample.wav")]) == 0
    assert f"{max(ours.values()):.1%}" in capsys.readouterr().out
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForAudioClassification.from_pretrained(folder / "transformers").eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder / "transformers")
    wave, sampling_rate = soundfile.read(folder / "sample.wav", dtype="float32")
    batch = extractor(wave, sampling_rate=sampling_rate, return_tensors="pt")
    shares = theirs(**batch).logits[0].softmax(-1).tolist()
    assert {theirs.config.id2label[i]: p for i, p in enumerate(shares)} == pytest.approx(ours, abs=1e-4)


def test_speech_the_whole_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("ctc_speech", tmp_path / "run", *TINY["ctc_speech"], "steps=3", "export=transformers") == 0
    said = capsys.readouterr().out
    for text in ("Synthetic data", "40 training and 12 test items", "test wer", "cer", "exported"):
        assert text in said, text
    folder = tmp_path / "run"
    assert result(folder)["result"].keys() == {"test_loss", "test_wer", "test_cer"}
    model = zoo.load(folder)
    assert model.config.head == "ctc" and len(model.preprocess.vocabulary) == model.config.vocab_size
    texts = zoo.predict(model, folder / "sample.wav")
    assert all(isinstance(text, str) and 0 <= p <= 1 for text, p in texts) and len(dict(texts)) == len(texts)
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCTC.from_pretrained(folder / "transformers").eval()
    wave, _ = soundfile.read(folder / "sample.wav", dtype="float32")
    batch = model.preprocess([(torch.from_numpy(wave), 8000)])
    model.eval()
    with torch.no_grad():
        assert torch.allclose(theirs(batch["input_values"]).logits, model(**batch), atol=1e-4)


def sounds(folder: Path, count: int = 10) -> Path:
    """Two classes of tones that are longer than the window, and a table of what is said in them."""
    draw, lines = np.random.default_rng(0), ["file_name,text"]
    for name, hertz in (("low", 200), ("high", 900)):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            t = np.arange(5000 + 300 * i) / 8000
            wave = 0.3 * np.sin(2 * np.pi * hertz * t) + 0.01 * draw.standard_normal(len(t))
            soundfile.write(folder / name / f"{i}.wav", wave, 8000)
            lines.append(f"{name}/{i}.wav,{name} {i % 3}")
    (folder / "speech.csv").write_text("\n".join(lines))
    return folder


def test_a_folder_of_sounds_longer_than_the_window(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = sounds(tmp_path / "sounds")
    words = (f"data={folder}", "max_duration=0.5", "steps=2", "class_weights=balanced", *TINY["ast_audio"][:4], *QUIET)
    assert call("ast_audio", tmp_path / "run", *words) == 0
    assert "longer than the 0.5" in " ".join(capsys.readouterr().err.split())
    model = zoo.load(tmp_path / "run")
    assert model.labels == ["high", "low"] and model.config.max_length == 48 and result(tmp_path / "run")["real"]
    # a fine-tuned one goes on with the same features, other classes, and speaks of its rate
    again = (
        f"data={folder}",
        f"model.source={tmp_path / 'run'}",
        "steps=2",
        "batch_size=8",
        "freeze=[patches]",
        *QUIET,
    )
    assert call("ast_audio", tmp_path / "again", *again) == 0
    assert zoo.load(tmp_path / "again").preprocess == model.preprocess
    assert call("ast_audio", tmp_path / "other", *again, "sampling_rate=16000") == 2
    assert "takes audio at 8000 Hz" in capsys.readouterr().err


def test_speech_from_a_table_and_from_a_model(tmp_path: Path) -> None:
    folder = sounds(tmp_path / "sounds")
    table = f"data={folder / 'speech.csv'}"
    tiny = [word for word in TINY["ctc_speech"] if "size=" not in word or "batch" in word]
    assert (
        call("ctc_speech", tmp_path / "run", table, *tiny, "steps=2", "early_stopping_patience=3", "beam_width=1") == 0
    )
    first = zoo.load(tmp_path / "run")
    assert set("lowhig012") < set(first.preprocess.vocabulary.tokens)
    words = (table, f"model.source={tmp_path / 'run'}", "steps=2", "batch_size=8", *QUIET)
    assert call("ctc_speech", tmp_path / "again", *words) == 0
    assert zoo.load(tmp_path / "again").preprocess == first.preprocess


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_interrupted_and_started_again(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = (*TINY[name], "dropout=0.1", *RESUMED)
    check_resumed_run(lambda folder: call(name, folder, *words), tmp_path, monkeypatch)


@pytest.mark.parametrize(("name", "words", "says"), [
    ("ast_audio", ["model=ast_tyni"], "did you mean 'ast_tiny'"),
    ("ast_audio", ["model=wav2vec2_tiny"], "expected an AST"),
    ("ast_audio", ["model=vit_cifar_tiny"], "expected an AST"),
    ("ast_audio", ["data=fsd"], "did you mean 'fsdd'"),
    ("ast_audio", ["time_stretch=1"], "time_stretch=1"),
    ("ast_audio", ["sampling_rate=16000"], "resample=true"),
    ("ast_audio", ["held_out_speaker=theo", "data=sounds.parquet"], "does not exist"),
    ("ctc_speech", ["model=ast_tiny"], "ast_tiny does not take waveforms"),
    ("ctc_speech", ["model=bert_tiny"], "bert_tiny does not take waveforms"),
    ("ctc_speech", ["model.conv_strides=[8,8,8,8]"], "smaller model.conv_strides"),
    ("ctc_speech", ["beam_width=0"], "beam_width=0"),
    ("ctc_speech", ["tempo=-1"], "tempo=-1"),
])  # fmt: skip
def test_what_they_refuse(name: str, words: list[str], says: str, tmp_path: Path,
                          capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    assert call(name, tmp_path / "run", *words, *QUIET) == 2
    error = capsys.readouterr().err
    assert says in error and "Traceback" not in error, error


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_they_are_short(name: str) -> None:
    assert len((RECIPES / f"{name}.py").read_text().splitlines()) <= 120
