"""Text classification recipe: model, data, tokenizer and task from settings."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from rich.markup import escape
from torch import Tensor

from zoo.checkpoints import save
from zoo.checkpoints.create import create_model
from zoo.checkpoints.load import load
from zoo.data.text.datamodule import GroupedByLengthDataModule, TokenDataset
from zoo.data.text.dataset import TextDataset, TextSplits, groups
from zoo.data.text.load import load_texts
from zoo.models.base import Model
from zoo.models.text import DecoderConfig
from zoo.nn.heads import rescale_output
from zoo.preprocessing.text import TextProcessor
from zoo.preprocessing.tokenizer_training import train
from zoo.tasks.classification import ClassificationTask
from zoo.tasks.lora import add_lora
from zoo.tasks.problem_types import Unit, balanced, unit_of
from zoo.training.fit import run_card
from zoo.training.parse import SettingsError, read_yaml
from zoo.training.recipes.pretrained import load_classifier, set_classes
from zoo.training.recipes.val_split import train_val_split
from zoo.training.result import DatasetInfo, Result
from zoo.training.run import Run
from zoo.utils import distributed
from zoo.utils.console import console
from zoo.utils.errors import DataError
from zoo.utils.keyed_random import seed_for

DEFAULT_VOCAB_SIZE = 8000  # of a new tokenizer, unless `vocab_size=` is given


def open_texts(run: Run) -> tuple[Model, GroupedByLengthDataModule, TextSplits]:
    """Create the model, load the data and open the run folder, in this order, so that mistakes show early.

    Raises: SettingsError, RunError.
    """
    model = initial_model(run, "classify")
    try:
        sets = load_texts(run.settings.data, seed=run.settings.seed)
        run.open(DatasetInfo(sets.name, sets.real, sets.source, len(sets.train), len(sets.test), sets.test_name))
        train_set, val_set = train_val_split(
            sets, groups(sets.train.labels), run.settings.trainer.val_fraction, run.settings.seed, "texts"
        )
        if not run.settings.model.source:
            texts = [part for text in train_set.texts for part in ([text] if isinstance(text, str) else text)]
            model = fresh_model_with_tokenizer(run, texts, "classify", num_classes=len(sets.classes))
        elif set_classes(model, sets.classes, run.settings.seed) and sets.problem_type == "regression":
            # the pretrained head predicts unnormalized values
            mean, std = target_unit(model, train_set.labels, sets.problem_type)
            rescale_output(cast(Any, model.head).proj, -mean / std, 1 / std)
        model.labels = list(sets.classes)
        d, tokenizer = run.settings.data, model.preprocess
        # The saved model cuts texts where the run did, so that it predicts what was tested.
        model.preprocess = replace(tokenizer, max_length=min(d.max_length, tokenizer.max_length), truncate=d.truncate)
        check_export(run, model)
        return model, text_datamodule(run, model.preprocess, (train_set, val_set, sets.test)), sets
    except (DataError, ValueError) as error:
        raise SettingsError(str(error)) from error


def text_classifier(run: Run, model: Model, data: GroupedByLengthDataModule, sets: TextSplits) -> ClassificationTask:
    """Create the task from the settings, and add LoRA adapters to the model. Raises: SettingsError."""
    s = run.settings
    try:
        if s.lora.rank:
            add_lora(model, s.lora.rank, alpha=s.lora.alpha, dropout=s.lora.adapter_dropout, targets=s.lora.targets,
                     seed=seed_for(s.seed, s.lora.rank))  # fmt: skip
        weights = balanced(data.train.labels, len(sets.classes)) if s.task.class_weights == "balanced" else None
        return ClassificationTask(model, optim=s.optim, label_smoothing=s.task.label_smoothing,
                                  problem_type=sets.problem_type, class_weights=weights,
                                  unit=target_unit(model, data.train.labels, sets.problem_type),
                                  ema=s.trainer.ema, seed=s.seed)  # fmt: skip
    except ValueError as error:
        raise SettingsError(str(error)) from error


def target_unit(model: Any, labels: Tensor, problem_type: str) -> Unit:
    """(mean, std) by which regression targets are normalized; mean 0 if the head has no bias to restore it."""
    return unit_of(labels, centered=model.head.proj.bias is not None) if problem_type == "regression" else (0.0, 1.0)


def check_export(run: Run, model: Model) -> None:
    """Check before training that the model can be exported to the format of `export=`. Raises: ValueError."""
    if run.settings.export == "none" or distributed.rank() != 0:
        return
    try:
        save.check_export(model, run.settings.export)
    except ValueError as error:
        mean = getattr(model.config, "pool", "") == "mean"
        is_default = mean and not run.settings.model.source and "pool" not in user_overrides(run)
        pool = "last" if isinstance(model.config, DecoderConfig) else "cls"
        hint = f" (the default of this recipe is pool=mean: give pool={pool})" if is_default else ""
        raise ValueError(f"export={run.settings.export}: {error}{hint}") from error


def export_model(run: Run, result: Result) -> None:
    """Export the best model to the format of `export=`, if given."""
    assert run.folder is not None
    if run.settings.export == "none" or distributed.rank() != 0:
        return
    model, format = load(run.folder.model), run.settings.export
    folder = run.folder.path / format
    save.export(model, folder, format=format, readme=run_card(run, model, result, folder, format))
    console().print(f"[bold]exported  [/bold]{escape(str(folder))} (for {run.settings.export})")


def example_command(sets: TextSplits) -> list[str]:
    """A command that classifies a short text of the test set with the trained model."""
    if not sets.real:
        return ["zoo", "predict", "{model}", "the soup was cold but the evening was lovely ."]
    text = min(sets.test.texts[:50], key=lambda text: abs(40 - len("".join(text))))  # about 40 characters long
    return ["zoo", "predict", "{model}", *([text] if isinstance(text, str) else ["--pair", *text])]


# --- models -----------------------------------------------------------------------------------------------------------


def initial_model(run: Run, head: str) -> Model:
    """Create or load the model of the settings; a new model gets its tokenizer once the data is known.

    Raises: SettingsError with the message of `zoo.load` or `zoo.create_model`.
    """
    s = run.settings
    try:
        if not s.model.source:
            return create_fresh_model(run, head=head)
        overrides = user_overrides(run)
        if head == "classify":
            model = load_classifier(s.model.source, overrides)
        else:
            model = load(s.model.source, **{"head": head} | overrides).train()
    except (ValueError, TypeError) as error:
        raise SettingsError(str(error)) from error
    if not isinstance(model.preprocess, TextProcessor):
        raise SettingsError(f"model.source={s.model.source} has no tokenizer: expected a tokenizer.json in its folder")
    return model


def user_overrides(run: Run) -> dict[str, Any]:
    """Fields of the model given by the user; those of the recipe's YAML only apply to new models."""
    values: Mapping[str, Any] = run.command_line.values
    if run.command_line.config:
        values = {**read_yaml(Path(run.command_line.config), run.cls), **values}
    overrides = run.settings.model.overrides
    return {name: value for name, value in overrides.items() if f"model.overrides.{name}" in values}


def create_fresh_model(run: Run, **fields: Any) -> Model:
    """A new model with random weights."""
    s = run.settings
    return create_model(s.model.name, seed=s.seed, **s.model.overrides | fields)


def fresh_model_with_tokenizer(run: Run, texts: list[str], head: str, **fields: Any) -> Model:
    """A new model with a tokenizer trained on texts: WordPiece for encoders, BPE for decoders."""
    before = create_fresh_model(run, head=head)
    config = before.config
    vocab_size = run.settings.model.overrides.get("vocab_size", DEFAULT_VOCAB_SIZE)
    kind: Any = "bpe" if isinstance(config, DecoderConfig) else "wordpiece"
    preprocess = train(kind, texts, vocab_size, max_length=config.max_length, cache=tokenizer_cache(run))
    preprocess = replace(preprocess, types="token_type_ids" in before.inputs)
    model = create_fresh_model(run, head=head, **token_fields(config, preprocess), **fields)
    model.preprocess = preprocess
    return model


def token_fields(config: Any, preprocess: TextProcessor) -> dict[str, Any]:
    """Fields of a model that depend on its tokenizer."""
    fields = {"vocab_size": preprocess.vocab_size, "pad_token_id": preprocess.id("pad"),
             "bos_token_id": preprocess.id("bos"), "eos_token_id": preprocess.id("eos")}  # fmt: skip
    return {name: value for name, value in fields.items() if name in config.names()}


def tokenizer_cache(run: Run) -> Path:
    """Folder for trained tokenizers, next to the run folders."""
    base = Path(run.settings.run_dir or Path("runs") / run.recipe)
    return base.parent / "tokenizers"


# --- data -------------------------------------------------------------------------------------------------------------


def text_datamodule(
    run: Run, preprocess: TextProcessor, parts: tuple[TextDataset, TextDataset, TextDataset]
) -> GroupedByLengthDataModule:
    """Data module of tokenized texts."""
    d = run.settings.data
    train_set, val_set, test_set = (
        TokenDataset.of(part.texts, preprocess, part.labels, max_length=d.max_length, truncate=d.truncate)
        for part in parts
    )
    return GroupedByLengthDataModule(train_set, val_set, test_set, d.batch_size, group_by_length=d.group_by_length,
                                     seed=run.settings.seed, num_workers=d.num_workers)  # fmt: skip
