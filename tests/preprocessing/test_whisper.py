"""Whisper's processor: log-mel spectrograms and tokens as transformers' WhisperProcessor makes them."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from peers import error
from whisper_peers import CODES, TEXTS, special_tokens, tokenizer

import zoo
from zoo.checkpoints.formats.tokenizer import read
from zoo.preprocessing.audio_io import AudioError, resampled
from zoo.preprocessing.auto import processor_from_dict
from zoo.preprocessing.text import TextProcessor
from zoo.preprocessing.whisper import WhisperProcessor
from zoo.preprocessing.whisper_languages import CODES as NAMES
from zoo.preprocessing.whisper_languages import LANGUAGES, language_code

RATE = 16000


def wave(seconds: float, seed: int = 0) -> torch.Tensor:
    return torch.randn(int(seconds * RATE), generator=torch.Generator().manual_seed(seed)) * 0.1


def model_config(made, **more):
    sizes = {"vocab_size": len(made), "max_length": 64, "bos_token_id": 1, "pad_token_id": None} | more
    return SimpleNamespace(**sizes)


@pytest.fixture
def made(tmp_path):
    """(the folder, transformers' tokenizer, ours)."""
    theirs = tokenizer(tmp_path)
    ours, notes = read(tmp_path, model_config(theirs), "whisper")
    assert notes == []
    return tmp_path, theirs, ours


# --- Audio ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_mel_bins", [80, 128])
def test_features_are_those_of_transformers(num_mel_bins):
    """A batch of a short clip, one of the full length, one of silence, and one of a few samples."""
    from transformers import WhisperFeatureExtractor

    theirs = WhisperFeatureExtractor(num_mel_bins)
    ours = WhisperProcessor.from_transformers(theirs.to_dict())
    assert ours == WhisperProcessor(num_mel_bins=num_mel_bins)
    clips = [wave(1.3), wave(30, 1), torch.zeros(RATE), wave(0.001, 2)]
    expected = theirs([clip.numpy() for clip in clips], sampling_rate=RATE, return_tensors="pt")["input_features"]
    found = ours(clips, sampling_rate=RATE)
    assert list(found) == ["input_features"] and found["input_features"].shape == (4, num_mel_bins, 3000)
    assert error(found["input_features"], expected) <= 1e-5
    again = type(theirs).from_dict(json.loads(json.dumps(ours.to_transformers())))
    assert again.to_dict() == theirs.to_dict()


def test_stereo_and_other_rates_are_converted_once_they_are_known():
    from transformers import WhisperFeatureExtractor

    ours, theirs = WhisperProcessor(frames=100), WhisperFeatureExtractor(chunk_length=1)
    stereo = torch.stack([wave(0.5), wave(0.5, 1)])
    expected = theirs(stereo.mean(0).numpy(), sampling_rate=RATE, return_tensors="pt")["input_features"]
    assert error(ours((stereo, RATE))["input_features"], expected) <= 1e-5
    slow = wave(0.25)
    with pytest.raises(AudioError, match="8000 Hz"):
        ours((slow, 8000))
    expected = theirs(resampled(slow, 8000, RATE).numpy(), sampling_rate=RATE, return_tensors="pt")["input_features"]
    assert error(ours((slow, 8000), resample=True)["input_features"], expected) <= 1e-5


def test_clips_that_are_empty_or_too_long_are_refused():
    ours = WhisperProcessor(frames=100)
    with pytest.raises(ValueError, match=r"samples \[0\]|too short|empty"):
        ours((torch.zeros(0), RATE))
    with pytest.raises(ValueError, match="too long"):
        ours((wave(1.01), RATE))
    assert ours((wave(1.01), RATE), too_long="cut")["input_features"].shape == (1, 80, 100)
    assert ours((wave(2.5), RATE), too_long="windows")["input_features"].shape == (3, 80, 100)
    with pytest.raises(ValueError, match="has feature_type='whisper'"):
        WhisperProcessor(feature_type="kaldi")


# --- Texts ------------------------------------------------------------------------------------------------------------


def test_ids_are_those_of_transformers(made):
    _, theirs, ours = made
    for text in TEXTS[:3]:
        assert ours.encode(text) == theirs(text)["input_ids"]
        assert ours.decode(theirs(text)["input_ids"]) == text
    first = ours.encode("a")
    start, end = (theirs.convert_tokens_to_ids(f"<|{name}|>") for name in ("startoftranscript", "endoftext"))
    assert (first[0], first[-1]) == (start, end)


@pytest.mark.parametrize(
    "options", [dict(language="german", task="translate"), dict(language="en", predict_timestamps=True), {}]
)
def test_the_tokens_before_a_text_are_those_of_the_settings(tmp_path, options):
    theirs = tokenizer(tmp_path, **options)
    ours = read(tmp_path, model_config(theirs), "whisper")[0]
    assert ours.encode(TEXTS[0]) == theirs(TEXTS[0])["input_ids"]
    again = tmp_path / "again"
    again.mkdir()
    for name, values in WhisperProcessor(tokenizer=ours).transformers_files().items():
        (again / name).write_text(values if isinstance(values, str) else json.dumps(values))
    from transformers import WhisperProcessor as Theirs

    exported = Theirs.from_pretrained(again)
    assert exported.tokenizer(TEXTS[0])["input_ids"] == theirs(TEXTS[0])["input_ids"]
    assert exported.feature_extractor.nb_max_frames == 3000


def test_vocabulary_files_without_tokenizer_json(made):
    folder, theirs, ours = made
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in model["merges"]))
    (folder / "added_tokens.json").write_text(json.dumps(theirs.get_added_vocab()))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    more = [token for token in special_tokens()[0] if token != "<|endoftext|>"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"additional_special_tokens": more}))
    (folder / "tokenizer.json").unlink()
    again, notes = read(folder, model_config(theirs), "whisper")
    assert notes == [] and again.vocab_size == ours.vocab_size == len(theirs)
    for text in TEXTS[:3]:
        assert again.encode(text) == theirs(text)["input_ids"]


def test_texts_of_ids(made):
    _, theirs, tokens = made
    ours = WhisperProcessor(tokenizer=tokens)
    ids = theirs.convert_tokens_to_ids
    body = theirs(" Hello, dog.", add_special_tokens=False)["input_ids"]
    spoken = [ids("<|startoftranscript|>"), ids("<|en|>"), ids("<|transcribe|>"), ids("<|0.00|>"), *body,
              ids("<|0.20|>"), ids("<|endoftext|>")]  # fmt: skip
    previous = [ids("<|startofprev|>"), *theirs(" Before.", add_special_tokens=False)["input_ids"], *spoken]
    for row in (spoken, previous):
        assert ours.decode(row) == theirs.decode(row, skip_special_tokens=True) == " Hello, dog."
        assert ours.decode(row, timestamps=True) == "<|0.00|> Hello, dog.<|0.20|>"
        assert ours.decode(row, skip_special=False) == theirs.decode(row)
    assert ours.decode(torch.tensor(spoken)) == " Hello, dog." and ours.decode(previous[:3]) == ""
    assert ours.language_tokens == {code: ids(f"<|{code}|>") for code in CODES}
    with pytest.raises(ValueError, match="no tokenizer"):
        WhisperProcessor().decode([1])


def test_saved_and_restored(made):
    _, theirs, tokens = made
    for ours in (WhisperProcessor(tokenizer=tokens, frames=200), WhisperProcessor(num_mel_bins=128)):
        values = json.loads(json.dumps(ours.to_dict() | {"files": ours.files()}))
        again = processor_from_dict(values)
        assert again == ours and isinstance(again.tokenizer, TextProcessor | None)
    with pytest.raises(zoo.LoadError, match="tokenizer"):
        processor_from_dict(values | {"tokenizer": "x"})
    small = model_config(theirs, vocab_size=200, max_length=448, mel_bins=80, frames=3000, names=lambda: ["frames"])
    with pytest.raises(ValueError, match="does not belong to this model"):
        replace(ours, num_mel_bins=80, tokenizer=tokens).check(small)


def test_languages():
    from transformers.models.whisper import tokenization_whisper as theirs

    assert list(LANGUAGES.items()) == list(theirs.LANGUAGES.items()) and theirs.TO_LANGUAGE_CODE == NAMES
    assert [language_code(name) for name in ("English", "<|de|>", "castilian", "yue")] == ["en", "de", "es", "yue"]
    with pytest.raises(ValueError, match="did you mean 'german'"):
        language_code("germann")
    with pytest.raises(ValueError, match="expected a text"):
        language_code(3)
