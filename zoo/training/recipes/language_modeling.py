"""Language modeling recipes: text, tokenizer, model and task from settings; generated samples."""

from pathlib import Path
from typing import Any

import lightning as L
import torch
from rich.markup import escape
from torch import Tensor

from zoo.data.splits import held_out_mask
from zoo.data.text.corpus import Corpus, chunks_of, ids_of, load_corpus, text_tokenizer
from zoo.data.text.datamodule import GroupedByLengthDataModule, TextChunks, TokenDataset
from zoo.inference.generation.generate import generate
from zoo.models.base import Model
from zoo.preprocessing.text import TextProcessor
from zoo.tasks.language_modeling import CausalLMTask, MaskedLMTask
from zoo.training.parse import SettingsError
from zoo.training.recipes.text import (
    DEFAULT_VOCAB_SIZE,
    create_fresh_model,
    fresh_model_with_tokenizer,
    initial_model,
    token_fields,
    tokenizer_cache,
)
from zoo.training.result import DatasetInfo
from zoo.training.run import Run
from zoo.utils.console import console
from zoo.utils.errors import DataError


def open_stream(run: Run) -> tuple[Model, GroupedByLengthDataModule, str]:
    """Create a decoder and split one long text into chunks; the last `val_fraction` is the validation and test set.

    Returns: the model, the data module, and a default prompt for samples. Raises: SettingsError, RunError.
    """
    model = initial_model(run, "lm")
    try:
        corpus = load_corpus(run.settings.data)
        text = "\n".join(corpus.texts)
        cut = int(len(text) * (1 - run.settings.trainer.val_fraction))
        if cut == len(text):
            raise SettingsError("val_fraction=0 leaves no text for validation: use e.g. val_fraction=0.1")
        preprocess = model.preprocess
        if not run.settings.model.source:
            preprocess = train_tokenizer(run, text, cut, model.config.max_length)
        length = model.config.max_length
        s = run.settings
        train = TextChunks(ids_of(text[:cut], preprocess), length, moving=True, seed=s.seed)
        held_out = TextChunks(ids_of(text[cut:], preprocess), length)
        open_run(run, corpus, train, held_out)
        s = run.settings
        if not s.model.source:
            model = create_fresh_model(run, head="lm", **token_fields(model.config, preprocess))
        model.preprocess = preprocess
        data = GroupedByLengthDataModule(
            train, held_out, held_out, s.data.batch_size, seed=s.seed, num_workers=s.data.num_workers
        )
        return model, data, text.split()[0]
    except (DataError, ValueError) as error:
        raise error if isinstance(error, SettingsError) else SettingsError(str(error)) from error


def train_tokenizer(run: Run, text: str, cut: int, max_length: int) -> TextProcessor:
    """A tokenizer with all characters of the text, or BPE trained on the training part `text[:cut]`."""
    s = run.settings
    size = s.model.overrides.get("vocab_size", DEFAULT_VOCAB_SIZE)
    training_text = text if s.data.tokens == "characters" else text[:cut]
    return text_tokenizer(training_text, s.data.tokens, size, max_length, tokenizer_cache(run))


def open_lines(run: Run) -> tuple[Model, GroupedByLengthDataModule]:
    """Create an encoder and load separate texts; a random fraction of them is the validation and test set.

    Raises: SettingsError, RunError.
    """
    model = initial_model(run, "masked_lm")
    try:
        corpus = load_corpus(run.settings.data, synthetic="sentences")
        lines = corpus.lines
        held = held_out_mask(
            torch.zeros(len(lines), dtype=torch.int64), run.settings.trainer.val_fraction, run.settings.seed
        )
        parts = [[line for line, out in zip(lines, held.tolist()) if out == part] for part in (False, True)]
        if not all(parts):
            raise SettingsError(f"{corpus.source} has {len(lines)} lines, which is too few for a validation set")
        if not run.settings.model.source:
            model = fresh_model_with_tokenizer(run, parts[0], "masked_lm")
        train, val = (token_set(part, model.preprocess, run.settings.data.max_length) for part in parts)
        open_run(run, corpus, train, val)
        s = run.settings
        data = GroupedByLengthDataModule(
            train,
            val,
            val,
            s.data.batch_size,
            group_by_length=s.data.group_by_length,
            seed=s.seed,
            num_workers=s.data.num_workers,
        )
        return model, data
    except (DataError, ValueError) as error:
        raise error if isinstance(error, SettingsError) else SettingsError(str(error)) from error


def token_set(lines: list[str], preprocess: TextProcessor, max_length: int) -> TokenDataset:
    """Tokenized lines with special tokens; lines that are too long are split."""
    ids, types = chunks_of(lines, preprocess, max_length)
    return TokenDataset(ids, pad=preprocess.id("pad") or 0, types=types if preprocess.types else None)


def open_run(run: Run, corpus: Corpus, train: Any, held_out: Any) -> None:
    """Open the run folder; the held-out part counts as the test set."""
    run.open(DatasetInfo(corpus.name, corpus.real, corpus.source, len(train), len(held_out)))


def causal_lm_task(run: Run, model: Model) -> CausalLMTask:
    """Create the task from the settings. Raises: SettingsError."""
    s = run.settings
    try:
        return CausalLMTask(model, optim=s.optim, ema=s.trainer.ema, seed=s.seed)
    except ValueError as error:
        raise SettingsError(str(error)) from error


def masked_lm_task(run: Run, model: Model) -> MaskedLMTask:
    """Create the task from the settings. Raises: SettingsError, e.g. for a tokenizer without a mask token."""
    s, preprocess = run.settings, model.preprocess
    mask = preprocess.id("mask")
    if mask is None:
        raise SettingsError("the tokenizer has no mask token, which masked language modeling needs")
    special = tuple(sorted({i for name in preprocess.special if (i := preprocess.id(name)) is not None}))
    try:
        return MaskedLMTask(model, mask_id=mask, special=special, mask_probability=s.task.mask_probability,
                            optim=s.optim, ema=s.trainer.ema, seed=s.seed)  # fmt: skip
    except ValueError as error:
        raise SettingsError(str(error)) from error


class SampleText(L.Callback):
    """Generates text after each validation, prints it and appends it to `samples.txt` in the run folder.

    Args:
        folder: The run folder.
        prompt: Prompt of the sample.
        length: Number of tokens to generate; 0 generates none.
        temperature: Sampling temperature.
        seed: Seed of the sampling.
    """

    def __init__(self, folder: Path, prompt: str, *, length: int, temperature: float, seed: int) -> None:
        self.file, self.prompt, self.length = folder / "samples.txt", prompt, length
        self.temperature, self.seed = temperature, seed

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Generate a sample. It has its own random numbers, so training is not affected."""
        if not self.length or not trainer.is_global_zero or trainer.state.fn != "fit" or trainer.world_size > 1:
            return
        model: Any = pl_module.evaluated
        text = generate_text(model, self.prompt, self.length, self.temperature, self.seed)
        line = f"[dim]{'-' * 20}[/dim]"
        console().print(line, escape(text), line, sep="\n")
        with open(self.file, "a", encoding="utf-8") as file:
            file.write(f"--- step {trainer.global_step}\n{text}\n")


def generate_text(model: Model, prompt: str, length: int, temperature: float, seed: int) -> str:
    """The prompt and `length` new tokens. Beyond the model's maximum length, the context is the latest half of it."""
    max_length = model.config.max_length
    prompt_ids: Tensor = model.preprocess(prompt, truncate="cut")["input_ids"].to(model.device)
    ids, turn = prompt_ids, 0
    while ids.shape[1] < prompt_ids.shape[1] + length:
        context = ids[:, -max(1, max_length // 2) :]
        count = min(max_length - context.shape[1], prompt_ids.shape[1] + length - ids.shape[1])
        new = generate(model, context, max_new_tokens=max(1, count), temperature=temperature, seed=seed + turn,
                       eos_token_id=None)  # fmt: skip
        ids, turn = torch.cat([ids, new[:, context.shape[1] :]], 1), turn + 1
    return model.preprocess.decode(ids[0])
