"""Contact maps: the model of an alignment, the test families in a table, and maps as a plot."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from torch import distributed as dist

from zoo.data.alignments.datamodule import AlignmentDataModule
from zoo.data.keyed_batches import Keys
from zoo.interpret.plot_contacts import plot_contacts
from zoo.models.base import Model
from zoo.preprocessing.alignment import MASK, write_a3m
from zoo.preprocessing.alignment_processor import AlignmentProcessor
from zoo.tasks.contacts import DIVISORS, FamilyPrecision, gap_closed
from zoo.training.parse import SettingsError
from zoo.training.run import Run
from zoo.utils import distributed
from zoo.utils.console import console

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from zoo.training.result import Result

PLOTTED = 4


def alignment_model(run: Run) -> Model:
    """The model of the settings, with its processor, or a new one, that takes `max_sequences=` of an alignment.

    With `masked_msa_weight=` it has the head for masked residues. Raises: SettingsError for a model of other inputs,
    and for a pretrained one without this head.
    """
    masked = run.config.task.masked_msa_weight > 0
    new = masked and not run.config.model.source
    model = run.build_model("contacts", **(dict(masked_msa=True, vocab_size=MASK + 1) if new else {}))
    if model.inputs[0] != "msa":
        raise SettingsError(f"{run.model_name} is a {model.family} model: expected a model of alignments, such as "
                            f"evoformer_nano")  # fmt: skip
    if masked and getattr(model, "masked_msa", None) is None:
        raise SettingsError(f"masked_msa_weight={run.config.task.masked_msa_weight:g}: {run.model_name} has no head "
                            f"for masked residues; omit it, or train a new model with it")  # fmt: skip
    processor = model.preprocess or AlignmentProcessor()
    model.preprocess = replace(processor, max_sequences=run.config.data.max_sequences)
    return model


class FamiliesFile(L.Callback):
    """Writes families.csv to a folder: the precision of each test family at L/5, L/2 and L by each method, and prints
    the means over those that mutual information partly explains, with a precision of 0.2 to 0.5 at L/5. Also writes the
    first of them as sample.a3m, to try the model on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the files, in the process that prints."""
        task: Any = pl_module
        tested = {own.index: own for part in _of_all_processes(task.tested, trainer.world_size) for own in part}
        if distributed.rank() != 0 or not tested:
            return
        part = trainer.datamodule.splits.test  # type: ignore[attr-defined]
        write_a3m(self.folder / "sample.a3m", part.alignment(0))
        methods = list(next(iter(tested.values())).precision)
        with (self.folder / "families.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["family", "residues", "sequences", *(f"{m}_{name}" for m in methods for name in DIVISORS)])
            for index, own in sorted(tested.items()):
                values = [f"{value:.4f}" for method in methods for value in own.precision[method]]
                writer.writerow([part.names[index], own.residues, own.sequences, *values])
        count, before, after = gap_closed(list(tested.values())) if "mutual_information" in methods else (0, 0.0, 0.0)
        if count:
            console().print(f"{count} of {len(tested)} test families have a precision at L/5 of 0.2 to 0.5 by mutual "
                            f"information: {before:.3f} on average, and {after:.3f} by the model")  # fmt: skip


def _of_all_processes(tested: list[FamilyPrecision], world: int) -> list[list[FamilyPrecision]]:
    if world == 1:
        return [tested]
    parts: list[Any] = [None] * world
    dist.all_gather_object(parts, tested)
    return parts


def contacts(run: Run, task: Any, result: "Result") -> "Figure | None":
    """Predicted above true contacts of some test families."""
    data: Any = getattr(task.trainer, "datamodule", None)
    if not isinstance(data, AlignmentDataModule):
        return None
    part = data.splits.test
    model, rows = task.evaluated, list(range(min(PLOTTED, len(part))))
    batch = data.test.__getitems__(Keys(rows, 0))
    device = next(model.parameters()).device
    with torch.no_grad():
        logits = model(**{name: batch[name].to(device) for name in model.inputs if name in batch}).float().cpu()
    sizes = [part.msas[row].shape[1] for row in rows]
    maps = [logits[row, :size, :size].sigmoid() for row, size in zip(rows, sizes)]
    true = [part.contacts[row].clamp(min=0) for row in rows]
    return plot_contacts(maps, true, titles=[part.names[row] for row in rows],
                         sequences=[part.alignment(row).query for row in rows],
                         min_separation=run.config.data.min_separation)  # fmt: skip


PLOTS = {"contacts": contacts}
