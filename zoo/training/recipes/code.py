"""What a model of source code takes from the data, and how well it writes held-out lines, beside an n-gram cache."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from rich.markup import escape

from zoo.data.splits import Splits
from zoo.data.text.code_lines import CodeLine
from zoo.data.text.corpus import Corpus
from zoo.data.text.fill_in_middle import FillInMiddleDataModule, end_of
from zoo.data.text.python_source import load_python_source
from zoo.inference.generation.generate import generate
from zoo.inference.generation.infill import infill, rows_of_equal_length
from zoo.models.base import Model
from zoo.parallel.stages import is_divided
from zoo.preprocessing.fill_in_middle import Order, has_fill_in_middle
from zoo.preprocessing.text import TextProcessor, encode_batch
from zoo.preprocessing.tokenizer_training import train
from zoo.tasks.language_modeling import CausalLMTask
from zoo.training.parse import SettingsError
from zoo.training.recipes.ngram_cache import NGramCache, NGramCounts, bits
from zoo.training.recipes.text import token_fields, tokenizer_cache
from zoo.training.run import Run
from zoo.training.run_dir import write_text
from zoo.utils.console import announce, console
from zoo.utils.errors import DataError
from zoo.utils.escape import printable

VOCAB_SIZE = 2048  # of a new tokenizer, unless `vocab_size=` is given
MAX_NEW_TOKENS = 48  # of a line; a longer one is never right
ROWS = 32  # lines that are written together
EXAMPLES = 4  # lines that are printed


def load_code(name: str, val_fraction: float) -> Splits[Corpus]:
    """Python files, split by file: those that are held out are validation and test files in turn.

    Raises: DataError for a folder without Python files, or with too few of them.
    """
    splits = load_python_source(None if name == "python_source" else name, val_fraction=min(0.9, 2 * val_fraction))
    held = splits.test
    if len(held) < 2:
        raise DataError(f"{splits.source}: {len(held)} is held out, expected at least 2, for validation and test; add "
                        f"files, or set a greater val_fraction=")  # fmt: skip
    rows = torch.arange(len(held))
    return replace(splits, validation=held.take(rows[1::2]), test=held.take(rows[::2]))


def fit_to_code(run: Run, model: Model, splits: Splits[Corpus]) -> Model:
    """The model for the files: a new one with a tokenizer trained on them, a pretrained one with its own.

    Raises: SettingsError for a pretrained model without tokens for fill-in-the-middle, unless `rate=0`.
    """
    c = run.config
    if c.model.source:
        if c.data.fim.rate and not has_fill_in_middle(model.preprocess):
            raise SettingsError(f"model.source={c.model.source} has no tokens for fill-in-the-middle: set rate=0 to "
                                f"train on left-to-right text alone")  # fmt: skip
        return model
    size = c.model.overrides.get("vocab_size", VOCAB_SIZE)
    tokenizer = train("code", splits.train.texts, size, max_length=model.config.max_length, cache=tokenizer_cache(run))
    model = run.build_model("lm", **token_fields(model.config, tokenizer))
    model.preprocess = tokenizer
    return model


@dataclass(frozen=True)
class WrittenLines:
    """What was written for each line; `name` is part of the metrics' names."""

    name: str
    texts: list[str]

    def exact_match(self, lines: Sequence[CodeLine]) -> dict[str, float]:
        """The fraction of the lines that are written exactly, but for spaces at their end; also of those that no
        training file has."""
        right = [one.line.rstrip() == text.rstrip() for one, text in zip(lines, self.texts)]
        new = [hit for hit, one in zip(right, lines) if not one.is_known]
        found = {f"{self.name}_exact_match": sum(right) / max(1, len(right))}
        return found | {f"new_{self.name}_exact_match": sum(new) / max(1, len(new))}


class LineWriter:
    """Writes lines from what stands before them, and from both sides.

    Args:
        model: A decoder with its tokenizer.
        max_length: Tokens of a prompt with its line.
        order: Of the prompts for filling in, see `zoo.infill`.
    """

    def __init__(self, model: Model, max_length: int, order: Order = "psm") -> None:
        self.model, self.processor, self.order = model, model.preprocess, order
        self.room = max(1, max_length - MAX_NEW_TOKENS)

    def prompt(self, text: str) -> list[int]:
        """The last tokens of the text before a line; of none, the end token of a document before."""
        ids = self.processor.backend.encode(text, add_special_tokens=False).ids
        return ids[-self.room :] or [end_of(self.processor)]

    def complete(self, lines: Sequence[CodeLine]) -> list[str]:
        """Each line, given the text before it, greedily."""
        prompts = [self.prompt(one.before) for one in lines]
        written = [""] * len(lines)
        for rows in rows_of_equal_length(prompts, ROWS):
            ids = torch.tensor([prompts[row] for row in rows], device=self.model.device)
            found = generate(self.model, ids, max_new_tokens=MAX_NEW_TOKENS, stop="\n", pad_token_id=0)
            for row, new in zip(rows, found[:, ids.shape[1] :].tolist()):
                written[row] = self.processor.decode(new).split("\n")[0]
        return written

    def fill_in(self, lines: Sequence[CodeLine]) -> list[str]:
        """Each line, given the text on both sides, greedily."""
        found: list[str] = []
        for start in range(0, len(lines), ROWS):
            part = lines[start : start + ROWS]
            before, after = [one.before for one in part], [one.after for one in part]
            written = infill(self.model, before, after, max_new_tokens=MAX_NEW_TOKENS, context=self.room, stop="\n",
                             order=self.order)  # fmt: skip
            found += [text.split("\n")[0] for text in written]
        return found


class NGramWriter:
    """Writes lines with an n-gram cache, from the same prompts as a model.

    Args:
        processor: The tokenizer of the model.
        texts: The training texts.
    """

    def __init__(self, processor: TextProcessor, texts: Sequence[str]) -> None:
        self.processor, self.end = processor, end_of(processor)
        self.counts = NGramCounts(self.documents(texts), processor.vocab_size)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text."""
        return [one.ids for one in encode_batch(self.processor.backend, list(texts), add_special_tokens=False)]

    def documents(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text and the end token."""
        return [[*ids, self.end] for ids in self.encode(texts)]

    def complete(self, lines: Sequence[CodeLine], room: int = 0, after: int = 0) -> list[str]:
        """Each line, given the last `room` tokens before it (0: all of them), and the first `after` behind it."""
        return [self._write(one, room, after) for one in lines]

    def _write(self, line: CodeLine, room: int, after: int) -> str:
        before, behind = self.encode([line.before, line.after])
        cache = NGramCache(self.counts)
        if after:
            cache.read_other(behind[:after])
        cache.read(before[-room:] if room else before)
        new = cache.write(self.end, MAX_NEW_TOKENS, stop=lambda ids: "\n" in self.processor.decode(ids))
        return self.processor.decode(new).split("\n")[0]

    def bits_per_byte(self, texts: Sequence[str]) -> float:
        """Bits per byte of the texts, each with a cache of the text before."""
        return bits(self.counts, self.documents(texts)) / sum(len(text.encode()) for text in texts)


class CodeTask(CausalLMTask):
    """Causal language modeling of source code, evaluated by bits per byte and by exact matches of held-out lines.

    Logs, besides what CausalLMTask logs, `val_bits_per_byte` and `test_bits_per_byte`; and in the test, each for all
    lines and with `new_` for those that no training file has: `test_line_exact_match` (given the text before it),
    `test_infill_exact_match` (given both sides) and, of an n-gram cache with the same prompts, `test_ngram_...`;
    `test_ngram_file_exact_match` is that of one that reads the whole file before the line.

    Args:
        model: As in CausalLMTask.
        data: The files.
        lines: Lines of the test files.
        baseline: Whether the n-gram cache is computed.
        order: Of the prompts for filling in: "spm" for a model that is trained on it, where the line follows right
            after the text before it, which small models need; else "psm".
        options: Further arguments of CausalLMTask.
    """

    runs_in_pipeline = True

    def __init__(self, model: Model, data: FillInMiddleDataModule, lines: Sequence[CodeLine], *, baseline: bool = True,
                 order: Order = "psm", **options: Any) -> None:  # fmt: skip
        super().__init__(model, **options)
        self.order: Order = order
        self.tokens_per_byte = {stage: data.tokens_per_byte(stage) for stage in ("val", "test")}
        self.files, self.lines, self.baseline = data.splits, lines, baseline
        self.max_length = data.test.length
        self.written: dict[str, list[str]] = {}

    @property
    def validation_metrics(self) -> dict[str, str]:
        """As in Task."""
        return super().validation_metrics | {"val_bits_per_byte": "min"}

    def _log_epoch(self, stage: str) -> None:
        loss = float(self.metrics[f"{stage}_loss"].compute())
        self.log_evaluation({f"{stage}_bits_per_byte": loss * self.tokens_per_byte[stage] / math.log(2)})
        super()._log_epoch(stage)

    def on_test_epoch_end(self) -> None:
        """Log the test metrics; write the lines."""
        super().on_test_epoch_end()
        if not self.lines:
            return
        model: Any = self.evaluated
        if is_divided(model):
            announce("lines are not written, because several processes hold parts of the model")
            return
        self.log_evaluation({f"test_{name}": value for name, value in self.line_scores(model).items()})

    def line_scores(self, model: Model) -> dict[str, float]:
        """Exact matches of the lines by the model and by the n-gram cache."""
        writer, lines = LineWriter(model, self.max_length, self.order), self.lines
        found = [WrittenLines("line", writer.complete(lines))]
        if has_fill_in_middle(model.preprocess):
            found.append(WrittenLines("infill", writer.fill_in(lines)))
        more: dict[str, float] = {}
        if self.baseline:
            room = writer.room
            ngrams = NGramWriter(model.preprocess, self.files.train.texts)
            found += [WrittenLines("ngram_line", ngrams.complete(lines, room)),
                      WrittenLines("ngram_infill", ngrams.complete(lines, room - room // 3, room // 3)),
                      WrittenLines("ngram_file", ngrams.complete(lines))]  # fmt: skip
            more["ngram_bits_per_byte"] = ngrams.bits_per_byte(self.files.test.texts)
        self.written = {one.name: one.texts for one in found}
        return {name: value for one in found for name, value in one.exact_match(lines).items()} | more


class LinesFile(L.Callback):
    """Writes the test lines, and what was written for them, to `lines.csv` in the run folder, and prints some of them.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / "lines.csv"

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write and print the lines."""
        task: Any = pl_module
        if not task.written or not trainer.is_global_zero:
            return
        written: Mapping[str, list[str]] = task.written
        rows = [[one.line, "yes" if one.is_known else "no", *(texts[i] for texts in written.values())]
                for i, one in enumerate(task.lines)]  # fmt: skip
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([["reference", "in_training", *written], *rows])
        write_text(self.file, text.getvalue())
        out = console()
        new = [row for row, one in zip(rows, task.lines) if not one.is_known]
        for row in new[:EXAMPLES]:
            for name, one in (("reference", row[0]), *zip(written, row[2:])):
                out.print(f"[dim]{name:<13}[/dim]{escape(printable(one))}", highlight=False)
