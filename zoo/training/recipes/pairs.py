"""Contrastive recipes: towers, tokenizer, image-text data, validation set and task from settings."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from zoo.checkpoints.contrast import contrast
from zoo.checkpoints.create import create_model
from zoo.checkpoints.load import load
from zoo.data.pairs.datamodule import ImageBatch, PairDataModule, PairRows, may_be_mirrored
from zoo.data.pairs.dataset import PairDataset, PairSplits
from zoo.data.pairs.images import ResizeAndCrop
from zoo.data.pairs.load import load_pairs
from zoo.data.splits import held_out_mask
from zoo.models.contrast.model import Contrastive
from zoo.models.registry import find_variant, list_models
from zoo.models.text import DecoderConfig
from zoo.models.tower_config import EVERYWHERE
from zoo.preprocessing.image import pair
from zoo.preprocessing.multimodal import MultimodalProcessor
from zoo.preprocessing.text import TextProcessor
from zoo.preprocessing.tokenizer_training import train
from zoo.tasks.contrastive import ContrastiveTask
from zoo.training import parse
from zoo.training.parse import SettingsError
from zoo.training.recipes.text import token_fields, tokenizer_cache, user_overrides
from zoo.training.result import DatasetInfo
from zoo.training.run import Run
from zoo.training.run_dir import write_text
from zoo.utils import distributed
from zoo.utils.errors import DataError

DEFAULT_VOCAB_SIZE = 4000  # of a new tokenizer, unless `text.vocab_size=` is given


def open_image_pairs(run: Run) -> tuple[Contrastive, PairDataModule, PairSplits[torch.Tensor]]:
    """Create the model, load the data and open the run folder, in this order, so that mistakes show early.

    Raises: SettingsError, RunError.
    """
    run.expect("synthetic" if run.settings.data.name == "auto" else run.settings.data.name)
    model = initial_model(run, ("image", "text"))
    try:
        tower = model.tower("image")
        preprocess = (model.preprocess and model.preprocess.image) or tower.default_preprocess()
        size = pair(tower.config.image_size)
        sets = load_pairs(run.settings.data, size=size, fit=ResizeAndCrop(preprocess), seed=run.settings.seed)
        run.open(DatasetInfo(sets.name, sets.real, sets.source, len(sets.train), len(sets.test), sets.test_name))
        note_skipped(run, sets)
        parts = with_validation(sets, run.settings.trainer.val_fraction, run.settings.seed)
        model = rebuild_model(run, model, ("image", "text"), *text_fields(run, model, parts[0]))
        prepare = ImageBatch(run.settings.data.augment, preprocess, may_be_mirrored(parts[0]))
        rows = [pair_rows(run, model, part, {"pixel_values": part.items}, n == 0) for n, part in enumerate(parts)]
        data = pair_datamodule(run, rows, prepare)
        data.test_pairs = sets.test
        return model, data, sets
    except (DataError, ValueError) as error:
        raise error if isinstance(error, SettingsError) else SettingsError(str(error)) from error


def contrast_task(run: Run, model: Contrastive) -> ContrastiveTask:
    """Create the task from the settings. Raises: SettingsError."""
    s = run.settings
    if (count := s.trainer.accumulate_grad_batches) > 1:
        raise SettingsError(f"accumulate_grad_batches={count}: pairs of different micro-batches would not be "
                            f"contrasted; use grad_cache_size={max(1, s.data.batch_size // count)} instead, which "
                            f"needs as little memory and has the gradients of the whole batch")  # fmt: skip
    try:
        return ContrastiveTask(model, loss_chunk_size=s.task.loss_chunk_size or None,
                               grad_cache_size=s.task.grad_cache_size or None, duplicates=s.task.duplicates,
                               optim=s.optim, ema=s.trainer.ema, seed=s.seed)  # fmt: skip
    except ValueError as error:
        raise SettingsError(str(error)) from error


# --- models -----------------------------------------------------------------------------------------------------------


def initial_model(run: Run, modalities: tuple[str, str]) -> Contrastive:
    """Create or load the model of the settings; a new text tower gets its tokenizer once the data is known.

    Raises: SettingsError with the message of `zoo.contrast`, `zoo.load` or `zoo.create_model`.
    """
    try:
        model = build_model(run, modalities)
    except (ValueError, TypeError) as error:
        raise SettingsError(str(error)) from error
    for name in modalities:
        if name not in model.modalities:
            raise SettingsError(f"the model has the towers {', '.join(model.modalities)}: it needs a tower for {name}")
    if not has_fresh_text_tower(run) and not (model.preprocess and isinstance(model.preprocess.text, TextProcessor)):
        raise SettingsError(f"{run.settings.model.source or run.settings.text.name} has no tokenizer: expected a "
                            f"tokenizer.json in its folder")  # fmt: skip
    return model


def build_model(run: Run, modalities: tuple[str, str], from_data: Mapping[str, Any] | None = None) -> Contrastive:
    """The model of the settings. `from_data`: fields that depend on the data, e.g. `{"text.vocab_size": 300}`."""
    s, from_data = run.settings, from_data or {}
    if s.model.source:
        loss = {"loss": s.task.loss} if "task.loss" in run.command_line.values else {}
        model: Any = load(s.model.source, **user_overrides(run) | loss).train()
        if not isinstance(model, Contrastive):
            raise ValueError(f"model.source={s.model.source} is a {model.family}: expected a multi-tower model. Give "
                             f"single towers as image.name=, text.name= or audio.name=")  # fmt: skip
    elif s.model.name:
        if find_variant(s.model.name).modality != "multimodal":
            raise ValueError(
                f"model={s.model.name} is a single tower: give it as image.name=, text.name= or audio.name="
            )
        model = create_model(s.model.name, seed=s.seed, **user_overrides(run) | dict(from_data))
    else:
        towers, own = tower_overrides(run, modalities)
        for name, value in from_data.items():
            tower, _, field = name.partition(".")
            towers[tower][field] = value
        arguments: dict[str, Any] = {**towers, **own}
        model = contrast(**arguments, loss=s.task.loss, seed=s.seed)
    for name in modalities:
        if (tower := getattr(s, name)).locked and name in model.modalities:
            model.lock(name, tower.unlocked)
    return model


def tower_overrides(run: Run, modalities: tuple[str, str]) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """({tower: name and fields}, fields of the joint model) from the settings.

    A field without a tower prefix is set in the only tower that has it; attention, mixer and dropout are set in both.
    Fields of a tower in the recipe's YAML apply to the tower named there, not to another that the user chose.
    """
    s, by_user = run.settings, user_overrides(run)
    towers: dict[str, dict[str, Any]] = {name: {"name": getattr(s, name).name} for name in modalities}
    own: dict[str, Any] = {}
    for name, value in s.model.overrides.items():
        tower, _, field = name.partition(".")
        if name == "width":  # of the joint embedding space
            own[name] = value
        elif field and tower in towers:
            if name in by_user or not named_by_user(run, tower):
                towers[tower][field] = value
        elif name in EVERYWHERE:
            for fields in towers.values():
                fields.setdefault(name, value)
        else:
            towers[tower_with_field(run, name, modalities)][name] = value
    return towers, own


def named_by_user(run: Run, modality: str) -> bool:
    """Whether the command line, or `config=`, names a tower."""
    values: Mapping[str, Any] = run.command_line.values
    if run.command_line.config:
        values = {**parse.read_yaml(Path(run.command_line.config), run.cls), **values}
    return f"{modality}.name" in values


def tower_with_field(run: Run, field: str, modalities: tuple[str, str]) -> str:
    """The only tower whose config has a field. Raises: ValueError if there is none or more than one."""
    candidates = []
    for modality in modalities:
        name = getattr(run.settings, modality).name
        if name in list_models() and field in find_variant(name).config.names():
            candidates.append(modality)
    if len(candidates) == 1:
        return candidates[0]
    options = " or ".join(f"{modality}.{field}=" for modality in candidates or modalities)
    raise ValueError(f"{field}= is a field of {'several towers' if candidates else 'no tower'}: use {options}")


def has_fresh_text_tower(run: Run) -> bool:
    """Whether the text tower is new and therefore needs a tokenizer."""
    s = run.settings
    return not s.model.source and (bool(s.model.name) or s.text.name in list_models())


def text_fields(run: Run, model: Contrastive, pairs: PairDataset[Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """({field of the model: value}, {"text": tokenizer}) for a tokenizer trained on the captions.

    Both are empty for a pretrained text tower.
    """
    if not has_fresh_text_tower(run):
        return {}, {}
    s, before = run.settings, model.tower("text").config
    overrides = s.model.overrides
    max_length = overrides.get("text.max_length", overrides.get("max_length", s.data.max_length))
    vocab_size = overrides.get("text.vocab_size", overrides.get("vocab_size", DEFAULT_VOCAB_SIZE))
    kind: Any = "bpe" if isinstance(before, DecoderConfig) else "wordpiece"
    texts = [text for captions in pairs.captions for text in captions]
    tokenizer = train(kind, texts, vocab_size, max_length=max_length, cache=tokenizer_cache(run))
    tokenizer = replace(tokenizer, types=False, truncate="warn")
    fields = {"max_length": max_length, **token_fields(before, tokenizer)}
    first_last = {"bos_token_id": tokenizer.id("cls"), "eos_token_id": tokenizer.id("sep")}
    fields |= {name: i for name, i in first_last.items() if i is not None and name in fields}
    return {f"text.{name}": value for name, value in fields.items()}, {"text": tokenizer}


def rebuild_model(run: Run, model: Contrastive, modalities: tuple[str, str], fields: dict[str, Any],
                  preprocess: dict[str, Any]) -> Contrastive:  # fmt: skip
    """Rebuild the model with the fields and the preprocessing that depend on the data."""
    if fields:
        model = build_model(run, modalities, fields)
    if preprocess:
        model.preprocess = replace(model.preprocess or MultimodalProcessor(), **preprocess)
    s = run.settings
    name = s.model.source or s.model.name or " + ".join(getattr(s, name).name for name in modalities)
    run.settings = replace(s, model=replace(s.model, name=name))
    return model


# --- data -------------------------------------------------------------------------------------------------------------


def with_validation(sets: PairSplits[Any], fraction: float, seed: int) -> list[PairDataset[Any]]:
    """[training, validation, test set]; without its own validation set, a fraction of the training set is held out."""
    if sets.validation is not None:
        return [sets.train, sets.validation, sets.test]
    if not fraction:
        return [sets.train, sets.test, sets.test]
    held = held_out_mask(torch.zeros(len(sets.train), dtype=torch.int64), fraction, seed)
    if held.all() or held.sum() < 2:
        raise SettingsError(
            f"val_fraction={fraction} of {len(sets.train)} training pairs: expected at least two pairs for validation, "
            f"and some for training"
        )
    return [sets.train.take((~held).nonzero()[:, 0]), sets.train.take(held.nonzero()[:, 0]), sets.test]


def pair_rows(run: Run, model: Contrastive, pairs: PairDataset[Any], items: Any, training: bool) -> PairRows:
    """A dataset of items and tokenized captions."""
    preprocess, s = model.preprocess.text, run.settings
    return PairRows(pairs, items, preprocess, seed=s.seed if training else None,
                    max_length=min(s.data.max_length, preprocess.max_length))  # fmt: skip


def pair_datamodule(run: Run, rows: Sequence[PairRows], prepare: Callable[..., Any]) -> PairDataModule:
    """Data module of the settings."""
    s, (train, val, test) = run.settings, rows
    return PairDataModule(
        train, val, test, s.data.batch_size, prepare=prepare, seed=s.seed, num_workers=s.data.num_workers
    )


def note_skipped(run: Run, sets: PairSplits[Any]) -> None:
    """List skipped files in `skipped.txt` in the run folder."""
    assert run.folder is not None
    if sets.skipped and distributed.rank() == 0:
        write_text(run.folder.path / "skipped.txt", "".join(f"{line}\n" for line in sets.skipped))
