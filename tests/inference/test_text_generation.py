"""`zoo.predict` and `zoo predict` with models that write texts: BART from texts, Whisper from recordings."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import torch
from whisper_peers import transformers_whisper

import zoo
from zoo.cli.main import main
from zoo.data.sources.tables import read_table
from zoo.inference.predictor import Predictor
from zoo.inference.server_models import Predictions
from zoo.inference.server_requests import Inputs
from zoo.inference.transcribe import transcribe
from zoo.preprocessing.tokenizer_training import train

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "sleeps"]
TEXTS = [" ".join(WORDS[(7 * i + j) % 11] for j in range(1 + (5 * i) % 9)) for i in range(40)]
SHORT = {"max_new_tokens": 6}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bart/, whisper/, and talks/ with three recordings, of which one is broken."""
    place = tmp_path_factory.mktemp("writers")
    tokens = replace(train("wordpiece", TEXTS, 90, max_length=24), types=False)
    model = zoo.create_model("bart_nano", seed=0, vocab_size=tokens.vocab_size, decoder_start_token_id=tokens.id("cls"),
                             eos_token_id=tokens.id("sep"), pad_token_id=tokens.id("pad"))  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4 if parameter.ndim > 1 else 1)
    model.preprocess = tokens
    zoo.save(model, place / "bart")
    transformers_whisper(place / "whisper")
    (place / "talks").mkdir()
    for i, seconds in enumerate((1.0, 2.5)):
        wave = 0.1 * torch.randn(round(seconds * 16000), generator=torch.Generator().manual_seed(i))
        soundfile.write(place / "talks" / f"{i}.wav", wave.numpy(), 16000)
    (place / "talks" / "2.wav").write_bytes(b"RIFF")
    return place


@pytest.fixture
def bart(folder: Path) -> zoo.Model:
    return zoo.load(folder / "bart")


def predict(*words: object) -> int:
    return main(["predict", *map(str, words)])


# --- texts of texts -------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*have no end after")
def test_each_text_is_the_one_that_generate_writes(bart: zoo.Model) -> None:
    expected = [zoo.generate(bart, [text], output_scores=True, **SHORT) for text in TEXTS[:9]]
    for batch_size in (None, 1, 4):
        found = zoo.predict(bart, TEXTS[:9], batch_size=batch_size, generate_kwargs=SHORT)
        assert [text for ((text, _),) in found] == [one.texts[0] for one in expected]
        for ((_, probability),), one in zip(found, expected, strict=True):
            assert probability == pytest.approx(math.exp(one.log_probs[0][one.log_probs[0] < 0].mean()), rel=1e-4)
    beams = zoo.predict(bart, TEXTS[1], generate_kwargs=SHORT | {"num_beams": 3})
    assert beams[0][0] == zoo.generate(bart, TEXTS[1], num_beams=3, **SHORT)
    assert len({text for ((text, _),) in found}) > 3


@pytest.mark.filterwarnings("ignore:.*have no end after")
def test_a_prefix_stands_before_each_text(bart: zoo.Model) -> None:
    expected = zoo.predict(bart, [f"lazy dog {text}" for text in TEXTS[:3]], generate_kwargs=SHORT)
    found = zoo.predict(bart, TEXTS[:3], generate_kwargs=SHORT | {"source_prefix": "lazy dog "})
    assert [text for ((text, _),) in found] == [text for ((text, _),) in expected]
    with pytest.raises(ValueError, match="text 0 is empty"):
        zoo.predict(bart, [""], generate_kwargs={"source_prefix": "lazy dog "})


def test_texts_without_an_end_are_counted(bart: zoo.Model) -> None:
    long = "lazy " * 30
    with pytest.warns(
        UserWarning, match=r"of 3 generated texts have no end after max_new_tokens=1: the first is of te"
    ):
        zoo.predict(bart, TEXTS[:3], generate_kwargs={"max_new_tokens": 1})
    with pytest.warns(UserWarning, match=r"1 of 2 inputs are skipped: text 1 has \d+ tokens, expected at most"):
        kept = zoo.predict(bart, [TEXTS[0], long], on_error="skip", generate_kwargs={"eos_token_id": None} | SHORT)
    assert kept[1] is None and kept[0] is not None
    with pytest.warns(UserWarning, match="1 of 1 texts are truncated"):
        zoo.predict(bart, [long], truncation=True, generate_kwargs={"eos_token_id": None} | SHORT)


@pytest.mark.parametrize(("options", "says"), [
    ({"num_beam": 2}, "no option 'num_beam'; did you mean 'num_beams'"),
    ({"num_return_sequences": 2}, "no option 'num_return_sequences'"),
    ({"language": "de"}, "no option 'language'"),
    ({"num_beams": 0}, "num_beams=0"),
    ({"temperature": -1}, "temperature=-1"),
])  # fmt: skip
def test_options_are_checked_before_anything_is_read(bart: zoo.Model, options: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Predictor(bart, generate_kwargs=options)


def test_what_is_refused(bart: zoo.Model, folder: Path) -> None:
    with pytest.raises(ValueError, match="text 0 is a pair of texts"):
        zoo.predict(bart, [("the fox", "a dog")])
    with pytest.raises(ValueError, match=r"generate_kwargs \(.*\) is for models that write texts"):
        zoo.predict(zoo.create_model("vit_cifar_tiny", depth=1), [], generate_kwargs={"num_beams": 2})
    with pytest.raises(ValueError, match="no option 'num_beam'; did you mean 'num_beams'"):
        Predictor(zoo.load(folder / "whisper"), generate_kwargs={"num_beam": 2})
    with pytest.raises(ValueError, match=r"no token <\|fr\|>"):
        Predictor(zoo.load(folder / "whisper"), generate_kwargs={"language": "fr"})


# --- tables -----------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*have no end after")
def test_a_table_resumes_to_the_same_bytes(folder: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    with open("news.csv", "w", newline="") as file:
        csv.writer(file).writerows([("id", "article"), *enumerate(TEXTS)])
    words = [folder / "bart", "news.csv", "--batch-size", 2]  # windows of 32
    words += ["--generate-kwargs", "max_new_tokens=5", "--generate-kwargs", "num_beams=2"]
    assert predict(*words, "--out", "a.csv") == 0
    printed = capsys.readouterr()
    assert "column 'article' of news.csv" in printed.err and "with generated_text, probability" in printed.out
    count = printed.err.partition(" of 40 generated texts have no end after max_new_tokens=5")[0].split()[-1]
    expected = zoo.predict(zoo.load(folder / "bart"), TEXTS[:32], batch_size=2,
                           generate_kwargs={"max_new_tokens": 5, "num_beams": 2})  # fmt: skip
    assert read_table(Path("a.csv")).columns["generated_text"][:32] == [text for ((text, _),) in expected]

    plain = Predictor.window

    def stopped(self: Predictor, items, first=0, names=None):
        if first:
            raise KeyboardInterrupt
        return plain(self, items, first, names)

    monkeypatch.setattr(Predictor, "window", stopped)
    assert predict(*words, "--out", "b.csv") == 130
    monkeypatch.setattr(Predictor, "window", plain)
    assert predict(*words, "--out", "b.csv", "--generate-kwargs", "length_penalty=2") == 2
    assert "another value of --generate-kwargs" in capsys.readouterr().err
    assert predict(*words, "--out", "b.csv") == 0 and Path("b.csv").read_bytes() == Path("a.csv").read_bytes()
    assert f"{count} of 40 generated texts have no end" in capsys.readouterr().err


def test_the_column_of_a_run_and_options(folder: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    zoo.save(zoo.load(folder / "bart"), "run/model")
    Path("run/config.yaml").write_text("data:\n  source_text: en\n  target_text: de\n")
    Path("t.jsonl").write_text(json.dumps({"en": "the fox", "text": "a dog"}))
    short = ["--generate-kwargs", "max_new_tokens=3"]
    assert predict("run", "t.jsonl", "--json", *short) == 0
    out, err = capsys.readouterr()
    assert "column 'en'" in err and list(json.loads(out)) == ["en", "text", "generated_text", "probability"]
    assert predict("run", "the fox", *short) == 0 and "generated_text" in capsys.readouterr().out
    for words, says in ((["--top-k", 2], "writes one text"), (["--generate-kwargs", "draft=a"], "object of Python"),
                        (["--generate-kwargs", "beams=2"], "no option 'beams'")):  # fmt: skip
        assert predict("run", "the fox", *words) == 2 and says in capsys.readouterr().err


# --- speech -----------------------------------------------------------------------------------------------------------


def test_recordings_of_a_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whisper, options = zoo.load(folder / "whisper"), {"language": "de", "temperature": 0.0}
    assert predict(folder / "whisper", folder / "talks", "--json", "--on-error", "label", "--generate-kwargs",
                   "language=de", "--generate-kwargs", "temperature=0.0") == 0  # fmt: skip
    out, err = capsys.readouterr()
    first, second, broken = map(json.loads, out.splitlines())
    for row in (first, second):
        found = transcribe(whisper, row["file"], timestamps=None, **options)
        assert row["text"] == found.text and found.segments
        tokens = [(one.avg_logprob, len(one.tokens)) for one in found.segments]
        mean = sum(value * count for value, count in tokens) / sum(count for _, count in tokens)
        assert row["probability"] == pytest.approx(math.exp(mean), rel=1e-4)
    assert broken["text"] is None and "2.wav" in broken["error"] and "1 of 3 inputs" in err
    assert predict(folder / "whisper", folder / "talks") == 2 and "2.wav" in capsys.readouterr().err


def test_a_server_writes_texts(bart: zoo.Model, folder: Path) -> None:
    (body,) = Predictions(bart)([Inputs(TEXTS[:2], ["0", "1"], "text", 1)])
    assert [list(row[0]) for row in body["predictions"]] == [["generated_text", "probability"]] * 2
    clip = (torch.zeros(16000), 16000)
    (body,) = Predictions(zoo.load(folder / "whisper"))([Inputs([clip], ["0"], "audio", 1)])
    assert list(body["predictions"][0][0]) == ["text", "probability"]
