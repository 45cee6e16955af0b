"""What every recipe of text classification does with its settings: model, data, tokens, task."""

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from torch import Tensor

from zoo.checkpoints.create import create_model
from zoo.checkpoints.load import load
from zoo.checkpoints.save import export
from zoo.data.splits import held_out_mask
from zoo.data.text.datamodule import GroupedByLengthDataModule, TokenDataset
from zoo.data.text.dataset import TextDataset, TextSplits, groups
from zoo.data.text.load import load_texts
from zoo.models.base import Model
from zoo.models.text import DecoderConfig
from zoo.nn.heads import rescale
from zoo.preprocessing.text import TextProcessor
from zoo.preprocessing.tokenizer_training import train
from zoo.tasks.classification import ClassificationTask
from zoo.tasks.lora import add_lora
from zoo.tasks.problem_types import Unit, balanced, unit_of
from zoo.training.fit import write_card
from zoo.training.parse import SettingsError, read_yaml
from zoo.training.result import DatasetInfo, Result
from zoo.training.run import Run
from zoo.utils import distributed
from zoo.utils.console import console
from zoo.utils.errors import DataError
from zoo.utils.keyed_random import seed_for

VOCABULARY = 8000  # tokens that are learned where `vocab_size=` says nothing


def open_texts(run: Run) -> tuple[Model, GroupedByLengthDataModule, TextSplits]:
    """The model, checked before data is touched; then the data; then the run folder. The model knows both.

    Raises: SettingsError, RunError.
    """
    model = start(run, "classify")
    try:
        sets = load_texts(run.settings.data, seed=run.settings.seed)
        run.open(DatasetInfo(sets.name, sets.real, sets.source, len(sets.train), len(sets.test)))
        train_set, val_set = parts(sets, run.settings.trainer.val_fraction, run.settings.seed)
        if not run.settings.model.source:
            words = [part for text in train_set.texts for part in ([text] if isinstance(text, str) else text)]
            model = fresh(run, words, "classify", num_classes=len(sets.classes))
        elif model.labels != sets.classes:
            model.reset_head(len(sets.classes), seed=run.settings.seed)
        elif sets.problem_type == "regression":  # the head that it brings answers in the numbers' own unit
            mean, std = unit(model, train_set.labels, sets.problem_type)
            rescale(cast(Any, model.head).proj, -mean / std, 1 / std)
        model.labels = list(sets.classes)
        check_export(run, model)
        return model, text_datamodule(run, model.preprocess, (train_set, val_set, sets.test)), sets
    except (DataError, ValueError) as error:
        raise SettingsError(str(error)) from error


def text_classifier(run: Run, model: Model, data: GroupedByLengthDataModule, sets: TextSplits) -> ClassificationTask:
    """The task of the settings, adapters put into the model. Raises: SettingsError."""
    s = run.settings
    try:
        if s.lora.rank:
            add_lora(model, s.lora.rank, alpha=s.lora.alpha, dropout=s.lora.adapter_dropout, targets=s.lora.targets,
                     seed=seed_for(s.seed, s.lora.rank))  # fmt: skip
        weights = balanced(data.train.labels, len(sets.classes)) if s.task.class_weights == "balanced" else None
        return ClassificationTask(model, optim=s.optim, label_smoothing=s.task.label_smoothing, problem_type=sets.problem_type,
                        class_weights=weights, unit=unit(model, data.train.labels, sets.problem_type), ema=s.trainer.ema,
                        seed=s.seed)  # fmt: skip
    except ValueError as error:
        raise SettingsError(str(error)) from error


def unit(model: Any, labels: Tensor, problem_type: str) -> Unit:
    """What numbers are learned in: of mean 0, where the head has a bias to put it back, and standard deviation 1."""
    return unit_of(labels, centered=model.head.proj.bias is not None) if problem_type == "regression" else (0.0, 1.0)


def check_export(run: Run, model: Model) -> None:
    """Raises: ValueError, before training, for a model that the library of `export=` cannot express."""
    if run.settings.export == "none" or distributed.rank() != 0:
        return
    with TemporaryDirectory() as folder:
        try:
            export(model, Path(folder) / "model", format=run.settings.export)
        except ValueError as error:
            mean = getattr(model.config, "pool", "") == "mean"
            fresh_pool = mean and not run.settings.model.source and "pool" not in asked(run)
            usual = "last" if isinstance(model.config, DecoderConfig) else "cls"
            hint = f" (this recipe's fresh models have pool=mean: give pool={usual})" if fresh_pool else ""
            raise ValueError(f"export={run.settings.export}: {error}{hint}") from error


def export_model(run: Run, result: Result) -> None:
    """Write the best model for another library, if the settings say so."""
    assert run.folder is not None
    if run.settings.export == "none" or distributed.rank() != 0:
        return
    model, format = load(run.folder.model), run.settings.export
    folder = export(model, run.folder.path / format, format=format)
    write_card(run, model, result, folder, format)
    console().print(f"[bold]exported  [/bold]{folder} (for {run.settings.export})")


def try_text(sets: TextSplits) -> str:
    """A command that asks the model about a text of the test set, a short one."""
    if not sets.real:
        return 'zoo predict {model} "the soup was cold but the evening was lovely ."'
    text = min(sets.test.texts[:50], key=lambda text: abs(40 - len("".join(text))))  # neither a word nor a page
    words = shlex.quote(text) if isinstance(text, str) else f"--pair {shlex.join(text)}"
    return f"zoo predict {{model}} {words}"


# --- models -----------------------------------------------------------------------------------------------------------


def start(run: Run, head: str) -> Model:
    """The model of the settings with a head: from a source with its tokenizer, or fresh, its vocabulary yet to come.

    Raises: SettingsError with what `zoo.load` or `zoo.create_model` has to say.
    """
    s = run.settings
    try:
        if not s.model.source:
            return make(run, head=head)
        model = load(s.model.source, **{"head": head} | asked(run)).train()
    except (ValueError, TypeError) as error:
        raise SettingsError(str(error)) from error
    if not isinstance(model.preprocess, TextProcessor):
        raise SettingsError(f"model.source={s.model.source} has no tokenizer: expected its tokenizer.json beside it")
    return model


def asked(run: Run) -> dict[str, Any]:
    """The model's fields that the user gave: what the recipe's own file says is meant for fresh models."""
    given: Mapping[str, Any] = run.words.values
    if run.words.config:
        given = {**read_yaml(Path(run.words.config), run.cls), **given}
    fields = run.settings.model.overrides
    return {name: value for name, value in fields.items() if f"model.overrides.{name}" in given}


def make(run: Run, **fields: Any) -> Model:
    """A fresh model by its name."""
    s = run.settings
    return create_model(s.model.name, seed=s.seed, **s.model.overrides | fields)


def fresh(run: Run, texts: list[str], head: str, **fields: Any) -> Model:
    """A fresh model with a tokenizer learned from texts: WordPiece for encoders, BPE for decoders."""
    before = make(run, head=head)
    config = before.config
    wanted = run.settings.model.overrides.get("vocab_size", VOCABULARY)
    kind: Any = "bpe" if isinstance(config, DecoderConfig) else "wordpiece"
    preprocess = train(kind, texts, wanted, max_length=config.max_length, cache=tokenizer_cache(run))
    preprocess = replace(preprocess, types="token_type_ids" in before.inputs)
    model = make(run, head=head, **token_fields(config, preprocess), **fields)
    model.preprocess = preprocess
    return model


def token_fields(config: Any, preprocess: TextProcessor) -> dict[str, Any]:
    """The fields of a model that its tokenizer decides."""
    found = {"vocab_size": preprocess.vocab_size, "pad_token_id": preprocess.id("pad"),
             "bos_token_id": preprocess.id("bos"), "eos_token_id": preprocess.id("eos")}  # fmt: skip
    return {name: value for name, value in found.items() if name in config.names()}


def tokenizer_cache(run: Run) -> Path:
    """Learned tokenizers, beside the run folders."""
    base = Path(run.settings.run_dir or Path("runs") / run.recipe)
    return base.parent / "tokenizers"


# --- data -------------------------------------------------------------------------------------------------------------


def parts(sets: TextSplits, share: float, seed: int) -> tuple[TextDataset, TextDataset]:
    """(training set, validation set): the given one, else a share of the training set, else the test set."""
    if sets.validation is not None:
        return sets.train, sets.validation
    if not share:
        return sets.train, sets.test
    held = held_out_mask(groups(sets.train.labels), share, seed)
    if held.all():
        raise SettingsError(f"val_fraction={share} leaves none of {len(sets.train)} training texts")
    return sets.train.take((~held).nonzero()[:, 0]), sets.train.take(held.nonzero()[:, 0])


def text_datamodule(
    run: Run, preprocess: TextProcessor, given: tuple[TextDataset, TextDataset, TextDataset]
) -> GroupedByLengthDataModule:
    """Texts as tokens, in batches of the settings."""
    d = run.settings.data
    train_set, val_set, test_set = (
        TokenDataset.of(one.texts, preprocess, one.labels, max_length=d.max_length, truncate=d.truncate)
        for one in given
    )
    return GroupedByLengthDataModule(train_set, val_set, test_set, d.batch_size, group_by_length=d.group_by_length,
                                     seed=run.settings.seed, num_workers=d.num_workers)  # fmt: skip
