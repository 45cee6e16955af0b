"""What a language model takes from the data: its tokenizer; and text that it generates while it learns."""

from pathlib import Path
from typing import Any

import lightning as L
import torch
from rich.markup import escape
from torch import Tensor

from zoo.data.config import StreamSettings
from zoo.data.splits import Splits
from zoo.data.text.corpus import Corpus, text_tokenizer
from zoo.data.text.datamodule import TextLinesDataModule
from zoo.inference.generation.generate import generate
from zoo.models.base import Model
from zoo.preprocessing.text import TextProcessor
from zoo.tasks.language_modeling import MaskedLMTask
from zoo.tasks.masked_residues import MaskedResidueTask, SiteFrequencies
from zoo.training.parse import SettingsError
from zoo.training.recipes.text import DEFAULT_VOCAB_SIZE, token_fields, tokenizer_cache
from zoo.training.run import Run
from zoo.utils.console import console


def fit_to_text(run: Run, model: Model, text: Splits[Corpus]) -> Model:
    """The model for one long text: a new one has its characters as tokens, or BPE tokens trained on the training part.

    A pretrained model keeps its tokenizer. Raises: SettingsError if `tokens=` is given for it.
    """
    c = run.config
    if c.model.source:
        if "data.tokens" in run.command_line.values:
            raise SettingsError(f"tokens={c.data.tokens}: model.source={c.model.source} has its own tokenizer; omit "
                                f"tokens=")  # fmt: skip
        return model
    size = c.model.overrides.get("vocab_size", DEFAULT_VOCAB_SIZE)
    tokenizer = text_tokenizer(text, c.data.tokens, size, model.config.max_length, tokenizer_cache(run))
    model = run.build_model("lm", **token_fields(model.config, tokenizer))
    model.preprocess = tokenizer
    return model


def check_packing(model: Model, settings: StreamSettings) -> None:
    """Raise SettingsError for a model that cannot keep the documents of packed rows apart."""
    if settings.packing == "documents" and "document_ids" not in model.inputs:
        raise SettingsError(f"packing=documents: a {model.family} model cannot keep the documents of a row apart; set "
                            f"packing=concatenate")  # fmt: skip


def mask_tokens(tokenizer: TextProcessor) -> tuple[int, tuple[int, ...]]:
    """(id of the mask token, ids of the special tokens, which are not masked).

    Raises: ValueError for a tokenizer without a mask token.
    """
    mask = tokenizer.id("mask")
    if mask is None:
        raise ValueError("the tokenizer has no mask token, which masked language modeling needs")
    return mask, tuple(sorted({i for name in tokenizer.special if (i := tokenizer.id(name)) is not None}))


def masked_lm_task(run: Run, model: Model, data: TextLinesDataModule) -> MaskedLMTask:
    """Masked language modeling; for proteins with a prediction by frequencies beside it, of each site of a family if
    the sequences are aligned."""
    c = run.config
    mask_id, special = mask_tokens(model.preprocess)
    options: dict[str, Any] = dict(mask_id=mask_id, special=special, mask_probability=c.task.mask_probability,
                                   optim=c.optim, ema=c.trainer.ema, seed=c.seed)  # fmt: skip
    if model.modality != "protein":
        return MaskedLMTask(model, **options)
    parts = (data.train, data.splits.train), (data.test, data.splits.test)
    aligned = all(corpus.families and len(corpus) == len(tokens) for tokens, corpus in parts)  # none was cut
    rows = data.train.ids.long().split(data.train.lengths.tolist())
    frequencies = SiteFrequencies(rows, data.splits.train.families if aligned else [], model.config.vocab_size)
    families = torch.tensor(data.splits.test.families) if aligned else None
    return MaskedResidueTask(model, frequencies=frequencies, families=families, **options)


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

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say whether there will be samples."""
        if self.length and trainer.is_global_zero and trainer.world_size > 1:
            console().print("no text is generated during training: several processes share the model or its batches")

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
