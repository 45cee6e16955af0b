"""What the recipes of pairs do with their settings: towers, tokenizer, data, validation set, task."""

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
from zoo.training.recipes.text import asked, token_fields, tokenizer_cache
from zoo.training.result import DatasetInfo
from zoo.training.run import Run
from zoo.training.run_dir import write_text
from zoo.utils import distributed
from zoo.utils.errors import DataError

VOCABULARY = 4000  # tokens that are learned where `text.vocab_size=` says nothing


def open_image_pairs(run: Run) -> tuple[Contrastive, PairDataModule, PairSplits[torch.Tensor]]:
    """The model, checked before data is touched; then the data; then the run folder. The model knows both.

    Raises: SettingsError, RunError.
    """
    run.expect("synthetic" if run.settings.data.name == "auto" else run.settings.data.name)
    model = start(run, ("image", "text"))
    try:
        tower = model.tower("image")
        preprocess = (model.preprocess and model.preprocess.image) or tower.default_preprocess()
        size = pair(tower.config.image_size)
        sets = load_pairs(run.settings.data, size=size, fit=ResizeAndCrop(preprocess), seed=run.settings.seed)
        run.open(DatasetInfo(sets.name, sets.real, sets.source, len(sets.train), len(sets.test)))
        note_skipped(run, sets)
        parts = with_validation(sets, run.settings.trainer.val_fraction, run.settings.seed)
        model = remade(run, model, ("image", "text"), *text_fields(run, model, parts[0]))
        prepare = ImageBatch(run.settings.data.augment, preprocess, may_be_mirrored(parts[0]))
        rows = [pair_rows(run, model, each, {"pixel_values": each.items}, n == 0) for n, each in enumerate(parts)]
        data = pair_datamodule(run, rows, prepare)
        data.test_pairs = sets.test
        return model, data, sets
    except (DataError, ValueError) as error:
        raise error if isinstance(error, SettingsError) else SettingsError(str(error)) from error


def contrast_task(run: Run, model: Contrastive) -> ContrastiveTask:
    """The task of the settings. Raises: SettingsError."""
    s = run.settings
    if s.trainer.accumulate_grad_batches > 1:
        raise SettingsError(f"accumulate_grad_batches={s.trainer.accumulate_grad_batches}: pairs of different micro-batches would never be "
                            f"contrasted; grad_cache_size={max(1, s.data.batch_size // s.trainer.accumulate_grad_batches)} takes as little "
                            f"memory, and has the gradients of the whole batch")  # fmt: skip
    try:
        return ContrastiveTask(model, loss_chunk_size=s.task.loss_chunk_size or None, grad_cache_size=s.task.grad_cache_size or None,
                               duplicates=s.task.duplicates, optim=s.optim, ema=s.trainer.ema, seed=s.seed)  # fmt: skip
    except ValueError as error:
        raise SettingsError(str(error)) from error


# --- models -----------------------------------------------------------------------------------------------------------


def start(run: Run, modalities: tuple[str, str]) -> Contrastive:
    """The model of the settings; the vocabulary of a fresh text tower is yet to come.

    Raises: SettingsError with what `zoo.contrast`, `zoo.load` or `zoo.create_model` has to say.
    """
    try:
        model = make(run, modalities)
    except (ValueError, TypeError) as error:
        raise SettingsError(str(error)) from error
    for name in modalities:
        if name not in model.modalities:
            raise SettingsError(f"the model has the towers {', '.join(model.modalities)}: expected {name} among them")
    if not fresh_text(run) and not (model.preprocess and isinstance(model.preprocess.text, TextProcessor)):
        raise SettingsError(f"{run.settings.model.source or run.settings.text.name} has no tokenizer: expected its "
                            f"tokenizer.json beside it")  # fmt: skip
    return model


def make(run: Run, modalities: tuple[str, str], learned: Mapping[str, Any] | None = None) -> Contrastive:
    """The towers of the settings as one model. learned: fields that the data decides, `{"text.vocab_size": 300}`."""
    s, learned = run.settings, learned or {}
    if s.model.source:
        asked_loss = {"loss": s.task.loss} if "task.loss" in run.words.values else {}
        model: Any = load(s.model.source, **asked(run) | asked_loss).train()
        if not isinstance(model, Contrastive):
            raise ValueError(f"model.source={s.model.source} is a {model.family}, expected a model of several towers; "
                             f"a tower is given as image.name=, text.name= or audio.name=")  # fmt: skip
    elif s.model.name:
        if find_variant(s.model.name).modality != "multimodal":
            raise ValueError(f"model={s.model.name} is one tower: give it as image.name=, text.name= or audio.name=")
        model = create_model(s.model.name, seed=s.seed, **asked(run) | dict(learned))
    else:
        towers, own = aimed(run, modalities)
        for name, value in learned.items():
            tower, _, field = name.partition(".")
            towers[tower][field] = value
        parts: dict[str, Any] = {**towers, **own}
        model = contrast(**parts, loss=s.task.loss, seed=s.seed)
    for name in modalities:
        if (tower := getattr(s, name)).locked and name in model.modalities:
            model.lock(name, tower.unlocked)
    return model


def aimed(run: Run, modalities: tuple[str, str]) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """({tower: name and fields}, fields of the common space) as the settings say.

    A field without an aim goes to the one tower that has it; attention, mixer and dropout go to both. What the recipe's
    own file says of a tower is meant for the tower that it names, and does not touch another.
    """
    s, by_user = run.settings, asked(run)
    towers: dict[str, dict[str, Any]] = {name: {"name": getattr(s, name).name} for name in modalities}
    own: dict[str, Any] = {}
    for name, value in s.model.overrides.items():
        aim, _, field = name.partition(".")
        if name == "width":  # of the common space
            own[name] = value
        elif field and aim in towers:
            if name in by_user or not named_by_user(run, aim):
                towers[aim][field] = value
        elif name in EVERYWHERE:
            for fields in towers.values():
                fields.setdefault(name, value)
        else:
            towers[only_taker(run, name, modalities)][name] = value
    return towers, own


def named_by_user(run: Run, modality: str) -> bool:
    """Whether the command line, or `config=`, names a tower."""
    given: Mapping[str, Any] = run.words.values
    if run.words.config:
        given = {**parse.read_yaml(Path(run.words.config), run.cls), **given}
    return f"{modality}.name" in given


def only_taker(run: Run, field: str, modalities: tuple[str, str]) -> str:
    """The one tower whose config has a field. Raises: ValueError for none and for several."""
    takers = []
    for modality in modalities:
        name = getattr(run.settings, modality).name
        if name in list_models() and field in find_variant(name).config.names():
            takers.append(modality)
    if len(takers) == 1:
        return takers[0]
    ways = " or ".join(f"{modality}.{field}=" for modality in takers or modalities)
    raise ValueError(f"{field}= is a field of {'several towers' if takers else 'no tower'}: say {ways}")


def fresh_text(run: Run) -> bool:
    """Whether the text tower begins with nothing, and so without a tokenizer."""
    s = run.settings
    return not s.model.source and (bool(s.model.name) or s.text.name in list_models())


def text_fields(run: Run, model: Contrastive, pairs: PairDataset[Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """({field of the model: value}, {"text": tokenizer}) as the captions teach them; empty for a tower that knows."""
    if not fresh_text(run):
        return {}, {}
    s, before = run.settings, model.tower("text").config
    given = s.model.overrides
    longest = given.get("text.max_length", given.get("max_length", s.data.max_length))
    wanted = given.get("text.vocab_size", given.get("vocab_size", VOCABULARY))
    kind: Any = "bpe" if isinstance(before, DecoderConfig) else "wordpiece"
    texts = [text for captions in pairs.captions for text in captions]
    tokenizer = train(kind, texts, wanted, max_length=longest, cache=tokenizer_cache(run))
    tokenizer = replace(tokenizer, types=False, truncate="warn")
    fields = {"max_length": longest, **token_fields(before, tokenizer)}
    ends = {"bos_token_id": tokenizer.id("cls"), "eos_token_id": tokenizer.id("sep")}  # what stands around a text
    fields |= {name: i for name, i in ends.items() if i is not None and name in fields}
    return {f"text.{name}": value for name, value in fields.items()}, {"text": tokenizer}


def remade(run: Run, model: Contrastive, modalities: tuple[str, str], fields: dict[str, Any],
           preprocess: dict[str, Any]) -> Contrastive:  # fmt: skip
    """The model with what the data decided."""
    if fields:
        model = make(run, modalities, fields)
    if preprocess:
        model.preprocess = replace(model.preprocess or MultimodalProcessor(), **preprocess)
    s = run.settings
    whole = s.model.source or s.model.name
    shown = whole or " + ".join(getattr(s, name).name for name in modalities)
    run.settings = replace(s, model=replace(s.model, name=shown))
    return model


# --- data -------------------------------------------------------------------------------------------------------------


def with_validation(sets: PairSplits[Any], share: float, seed: int) -> list[PairDataset[Any]]:
    """[training, validation, test]: validation is the data's own, else a share of the training, else the test."""
    if sets.validation is not None:
        return [sets.train, sets.validation, sets.test]
    if not share:
        return [sets.train, sets.test, sets.test]
    held = held_out_mask(torch.zeros(len(sets.train), dtype=torch.int64), share, seed)
    if held.all() or held.sum() < 2:
        raise SettingsError(
            f"val_fraction={share} of {len(sets.train)} training pairs: expected two or more on either side"
        )
    return [sets.train.take((~held).nonzero()[:, 0]), sets.train.take(held.nonzero()[:, 0]), sets.test]


def pair_rows(run: Run, model: Contrastive, pairs: PairDataset[Any], items: Any, training: bool) -> PairRows:
    """A set with its captions as tokens of the model."""
    preprocess, s = model.preprocess.text, run.settings
    return PairRows(pairs, items, preprocess, seed=s.seed if training else None,
                    max_length=min(s.data.max_length, preprocess.max_length))  # fmt: skip


def pair_datamodule(run: Run, rows: Sequence[PairRows], prepare: Callable[..., Any]) -> PairDataModule:
    """Batches of the settings."""
    s, (train, val, test) = run.settings, rows
    return PairDataModule(
        train, val, test, s.data.batch_size, prepare=prepare, seed=s.seed, num_workers=s.data.num_workers
    )


def note_skipped(run: Run, sets: PairSplits[Any]) -> None:
    """List what was left out in `skipped.txt` of the run folder."""
    assert run.folder is not None
    if sets.skipped and distributed.rank() == 0:
        write_text(run.folder.path / "skipped.txt", "".join(f"{line}\n" for line in sets.skipped))
