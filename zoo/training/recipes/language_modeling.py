"""What the recipes of language modeling do with their settings: text, tokenizer, model, task, samples."""

from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from zoo.data.splits import held_out_mask
from zoo.data.text.corpus import Corpus, chunks_of, ids_of, load_corpus, text_tokenizer
from zoo.data.text.datamodule import GroupedByLengthDataModule, TextChunks, TokenDataset
from zoo.inference.generation.generate import generate
from zoo.models.base import Model
from zoo.preprocessing.text import TextProcessor
from zoo.tasks.language_modeling import CausalLMTask, MaskedLMTask
from zoo.training.parse import SettingsError
from zoo.training.recipes.text import VOCABULARY, fresh, make, start, token_fields, tokenizer_cache
from zoo.training.result import DatasetInfo
from zoo.training.run import Run
from zoo.utils.console import console
from zoo.utils.errors import DataError


def open_stream(run: Run) -> tuple[Model, GroupedByLengthDataModule, str]:
    """A decoder and one long text in pieces as long as it reads; the last `val_fraction` of it validates, and tests.

    Returns: the model, the data, and a beginning for samples. Raises: SettingsError, RunError.
    """
    model = start(run, "lm")
    try:
        corpus = load_corpus(run.settings.data)
        text = "\n".join(corpus.texts)
        cut = int(len(text) * (1 - run.settings.trainer.val_fraction))
        if cut == len(text):
            raise SettingsError("val_fraction=0 leaves nothing to validate on: take the last tenth, val_fraction=0.1")
        preprocess = model.preprocess
        if not run.settings.model.source:
            preprocess = learned(run, text, cut, model.config.max_length)
        length = model.config.max_length
        s = run.settings
        train = TextChunks(ids_of(text[:cut], preprocess), length, moving=True, seed=s.seed)
        held = TextChunks(ids_of(text[cut:], preprocess), length)
        open_run(run, corpus, train, held)
        s = run.settings
        if not s.model.source:
            model = make(run, head="lm", **token_fields(model.config, preprocess))
        model.preprocess = preprocess
        return (
            model,
            GroupedByLengthDataModule(
                train, held, held, s.data.batch_size, seed=s.seed, num_workers=s.data.num_workers
            ),
            text.split()[0],
        )
    except (DataError, ValueError) as error:
        raise error if isinstance(error, SettingsError) else SettingsError(str(error)) from error


def learned(run: Run, text: str, cut: int, max_length: int) -> TextProcessor:
    """A tokenizer: all characters of a text, or the pairs that are frequent in what is trained on."""
    s = run.settings
    size = s.model.overrides.get("vocab_size", VOCABULARY)
    seen = text if s.data.tokens == "characters" else text[:cut]
    return text_tokenizer(seen, s.data.tokens, size, max_length, tokenizer_cache(run))


def open_lines(run: Run) -> tuple[Model, GroupedByLengthDataModule]:
    """An encoder and texts of their own; a seeded share of them validates, and tests.

    Raises: SettingsError, RunError.
    """
    model = start(run, "masked_lm")
    try:
        corpus = load_corpus(run.settings.data, synthetic="sentences")
        lines = corpus.lines
        held = held_out_mask(
            torch.zeros(len(lines), dtype=torch.int64), run.settings.trainer.val_fraction, run.settings.seed
        )
        sides = [[line for line, out in zip(lines, held.tolist()) if out == side] for side in (False, True)]
        if not sides[0]:
            raise SettingsError(f"{corpus.source} has {len(lines)} lines: too few to hold some out for validation")
        if not run.settings.model.source:
            model = fresh(run, sides[0], "masked_lm")
        train, val = (token_set(side, model.preprocess, run.settings.data.max_length) for side in sides)
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
    """Lines, cut where they are too long, with the tokens that stand around a text."""
    ids, types = chunks_of(lines, preprocess, max_length)
    return TokenDataset(ids, pad=preprocess.id("pad") or 0, types=types if preprocess.types else None)


def open_run(run: Run, corpus: Corpus, train: Any, held: Any) -> None:
    """The run folder; the facts say what is validated and tested on."""
    run.open(DatasetInfo(corpus.name, corpus.real, corpus.source, len(train), len(held)))


def next_token(run: Run, model: Model) -> CausalLMTask:
    """The task of the settings. Raises: SettingsError."""
    s = run.settings
    try:
        return CausalLMTask(model, optim=s.optim, ema=s.trainer.ema, seed=s.seed)
    except ValueError as error:
        raise SettingsError(str(error)) from error


def masked_token(run: Run, model: Model) -> MaskedLMTask:
    """The task of the settings. Raises: SettingsError for a tokenizer without a mask."""
    s, preprocess = run.settings, model.preprocess
    mask = preprocess.id("mask")
    if mask is None:
        raise SettingsError("the tokenizer has no mask token: masked-token training needs one")
    special = tuple(sorted({i for name in preprocess.special if (i := preprocess.id(name)) is not None}))
    try:
        return MaskedLMTask(model, mask_id=mask, special=special, mask_probability=s.task.mask_probability, optim=s.optim, ema=s.trainer.ema,
                           seed=s.seed)  # fmt: skip
    except ValueError as error:
        raise SettingsError(str(error)) from error


class Samples(L.Callback):
    """Has the model write after each validation: to the terminal, and into `samples.txt` of the run folder.

    Args:
        prompt: How the text begins.
        length: Tokens that are written; 0 writes none.
    """

    def __init__(self, folder: Path, prompt: str, *, length: int, temperature: float, seed: int) -> None:
        self.file, self.prompt, self.length = folder / "samples.txt", prompt, length
        self.temperature, self.seed = temperature, seed

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write a sample; draws of its own, so that the run stays what it is without it."""
        if not self.length or not trainer.is_global_zero or trainer.state.fn != "fit" or trainer.world_size > 1:
            return
        model: Any = pl_module.evaluated
        text = write(model, self.prompt, self.length, self.temperature, self.seed)
        console().print(f"[dim]{'-' * 20}[/dim]", text, f"[dim]{'-' * 20}[/dim]", sep="\n", markup=True)
        with open(self.file, "a", encoding="utf-8") as file:
            file.write(f"--- step {trainer.global_step}\n{text}\n")


def write(model: Model, prompt: str, length: int, temperature: float, seed: int) -> str:
    """`length` tokens behind a prompt, also more than the model reads at once: it then goes on from the later half."""
    most = model.config.max_length
    ids: Tensor = model.preprocess(prompt, truncate="cut")["input_ids"].to(model.device)
    written, turn = ids, 0
    while written.shape[1] < ids.shape[1] + length:
        seen = written[:, -max(1, most // 2) :]
        count = min(most - seen.shape[1], ids.shape[1] + length - written.shape[1])
        new = generate(model, seen, max_new_tokens=max(1, count), temperature=temperature, seed=seed + turn,
                       eos_token_id=None)  # fmt: skip
        written, turn = torch.cat([written, new[:, seen.shape[1] :]], 1), turn + 1
    return model.preprocess.decode(written[0])
