"""`recipes/transcribe.py`: from files to texts and subtitles."""

import json
from pathlib import Path

import pytest
import soundfile
import torch
from recipe_calls import RECIPES, recipe
from whisper_peers import transformers_whisper

import zoo


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whisper in whisper/, recordings in talks/, of which one has another sampling rate."""
    place = tmp_path_factory.mktemp("transcribe")
    transformers_whisper(place / "whisper")
    (place / "talks" / "day").mkdir(parents=True)
    wave = 0.1 * torch.randn(2 * 16000, generator=torch.Generator().manual_seed(0))
    soundfile.write(place / "talks" / "one.wav", wave.numpy(), 16000)
    soundfile.write(place / "talks" / "day" / "two.wav", wave.numpy(), 8000)
    return place


def test_files(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(folder)
    run = recipe("transcribe").run
    options = ["model=whisper", "language=de", "temperature=0"]
    expected = zoo.transcribe(zoo.load("whisper"), "talks/one.wav", language="de", temperature=0.0)
    assert run(["talks/one.wav", *options]) == 0
    assert capsys.readouterr().out == f"{expected.text}\n"
    assert run(["talks", *options, "out=texts", "format=json", "batch_size=2"]) == 0
    assert sorted(str(path) for path in Path("texts").rglob("*.json")) == ["texts/day/two.json", "texts/one.json"]
    assert json.loads(Path("texts/one.json").read_text())["words"]
    assert run(["talks/one.wav", *options, "out=a.srt", "word_timestamps=false"]) == 0
    assert Path("a.srt").read_text().count("-->") == len(expected.segments)
    capsys.readouterr()
    for words, message in (
        (["talks/one.wav"], "expected files and a model"),
        (["model=whisper"], "expected files and a model"),
        (["talks/day/two.wav", "resample=false", *options], "expected 16000 Hz"),
        (["talks/one.wav", *options, "out=a.srt"], "a.srt exists: replace it with overwrite=true, or give"),
        (["talks", *options, "out=a.srt"], "out=a.srt is one file, and there are 2 recordings: give a folder, out=a f"),
        (["talks/one.wav", *options, "format=srt"], "format=srt is for files: give their folder, out=FOLDER"),
        (["talks/one.wav", "model=whisper", "language=fr"], "the model has no token <|fr|>"),
        (["talks/one.wav", *options, "skip_silence=yes"], "skip_silence is 'yes', expected one of true, false"),
        (
            ["talks/one.wav", *options, "langage=de"],
            "there is no option langage=; did you mean 'language'? (it has out,",
        ),
        (["talks/one.wav", *options, "language=en"], "language is given twice: 'de' and 'en'"),
        (["talks/no=pe.wav", *options], "there is no audio file talks/no=pe.wav"),
    ):
        assert run(words) == 2
        assert message in capsys.readouterr().err
    assert run(["talks/one.wav", *options, "out=a.srt", "overwrite=true"]) == 0
    assert run(["--help"]) == 0 and "model=openai/whisper-tiny" in capsys.readouterr().out


def test_a_file_with_an_equals_sign_in_its_name(folder: Path, monkeypatch: pytest.MonkeyPatch,
                                                capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.chdir(folder / "talks")
    Path("language=en.wav").write_bytes(Path("one.wav").read_bytes())
    assert recipe("transcribe").run(["language=en.wav", "model=../whisper", "language=de", "temperature=0"]) == 0
    expected = capsys.readouterr().out
    assert recipe("transcribe").run(["one.wav", "model=../whisper", "language=de", "temperature=0"]) == 0
    assert capsys.readouterr().out == expected
    words = ["a.wav", "model=m", "skip_silence=True", "resample=FALSE", "lm-weight=-1"]
    assert recipe("transcribe").command(words) == ["transcribe", "m", "a.wav", "--skip-silence", "--lm-weight=-1"]
    Path("language=en.wav").unlink()


def test_the_script_is_short() -> None:
    assert len((RECIPES / "transcribe.py").read_text().splitlines()) <= 60
