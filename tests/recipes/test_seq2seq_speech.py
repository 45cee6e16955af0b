"""The recipe of Whisper from its command line: scores, transcripts, alignment, resumed runs, what it refuses."""

import csv
from pathlib import Path

import pytest
import soundfile
import torch
from recipe_calls import RECIPES, RESUMED, caller, check_resumed_run, result

import zoo
from zoo.training.recipes.seq2seq_speech_config import SpeechRecognitionSettings
from zoo.training.recipes.transcripts import NOTHING, confusions

call = caller({"seq2seq_speech": SpeechRecognitionSettings})
QUIET = ("accelerator=cpu", "precision=fp32", "progress=false", "log_every=1")
TINY = ("width=16", "depth=1", "heads=2", "mel_bins=16", "batch_size=8", "vocab_size=300", "max_length=40",
        "val_samples=4", *QUIET)  # fmt: skip
FEW = ("max_train_samples=40", "max_test_samples=6", *TINY)


@pytest.fixture(autouse=True)
def few_phrases(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("TRAIN", 48), ("TEST", 8), ("VOICES", 2), ("TEST_VOICES", 1)):
        monkeypatch.setattr(f"zoo.data.synthetic.phrases.{name}", value)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "transcripts.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_whole_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    assert call("seq2seq_speech", folder, *FEW, "steps=3", "export=transformers", "num_beams=2") == 0
    output = " ".join(capsys.readouterr().out.split())
    for text in ("Synthetic data", "synthesized phrases", "40 training and 6 test items", " wer ", "reference",
                 "hypothesis", "confused", "exported"):  # fmt: skip
        assert text in output, text
    found = result(folder)
    names = {"test_loss", "test_perplexity", "test_token_accuracy", "test_wer", "test_cer"}
    assert found["result"].keys() == names and not found["real"]
    assert {"alignment.png", "sample.wav", "transcripts.csv", "model"} <= {path.name for path in folder.iterdir()}
    assert "val_wer" in (folder / "metrics.csv").read_text().splitlines()[0]
    model = zoo.load(folder)
    assert model.config.frames == model.preprocess.frames and model.config.frames % 100 == 0
    assert model.config.frames < 3000
    batch = model.preprocess(folder / "sample.wav")
    ids = zoo.generate(model, **batch, num_beams=2, max_new_tokens=39)
    written = rows(folder)
    assert len(written) == 6 and model.preprocess.decode(ids[0]) == written[0]["hypothesis"]
    transformers = pytest.importorskip("transformers")
    theirs = transformers.WhisperForConditionalGeneration.from_pretrained(folder / "transformers").eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder / "transformers")
    wave, rate = soundfile.read(folder / "sample.wav", dtype="float32")
    features = extractor(wave, sampling_rate=rate, return_tensors="pt").input_features
    assert torch.allclose(features, batch["input_features"], atol=1e-4)
    start = torch.full((1, 1), model.config.decoder_start_token_id)
    with torch.no_grad():
        ours = model.eval()(input_features=features, decoder_input_ids=start)
        assert torch.allclose(theirs(features, decoder_input_ids=start).logits, ours, atol=1e-4)


def test_fine_tuning_and_other_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("seq2seq_speech", tmp_path / "one", *FEW, "steps=1", "data=synthetic_phrases", "model.frames=700") == 0
    first = zoo.load(tmp_path / "one")
    assert first.config.frames == 700
    words = (f"model.source={tmp_path / 'one'}", "max_train_samples=40", "max_test_samples=6", "steps=1",
             "batch_size=8", *QUIET)  # fmt: skip
    assert call("seq2seq_speech", tmp_path / "two", *words) == 0
    assert zoo.load(tmp_path / "two").preprocess == first.preprocess
    capsys.readouterr()
    assert call("seq2seq_speech", tmp_path / "three", *words, "language=en") == 2
    assert "knows one language only" in capsys.readouterr().err


def test_interrupted_and_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = (*FEW, "dropout=0.1", *RESUMED)
    check_resumed_run(lambda folder: call("seq2seq_speech", folder, *words), tmp_path, monkeypatch)


@pytest.mark.parametrize(("words", "says"), [
    (["model=bert_tiny"], "expected a Whisper, such as whisper_nano"),
    (["model=ast_tiny"], "expected a Whisper, such as whisper_nano"),
    (["model.frames=100"], "but the model takes 1.00 s"),
    (["max_length=4"], "the model writes at most 4"),
    (["num_beams=0"], "num_beams=0"),
    (["time_masks=-1"], "time_masks=-1"),
    (["data=synthetic_phrase"], "did you mean"),
])  # fmt: skip
def test_what_it_refuses(words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [word for word in FEW if word.partition("=")[0] not in [one.partition("=")[0] for one in words]]
    assert call("seq2seq_speech", tmp_path / "run", *given, *words) == 2
    error = capsys.readouterr().err
    assert says in error and "Traceback" not in error, error


def test_confused_words_are_aligned() -> None:
    assert confusions("find five red cars", "find nine cars") == [("five", "nine"), ("red", NOTHING)]
    assert confusions("open doors", "please open doors") == [(NOTHING, "please")]
    assert confusions("a b", "a b") == []


def test_it_is_short() -> None:
    assert len((RECIPES / "seq2seq_speech.py").read_text().splitlines()) <= 72
