"""What models of two towers take from image-text and audio-text pairs: tokenizer, length of the audio, statistics."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from zoo.checkpoints.contrast import contrast
from zoo.checkpoints.create import create_model
from zoo.checkpoints.load import load
from zoo.data.audio.tables import AudioClips
from zoo.data.splits import Splits
from zoo.models.contrast.model import Contrastive
from zoo.models.registry import find_variant, list_models
from zoo.models.tower_config import EVERYWHERE
from zoo.preprocessing.multimodal import MultimodalProcessor
from zoo.training.parse import SettingsError
from zoo.training.pretrained import require_audio_processor, require_tokenizer
from zoo.training.recipes.audio import spectrograms_for
from zoo.training.recipes.text import new_tokenizer, token_fields
from zoo.training.run import Run

DEFAULT_VOCAB_SIZE = 4000  # of a new tokenizer, unless `text.vocab_size=` is given
Towers = tuple[str, str]  # the two modalities


def two_tower_model(run: Run, towers: Towers) -> Contrastive:
    """The model of the settings; a new tower gets what depends on the data with `fit_to_pairs`.

    Raises: SettingsError with the message of `zoo.contrast`, `zoo.load` or `zoo.create_model`.
    """
    c = run.config
    if (count := c.trainer.accumulate_grad_batches) > 1:
        raise SettingsError(f"accumulate_grad_batches={count}: pairs of different micro-batches would not be "
                            f"contrasted; use grad_cache_size={max(1, c.data.batch_size // count)} instead, which "
                            f"needs as little memory and has the gradients of the whole batch")  # fmt: skip
    model = build_towers(run, towers)
    for name in towers:
        if name not in model.modalities:
            raise SettingsError(f"the model has the towers {', '.join(model.modalities)}: it needs a tower for {name}")
    processor = model.preprocess or MultimodalProcessor()
    if not is_new(run, "text"):
        require_tokenizer(c.model.source or c.text.name, processor.text)
    if "audio" in towers and not is_new(run, "audio"):
        require_audio_processor(c.model.source or c.audio.name, processor.audio)
    return model


def fit_to_pairs(run: Run, model: Contrastive, towers: Towers, pairs: Splits) -> Contrastive:
    """The model for the training pairs: a new text tower gets a tokenizer trained on the captions, a new audio tower
    the length and the statistics of the clips.
    """
    fields, preprocess = text_fields(run, model, pairs) if is_new(run, "text") else ({}, {})
    if "audio" in towers and is_new(run, "audio"):
        more_fields, more_preprocess = audio_fields(run, model, pairs.train.items)
        fields, preprocess = fields | more_fields, preprocess | more_preprocess
    if fields:
        model = build_towers(run, towers, fields)
    if preprocess:
        model.preprocess = replace(model.preprocess or MultimodalProcessor(), **preprocess)
    return model


def pretrained_sampling_rate(run: Run, model: Contrastive) -> int:
    """The sampling rate in Hz that a pretrained audio tower needs; 0 for a new one, which takes that of the data."""
    return 0 if is_new(run, "audio") else model.preprocess.audio.sampling_rate


def is_new(run: Run, tower: str) -> bool:
    """Whether a tower starts from random weights, so that it can take on what depends on the data."""
    c = run.config
    return not c.model.source and (bool(c.model.name) or getattr(c, tower).name in list_models())


# --- models -----------------------------------------------------------------------------------------------------------


def build_towers(run: Run, towers: Towers, from_data: Mapping[str, Any] | None = None) -> Contrastive:
    """The model of the settings. `from_data`: fields that depend on the data, e.g. `{"text.vocab_size": 300}`."""
    try:
        model = _build(run, towers, from_data or {})
    except (ValueError, TypeError) as error:
        raise SettingsError(str(error)) from error
    if "image" in towers and "image" in model.modalities and not (model.preprocess and model.preprocess.image):
        image = model.tower("image").default_preprocess()
        model.preprocess = replace(model.preprocess or MultimodalProcessor(), image=image)
    for name in towers:
        if (tower := getattr(run.config, name)).locked and name in model.modalities:
            model.lock(name, tower.unlocked)
    return model


def _build(run: Run, towers: Towers, from_data: Mapping[str, Any]) -> Contrastive:
    s = run.config
    if s.model.source:
        loss = {"loss": s.task.loss} if "task.loss" in run.given else {}
        model: Any = load(s.model.source, **s.model.overrides | loss).train()
        if not isinstance(model, Contrastive):
            raise ValueError(f"model.source={s.model.source} is a {model.family}: expected a multi-tower model. Give "
                             f"single towers as image.name=, text.name= or audio.name=")  # fmt: skip
        return model
    if s.model.name:
        if find_variant(s.model.name).modality != "multimodal":
            raise ValueError(
                f"model={s.model.name} is a single tower: give it as image.name=, text.name= or audio.name="
            )
        model = create_model(s.model.name, seed=s.seed, **{**run.overrides_given, **from_data})
        assert isinstance(model, Contrastive)
        return model
    fields, own = tower_overrides(run, towers)
    for name, value in from_data.items():
        tower, _, field = name.partition(".")
        fields[tower][field] = value
    arguments: dict[str, Any] = {**fields, **own}
    return contrast(**arguments, loss=s.task.loss, seed=s.seed)


def tower_overrides(
    run: Run, modalities: Towers, own_fields: Collection[str] = ("width",)
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """({tower: name and fields}, fields of the joint model, which are `own_fields`) from the settings.

    A field without a tower prefix is set in the only tower that has it; attention, mixer and dropout are set in both.
    Fields of a tower in the recipe's YAML apply to the tower named there, not to another that the user chose, and not
    if the user sets the field for both.
    """
    s = run.config
    towers: dict[str, dict[str, Any]] = {name: {"name": getattr(s, name).name} for name in modalities}
    own: dict[str, Any] = {}
    for name, value in s.model.overrides.items():
        tower, _, field = name.partition(".")
        if name in own_fields:  # such as the width of the joint embedding space
            own[name] = value
        elif field and tower in towers:
            for_both = field in EVERYWHERE and f"model.overrides.{field}" in run.given
            if f"model.overrides.{name}" in run.given or not (f"{tower}.name" in run.given or for_both):
                towers[tower][field] = value
        elif name in EVERYWHERE:
            for fields in towers.values():
                fields.setdefault(name, value)
        else:
            towers[tower_with_field(run, name, modalities)][name] = value
    return towers, own


def tower_with_field(run: Run, field: str, modalities: Towers) -> str:
    """The only tower whose config has a field. Raises: ValueError if there is none or more than one."""
    candidates = []
    for modality in modalities:
        name = getattr(run.config, modality).name
        if name in list_models() and field in find_variant(name).config.names():
            candidates.append(modality)
    if len(candidates) == 1:
        return candidates[0]
    options = " or ".join(f"{modality}.{field}=" for modality in candidates or modalities)
    raise ValueError(f"{field}= is a field of {'several towers' if candidates else 'no tower'}: use {options}")


# --- what depends on the data ----------------------------------------------------------------------------------------


def text_fields(run: Run, model: Contrastive, pairs: Splits) -> tuple[dict[str, Any], dict[str, Any]]:
    """({field of the model: value}, {"text": tokenizer}) for a tokenizer trained on the captions."""
    s, before = run.config, model.tower("text").config
    overrides = s.model.overrides
    max_length = overrides.get("text.max_length", overrides.get("max_length", s.data.max_length))
    vocab_size = overrides.get("text.vocab_size", overrides.get("vocab_size", DEFAULT_VOCAB_SIZE))
    texts = pairs.train.some_captions()
    tokenizer = replace(new_tokenizer(run, before, texts, vocab_size, max_length), types=False, truncate="warn")
    fields = {"max_length": max_length, **token_fields(before, tokenizer)}
    first_last = {"bos_token_id": tokenizer.id("cls"), "eos_token_id": tokenizer.id("sep")}
    fields |= {name: i for name, i in first_last.items() if i is not None and name in fields}
    return {f"text.{name}": value for name, value in fields.items()}, {"text": tokenizer}


def audio_fields(run: Run, model: Contrastive, clips: AudioClips) -> tuple[dict[str, Any], dict[str, Any]]:
    """({field of the model: value}, {"audio": preprocess}) from the length and the statistics of the clips."""
    s, config, rate = run.config, model.tower("audio").config, clips.sampling_rate
    if "mel_bins" not in config.names():
        extractor = model.preprocess.audio if model.preprocess else None
        extractor = extractor or model.tower("audio").default_preprocess()
        return {}, {"audio": replace(extractor, sampling_rate=rate, resample=s.data.resample)}
    frames = s.model.overrides.get("audio.max_length")
    extractor = spectrograms_for(clips, config, s.data, frames, high_freq=rate / 2)
    return {"audio.max_length": extractor.frames}, {"audio": extractor}
