"""Feature extractors as transformers' folders of audio models hold them, and the vocabulary of a CTC model."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from zoo.preprocessing.ctc_vocabulary import Vocabulary
from zoo.preprocessing.spectrogram import SpectrogramFeatureExtractor
from zoo.preprocessing.waveform import WaveformFeatureExtractor
from zoo.utils.errors import LoadError
from zoo.utils.files import read_json


def read(folder: Path, config: Any) -> tuple[SpectrogramFeatureExtractor | WaveformFeatureExtractor | None, list[str]]:
    """(the preprocessing of a folder, notes); None, and a note that says why, where there is none for such a model."""
    values = _values(folder)
    if values is None:
        return None, []
    try:
        if hasattr(config, "mel_bins"):
            heard = SpectrogramFeatureExtractor.from_transformers(values)
            fitted = heard.fitted_to(config)
            told = f"the file's preprocessing for {heard.frames} frames of {heard.num_mel_bins} bins was fitted to the model"
            return fitted, [told] if fitted != heard else []
        vocabulary, notes = _vocabulary(folder, config)
        return WaveformFeatureExtractor.from_transformers(values, vocabulary), notes
    except LoadError as error:
        return None, [f"no preprocessing: {error}"]


def _values(folder: Path) -> dict[str, Any] | None:
    """The extractor's own file, or its part of a processor's."""
    if (folder / "preprocessor_config.json").is_file():
        return read_json(folder / "preprocessor_config.json")
    if (folder / "processor_config.json").is_file():
        return read_json(folder / "processor_config.json").get("feature_extractor")
    return None


def _vocabulary(folder: Path, config: Any) -> tuple[Vocabulary | None, list[str]]:
    """vocab.json, with the names of blank and space that the tokenizer's settings give."""
    file = folder / "vocab.json"
    if not file.is_file() or config.head != "ctc":
        return None, []
    try:
        vocabulary = Vocabulary.from_json(file.read_text(encoding="utf-8"))
        vocabulary = replace(vocabulary, **_names(folder, vocabulary))
    except (ValueError, TypeError, AttributeError) as error:
        return None, [f"no vocabulary: {error}"]
    if len(vocabulary) != config.vocab_size:
        return None, [f"no vocabulary: vocab.json has {len(vocabulary)} symbols, the model {config.vocab_size}"]
    return vocabulary, []


def _names(folder: Path, vocabulary: Vocabulary) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        named |= read_json(folder / file) if (folder / file).is_file() else {}
    names: dict[str, Any] = {}
    for ours, theirs in (("blank", "pad_token"), ("space", "word_delimiter_token")):
        token = named.get(theirs)
        token = token.get("content") if isinstance(token, Mapping) else token
        if token in vocabulary.tokens:
            names[ours] = str(token)
    return names
