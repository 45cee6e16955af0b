"""What an audio folder of transformers brings beside its weights: the extractor, and a CTC model's vocabulary."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from zoo.checkpoints.formats.feature_extractor import read
from zoo.preprocessing.ctc_vocabulary import Vocabulary
from zoo.preprocessing.spectrogram import SpectrogramFeatureExtractor
from zoo.preprocessing.waveform import WaveformFeatureExtractor

LETTERS = {"[PAD]": 0, "_": 1, "A": 2, "B": 3}


def folder(path: Path, **files: Any) -> Path:
    for name, values in files.items():
        (path / f"{name}.json").write_text(json.dumps(values))
    return path


def ctc(size: int = 4, head: str | None = "ctc") -> Any:
    return SimpleNamespace(head=head, vocab_size=size)


def test_an_extractor_of_its_own_or_within_a_processor(tmp_path: Path) -> None:
    assert read(tmp_path, ctc()) == (None, [])
    folder(tmp_path, processor_config={"feature_extractor": {"do_normalize": False, "return_attention_mask": True}})
    assert read(tmp_path, ctc(head=None)) == (WaveformFeatureExtractor(normalize=False, return_attention_mask=True), [])
    folder(tmp_path, preprocessor_config={"sampling_rate": 8000})
    assert read(tmp_path, ctc(head=None)) == (WaveformFeatureExtractor(sampling_rate=8000), [])


def test_the_vocabulary_has_the_names_of_the_tokenizer(tmp_path: Path) -> None:
    folder(tmp_path, preprocessor_config={}, vocab=LETTERS)
    folder(tmp_path, tokenizer_config={"pad_token": {"content": "[PAD]"}, "word_delimiter_token": "_"})
    found, notes = read(tmp_path, ctc())
    assert (
        found == WaveformFeatureExtractor(vocabulary=Vocabulary(tuple(LETTERS), blank="[PAD]", space="_")) and not notes
    )
    found, notes = read(tmp_path, ctc(head=None))
    assert found == WaveformFeatureExtractor() and not notes, "of no use without the head"


def test_what_does_not_fit_is_noted_and_not_taken(tmp_path: Path) -> None:
    folder(tmp_path, preprocessor_config={}, vocab=LETTERS)
    found, (note,) = read(tmp_path, ctc(32))
    assert found == WaveformFeatureExtractor() and "vocab.json has 4 symbols, the model has 32" in note
    folder(tmp_path, vocab={"eng": LETTERS})  # one vocabulary for each language
    found, (note,) = read(tmp_path, ctc())
    assert found == WaveformFeatureExtractor() and "no vocabulary" in note
    folder(tmp_path, preprocessor_config={"feature_extractor_type": "SpeechT5FeatureExtractor"})
    found, (note,) = read(tmp_path, ctc())
    assert found is None and "SpeechT5FeatureExtractor is not supported" in note


def test_a_spectrogram_is_fitted_to_the_model(tmp_path: Path) -> None:
    folder(tmp_path, preprocessor_config={"max_length": 1024, "num_mel_bins": 128})
    found, notes = read(tmp_path, SimpleNamespace(max_length=1024, mel_bins=128))
    assert found == SpectrogramFeatureExtractor() and not notes
    found, (note,) = read(tmp_path, SimpleNamespace(max_length=100, mel_bins=128))
    assert found == SpectrogramFeatureExtractor(frames=100) and "was changed to the model's input size" in note
