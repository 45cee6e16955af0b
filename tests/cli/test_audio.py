"""`zoo timeline` and `zoo transcribe`: from files to files."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import soundfile
import torch
from whisper_peers import transformers_whisper

import zoo
from zoo.cli.main import main
from zoo.preprocessing.ctc_vocabulary import Vocabulary
from zoo.preprocessing.spectrogram import SpectrogramFeatureExtractor
from zoo.preprocessing.waveform import WaveformFeatureExtractor

SAMPLING_RATE = 8000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier in ast/, a CTC model in speech/, and recordings."""
    place = tmp_path_factory.mktemp("audio")
    model = zoo.create_model("ast_tiny", seed=0, width=16, depth=1, heads=2, max_length=40, mel_bins=32, num_classes=3)
    model.preprocess = SpectrogramFeatureExtractor(sampling_rate=SAMPLING_RATE, frames=40, num_mel_bins=32)
    model.labels = ["speech", "music", "rain"]
    zoo.save(model, place / "ast")
    speech = zoo.create_model("wav2vec2_tiny", head="ctc", vocab_size=5, seed=0, width=32, depth=1, heads=2,
                              position_groups=2)  # fmt: skip
    speech.preprocess = WaveformFeatureExtractor(sampling_rate=SAMPLING_RATE, vocabulary=Vocabulary.of(["abc"]))
    zoo.save(speech, place / "speech")
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
        command = ["timeline", "ast", "long.wav", "--out", out, "--top-k", "2"]
        assert main(command) == 0
        assert main(command) == 2 and f"{out} exists: replace it with --overwrite" in capsys.readouterr().err
        assert main([*command, "--overwrite"]) == 0
        assert f"{out}: {windows} windows" in capsys.readouterr().out
    with open("a.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 2 * windows
    assert len(json.loads(Path("a.json").read_text())["mean"]) == 3
    assert Path("a.png").read_bytes().startswith(b"\x89PNG")
    assert main(["timeline", "ast", "fast.wav", "--resample"]) == 0


def test_transcribe(capsys: pytest.CaptureFixture[str]) -> None:
    expected = zoo.transcribe(zoo.load("speech"), "long.wav")
    assert main(["transcribe", "speech", "long.wav"]) == 0
    assert capsys.readouterr().out == f"{expected.text}\n"
    for suffix in ("srt", "vtt", "txt", "json"):
        assert main(["transcribe", "speech", "long.wav", "--out", f"new/a.{suffix}"]) == 0
        assert f"new/a.{suffix}: {expected.text}" in capsys.readouterr().out
        expected.save(f"b.{suffix}")
        assert Path(f"new/a.{suffix}").read_text() == Path(f"b.{suffix}").read_text()
    short = ["--line-length", "9", "--lines", "1", "--max-duration", "0.5"]
    assert main(["transcribe", "speech", "long.wav", "--out", "a.vtt", *short]) == 0
    assert Path("a.vtt").read_text().count("-->") > Path("b.vtt").read_text().count("-->")
    assert main(["transcribe", "speech", "long.wav", "--out", "b.json", "--timestamps", "char", "--overwrite"]) == 0
    assert json.loads(Path("b.json").read_text())["characters"]
    greedy = zoo.transcribe(zoo.load("speech"), "long.wav", beam_width=1)
    assert main(["transcribe", "speech", "long.wav", "--out", "a.txt", "--beam-width", "1"]) == 0
    assert Path("a.txt").read_text() == f"{greedy.text}\n"


def test_transcribe_several(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["transcribe", "speech", "long.wav", "fast.wav", "--resample", "--out", "texts", "--format", "srt"]
    assert main(words) == 0
    assert sorted(path.name for path in Path("texts").iterdir()) == ["fast.srt", "long.srt"]
    assert capsys.readouterr().out.count("texts/") == 2
    assert main(words) == 2 and "texts/long.srt exists: replace it with --overwrite" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 0


def test_transcribe_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    """Its files keep their folders; one that cannot be read is omitted if the user says so."""
    (Path("talks") / "day").mkdir(parents=True)
    shutil.copy("long.wav", "talks/day/one.wav")
    shutil.copy("long.wav", "talks/two.wav")
    Path("talks/notes.txt").write_text("no audio")
    words = ["transcribe", "speech", "talks", "--out", "talk_texts", "--format", "txt"]
    assert main(words) == 0
    found = sorted(str(path) for path in Path("talk_texts").rglob("*.txt"))
    assert found == ["talk_texts/day/one.txt", "talk_texts/two.txt"]
    assert Path(found[0]).read_text() == Path(found[1]).read_text()
    Path("talks/broken.wav").write_bytes(b"RIFF")
    Path("talks/day/empty.wav").write_bytes(b"")
    capsys.readouterr()
    assert main([*words, "--overwrite"]) == 2 and "broken.wav" in capsys.readouterr().err
    assert main([*words, "--overwrite", "--on-error", "skip"]) == 0
    said = capsys.readouterr().err
    assert "2 of 4 recordings are skipped: " in said and "broken.wav" in said and "day/empty.wav" in said
    assert main(["transcribe", "speech", "talks/broken.wav", "--on-error", "skip"]) == 2
    assert "none of 1 recordings can be read" in capsys.readouterr().err
    Path("empty").mkdir()
    assert main(["transcribe", "speech", "empty"]) == 2 and "without audio files" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "message"), [
    (["transcribe", "speech"], "give at least one audio file"),
    (["transcribe", "speech", "long.wav", "fast.wav", "--out", "a.srt"], "give a folder, --out a --format srt"),
    (["transcribe", "speech", "long.wav", "./long.wav", "--out", "a", "--format", "srt"], "written to a/long.srt"),
    (["transcribe", "speech", "long.wav", "--format", "srt"], "give their folder, --out FOLDER"),
    (["transcribe", "speech", "long.wav", "--out", "a"], "the suffix of --out is '', expected one of .srt, .vtt"),
    (["transcribe", "ast", "long.wav"], "with head='ctc', but the model has head='classify'"),
    (["transcribe", "speech", "gone.wav"], "there is no audio file gone.wav"),
    (["transcribe", "speech", "long.wav", "--beam-width", "0"], "beam_width=0"),
    (["transcribe", "speech", "long.wav", "--out", "new.vtt", "--format", "srt"], "new.vtt looks like a file"),
    (["transcribe", "speech", "long.wav", "--lm-weight", "0.7"], "--lm-weight is used with --language-model"),
    (["transcribe", "speech", "long.wav", "--word-bonus", "0"], "--word-bonus is used with --language-model"),
    (["transcribe", "speech", "long.wav", "--lines", "1"], "--lines is used with subtitles"),
    (["transcribe", "speech", "long.wav", "--out", "a.txt", "--line-length", "9"], "--line-length is used with"),
    (["transcribe", "speech", "long.wav", "--out", "a.srt", "--timestamps", "char"], "--timestamps is used with JSON"),
    (["transcribe", "speech", "fast.wav"], "on the command line, --resample"),
    (["transcribe", "speech", "long.wav", "--out", "a.srt", "--lines", "0"], "lines=0, max_duration=7.0"),
    (["transcribe", "speech", "long.wav", "--out", "a.srt", "--max-duration", "-1"], "expected positive numbers"),
    (["transcribe", "speech", "long.wav", "--language-model", "ast"], "language_model: expected a decoder"),
    (["timeline", "ast", "long.wav", "--out", "a.xlsx"], "the suffix of --out is '.xlsx', expected one of .csv, .json"),
    (["timeline", "ast", "gone.wav"], "there is no audio file gone.wav"),
    (["timeline", "ast", "fast.wav"], "expected 8000 Hz"),
    (["timeline", "ast", "long.wav", "--top-k", "0"], "top_k=0"),
])  # fmt: skip
def test_refusals(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert message in capsys.readouterr().err


@pytest.fixture(scope="module")
def whisper(folder: Path) -> Path:
    transformers_whisper(folder / "whisper")
    wave = 0.1 * torch.randn(2 * 16000, generator=torch.Generator().manual_seed(0))
    soundfile.write(folder / "talk.wav", wave.numpy(), 16000)
    return folder / "whisper"


def test_transcribe_with_whisper(whisper: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = dict(language="de", temperature=(0.0, 0.01), skip_silence=True)
    expected = zoo.transcribe(zoo.load("whisper"), "talk.wav", **options)
    words = ["transcribe", "whisper", "talk.wav", "--language", "german", "--skip-silence"]
    words += ["--temperature", "0,0.01"]
    assert main([*words, "--out", "w.json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(Path("w.json").read_text()) == json.loads(json.dumps(expected.to_dict()))
    assert printed.out == f"w.json: {expected.text}\n"
    loops = f"talk.wav: {len(expected.repetitive)} of {len(expected.segments)} segments repeat themselves"
    assert expected.repetitive and loops in printed.err
    assert main([*words, "--out", "w.srt"]) == 0 and main([*words, "--out", "s.vtt", "--timestamps", "segment"]) == 0
    assert Path("s.vtt").read_text().count("-->") == len(expected.segments)
    assert main([*words, "long.wav", "--resample", "--out", "both", "--format", "txt", "--batch-size", "2"]) == 0
    assert sorted(path.name for path in Path("both").iterdir()) == ["long.txt", "talk.txt"]
    assert "both/talk.txt: [de] " in capsys.readouterr().out
    for more, message in (
        (["--language", "fr"], "the model has no token <|fr|>"),
        (["--lm-weight", "1"], "--lm-weight is used with --language-model"),
        (["--batch-size", "0"], "batch_size=0"),
    ):
        assert main(["transcribe", "whisper", "talk.wav", *more]) == 2
        assert message in capsys.readouterr().err
    assert main(["transcribe", "speech", "long.wav", "--language", "de"]) == 2
    assert "language= is an option of Whisper, not of CTC models" in capsys.readouterr().err
