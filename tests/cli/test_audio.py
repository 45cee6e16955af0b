"""`zoo timeline`: from files to files."""

import csv
import json
from pathlib import Path

import pytest
import soundfile
import torch

import zoo
from zoo.cli.main import main
from zoo.preprocessing.spectrogram import SpectrogramFeatureExtractor

SAMPLING_RATE = 8000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier in ast/, and recordings."""
    place = tmp_path_factory.mktemp("audio")
    model = zoo.create_model("ast_tiny", seed=0, width=16, depth=1, heads=2, max_length=40, mel_bins=32, num_classes=3)
    model.preprocess = SpectrogramFeatureExtractor(sampling_rate=SAMPLING_RATE, frames=40, num_mel_bins=32)
    model.labels = ["speech", "music", "rain"]
    zoo.save(model, place / "ast")
    wave = 0.1 * torch.randn(3 * SAMPLING_RATE, generator=torch.Generator().manual_seed(0))
    soundfile.write(place / "long.wav", wave.numpy(), SAMPLING_RATE)
    soundfile.write(place / "fast.wav", wave.numpy(), 2 * SAMPLING_RATE)
    return place


@pytest.fixture(autouse=True)
def _there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def test_timeline(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["timeline", "ast", "long.wav"]) == 0
    printed = capsys.readouterr().out
    windows = len(zoo.timeline(zoo.load("ast"), "long.wav").spans)
    assert f"long.wav: {windows} windows; mean: " in printed and printed.count(".") > 2 * windows
    for out in ("a.csv", "a.json", "a.png"):
        assert main(["timeline", "ast", "long.wav", "--out", out, "--top-k", "2"]) == 0
        assert f"{out}: {windows} windows" in capsys.readouterr().out
    with open("a.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 2 * windows
    assert len(json.loads(Path("a.json").read_text())["mean"]) == 3
    assert Path("a.png").read_bytes().startswith(b"\x89PNG")
    assert main(["timeline", "ast", "fast.wav", "--resample"]) == 0


@pytest.mark.parametrize(("words", "message"), [
    (["timeline", "ast", "long.wav", "--out", "a.xlsx"], "the suffix of --out is '.xlsx', expected one of .csv, .json"),
    (["timeline", "ast", "gone.wav"], "there is no audio file gone.wav"),
    (["timeline", "ast", "fast.wav"], "expected 8000 Hz"),
    (["timeline", "ast", "long.wav", "--top-k", "0"], "top_k=0"),
])  # fmt: skip
def test_refusals(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert message in capsys.readouterr().err
