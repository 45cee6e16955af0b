"""Feature extractors of audio models in transformers' folders, and the vocabulary of a CTC model."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from zoo.checkpoints.formats import added_tokens, tokenizer
from zoo.preprocessing.ctc_vocabulary import Vocabulary
from zoo.preprocessing.spectrogram import SpectrogramFeatureExtractor
from zoo.preprocessing.waveform import WaveformFeatureExtractor
from zoo.preprocessing.whisper import WhisperProcessor
from zoo.utils.errors import LoadError
from zoo.utils.files import read_json


def read(folder: Path, config: Any) -> tuple[SpectrogramFeatureExtractor | WaveformFeatureExtractor | None, list[str]]:
    """(the preprocessing of a folder, notes). None if there is none for the model, with a note on the reason."""
    values = _values(folder)
    if values is None:
        return None, []
    try:
        if hasattr(config, "mel_bins"):
            stored, notes = _spectrogram(folder, values, config)
            fitted = stored.fitted_to(config)
            note = (
                f"the file's preprocessing for {stored.frames} frames of {stored.num_mel_bins} mel bins was changed to "
                f"the model's input size"
            )
            return fitted, [note, *notes] if fitted != stored else notes
        vocabulary, notes = _vocabulary(folder, config)
        return WaveformFeatureExtractor.from_transformers(values, vocabulary), notes
    except LoadError as error:
        return None, [f"model.preprocess is None: {error}"]


def _spectrogram(folder: Path, values: Mapping[str, Any], config: Any) -> tuple[SpectrogramFeatureExtractor, list[str]]:
    """(the extractor, notes); of a model that writes texts, with its tokenizer."""
    if not hasattr(config, "vocab_size"):
        return SpectrogramFeatureExtractor.from_transformers(values), []
    found, notes = tokenizer.read(folder, config, "whisper")
    made: Any = WhisperProcessor.from_transformers(values)
    return replace(made, tokenizer=found), notes


def _values(folder: Path) -> dict[str, Any] | None:
    """The settings of the feature extractor: a file of its own, or part of the processor's file."""
    if (folder / "preprocessor_config.json").is_file():
        return read_json(folder / "preprocessor_config.json")
    if (folder / "processor_config.json").is_file():
        return read_json(folder / "processor_config.json").get("feature_extractor")
    return None


def _vocabulary(folder: Path, config: Any) -> tuple[Vocabulary | None, list[str]]:
    """(the vocabulary in vocab.json and added_tokens.json, with blank and space as the tokenizer's settings name them;
    notes)."""
    file = folder / "vocab.json"
    if not file.is_file() or config.head != "ctc":
        return None, []
    try:
        settings = added_tokens.read_settings(folder)
        ids = read_json(file)
        vocabulary = Vocabulary.from_ids(_with_added_tokens(ids, folder, settings, config.vocab_size))
        vocabulary = replace(vocabulary, **_special_tokens(settings, vocabulary))
    except (ValueError, TypeError, AttributeError) as error:
        return None, [f"no vocabulary: {file}: {error}"]
    if len(vocabulary) != config.vocab_size:
        return None, [f"no vocabulary: {file} has {len(ids)} symbols, the model has {config.vocab_size}"]
    return vocabulary, []


def _with_added_tokens(
    ids: Mapping[str, int], folder: Path, settings: dict[str, Any], vocab_size: int
) -> dict[str, int]:
    """{symbol: id} with the tokens that the tokenizer adds: those with an id, and special tokens while the model has
    room for them."""
    usual = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    roles = usual | {name: token for name, token in settings.items() if name in usual}
    ids = dict(ids)
    for index, token in added_tokens.declared(folder, settings | roles):
        if token.content in ids or (
            index is None and token.content not in map(added_tokens.content_of, roles.values())
        ):
            continue
        if len(ids) < vocab_size or index is not None:
            ids[token.content] = len(ids) if index is None else index
    return ids


def _special_tokens(settings: Mapping[str, Any], vocabulary: Vocabulary) -> dict[str, Any]:
    """Fields of the vocabulary, {"blank": token, "space": token}, from the tokenizer's settings."""
    names: dict[str, Any] = {}
    for ours, theirs in (("blank", "pad_token"), ("space", "word_delimiter_token")):
        token = added_tokens.content_of(settings.get(theirs))
        if token in vocabulary.tokens:
            names[ours] = str(token)
    return names
