"""What a translation model takes from the data: its tokenizer; the translations and the alignments that a run saves."""

import csv
import io
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from rich.markup import escape

from zoo.data.splits import Splits
from zoo.data.text.parallel import ParallelTexts
from zoo.interpret.alignment import align_words, plot_alignment
from zoo.models.base import Model
from zoo.models.registry import find_variant
from zoo.preprocessing.tokenizer_training import train
from zoo.tasks.bleu import BLEU
from zoo.training.parse import SettingsError
from zoo.training.plots import Plot, unless_refused
from zoo.training.recipes.text import DEFAULT_VOCAB_SIZE, text_model, token_fields, tokenizer_cache
from zoo.training.run import Run
from zoo.training.run_dir import write_text
from zoo.utils.console import announce, console
from zoo.utils.distributed import in_group
from zoo.utils.escape import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from zoo.training.result import Result

EXAMPLES = 3  # translations that are printed, and plotted
PLOTTED_WORDS = 30  # words of a translation at most
PLOTTED_LENGTH = 50  # characters of source texts whose alignment is plotted, about


def seq2seq_model(run: Run) -> Model:
    """The model of the settings. Raises: SettingsError, also if it is not an encoder-decoder of texts."""
    name, source = run.config.model.name, run.config.model.source
    other = SettingsError(f"{source or name} is not an encoder-decoder of texts: expected one, such as bart_nano")
    if not source and not _reads_targets(find_variant(name).model):
        raise other
    model = text_model(run, head="lm")
    if not _reads_targets(model):
        raise other
    return model


def _reads_targets(model: Any) -> bool:
    return "decoder_input_ids" in getattr(model, "inputs", ())


def fit_to_pairs(run: Run, model: Model, pairs: Splits[ParallelTexts]) -> Model:
    """The model for the pairs: a new one with a tokenizer of source and target texts, a pretrained one as it is."""
    c = run.config
    if not c.model.source:
        config: Any = model.config
        unique = list(dict.fromkeys([*pairs.train.sources, *pairs.train.targets]))
        size = c.model.overrides.get("vocab_size", DEFAULT_VOCAB_SIZE)
        tokenizer = train("seq2seq", unique, size, max_length=config.max_length, cache=tokenizer_cache(run))
        fields = token_fields(config, tokenizer) | {"decoder_start_token_id": tokenizer.id("bos")}
        fields |= {name: None for name in config.names() if name.startswith("forced_")}
        model = run.build_model("lm", **fields)
        model.preprocess = tokenizer
    # The saved model cuts texts where the run did, so that it translates what was tested.
    length = min(c.data.max_source_length, model.preprocess.max_length)
    model.preprocess = replace(model.preprocess, max_length=length, truncate=c.data.truncate)
    return model


def bleu_or_none() -> Callable[[], BLEU] | None:
    """The metric of translations; None without sacrebleu, which is announced."""
    try:
        BLEU()
    except ImportError as error:
        announce(f"translations are not scored, only the loss is reported: {error}")
        return None
    return BLEU


class TranslationsFile(L.Callback):
    """Writes the translations of the test split to `translations.csv` in the run folder, and prints some of them.

    Args:
        folder: The run folder.
    """

    file_name = "translations.csv"
    columns: tuple[str, ...] = ("source", "reference", "translation")

    def __init__(self, folder: Path) -> None:
        self.file = folder / self.file_name

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write and print the translations, those of all ranks."""
        task: Any = pl_module
        found = all_predictions(task)
        if not found or not trainer.is_global_zero:
            return
        part = trainer.datamodule.splits.test  # type: ignore[attr-defined]
        rows = [self.row(part, i, text) for i, text in sorted(found.items())]
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.columns, *rows])
        write_text(self.file, text.getvalue())
        out = console()
        for row in rows[:EXAMPLES]:
            for name, one in [column for column in zip(self.columns, row) if column[1]]:
                out.print(f"[dim]{name:<12}[/dim]{escape(printable(one))}", highlight=False)
        for name, value in self.notes(task).items():
            out.print(f"[bold]{name:<10}[/bold]{escape(value)}", highlight=False)

    def row(self, part: ParallelTexts, index: int, text: str) -> list[str]:
        """The columns of one item."""
        return [part.sources[index], part.targets[index], text]

    def notes(self, task: Any) -> dict[str, str]:
        """What is printed below the examples, by name."""
        return {"BLEU": task.reports["bleu_signature"]}


def all_predictions(task: Any) -> dict[int, str]:
    """The texts that a task generated in its test, by the index of their items, on all ranks."""
    if not in_group():
        return dict(task.predictions)
    parts: list[dict[int, str] | None] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, task.predictions)
    return {index: text for part in parts if part for index, text in part.items()}


def alignment(run: Run, task: Any, result: "Result") -> "Figure | None":
    """Source words against words of the translations of some of the first test pairs.

    Skipped, with a message, for a model whose cross-attention has no weights.
    """
    part = task.trainer.datamodule.splits.test
    chosen = sorted(range(min(len(part), 50)), key=lambda i: abs(len(part.sources[i]) - PLOTTED_LENGTH))[:EXAMPLES]
    pairs = [(part.sources[i], task.predictions.get(i) or part.targets[i]) for i in chosen]
    # what a model writes after a few steps may have no end
    texts = [(source, " ".join(target.split()[:PLOTTED_WORDS])) for source, target in pairs]
    return unless_refused("alignment", lambda: plot_alignment([align_words(task.evaluated, *pair) for pair in texts]))


PLOTS: Mapping[str, Plot] = {"alignment": alignment}
