"""Visual question answering: the bridge for the data, what language or images alone reach, and the answers of a run."""

import copy
import csv
import io
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from rich.table import Table
from torch import Tensor

from zoo.data.image_text.datamodule import ImageTextDataModule, ImageTextRows, TokenLayout
from zoo.data.image_text.dataset import ImageTexts
from zoo.data.keyed_batches import KeyedBatches, Keys
from zoo.nn.init import initialize
from zoo.tasks.image_text import ImageTextTask
from zoo.training.run_dir import write_text
from zoo.utils import distributed
from zoo.utils.console import console
from zoo.utils.plotting import label_text, make_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from zoo.training.result import Result
    from zoo.training.run import Run

GROUPS = {"attributes": ("color", "shape"), "relations": ("relation", "place")}
PROBE_ITEMS = 8000  # training images that the classifier of images alone is fitted to
PLOTTED = 12


def groups_of(types: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The groups of types that the data has."""
    found = {name: tuple(kind for kind in kinds if kind in types) for name, kinds in GROUPS.items()}
    return {name: kinds for name, kinds in found.items() if kinds}


class Baselines(L.Callback):
    """Adds to the test metrics what answers questions without the images, and without the questions.

    `test_language_alone_accuracy`: a decoder of the shape of the text tower, trained on questions and answers alone.
    `test_image_alone_accuracy`: logistic regression of the answer on the mean of the trained encoder's features. Both
    also for each type and group of questions. A table compares them with the model, and with the model that is shown
    the images of other questions.

    Args:
        data: The data module.
        steps: Steps of training on language alone; those of the run, if these are fewer.
        is_new: Whether the text tower was initialized at random, as the decoder of language alone then is, too;
            otherwise this is trained on from the text tower.
        seed: Seed of the initial weights and of the order.
    """

    def __init__(self, data: ImageTextDataModule, steps: int, *, is_new: bool, seed: int) -> None:
        self.data, self.steps, self.is_new, self.seed = data, steps, is_new, seed
        self.rows: dict[str, dict[str, float]] = {}

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Train both, and log their accuracies."""
        task: Any = pl_module
        if trainer.max_steps > 0:
            self.steps = min(self.steps, trainer.max_steps)
        with torch.random.fork_rng(devices=[]), torch.enable_grad(), torch.inference_mode(False):
            self.rows = {"language_alone": self.accuracies(self.language_alone(task), task.groups),
                         "image_alone": self.accuracies(self.image_alone(task), task.groups)}  # fmt: skip
        for name, row in self.rows.items():
            for metric, value in row.items():
                task.log(f"test_{name}_{metric}", value, logger=False)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the table."""
        if not trainer.is_global_zero:
            return
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        columns = {"": "test_", "images of others": "test_shuffled_images_", "language alone": "test_language_alone_",
                   "image alone": "test_image_alone_"}  # fmt: skip
        table = Table("accuracy", *(name or "model" for name in columns))
        for name in getattr(pl_module, "accuracies"):  # noqa: B009 (an attribute of the task)
            values = [metrics.get(f"{start}{name}") for start in columns.values()]
            table.add_row(name.removeprefix("accuracy_"), *("" if v is None else f"{v:.1%}" for v in values))
        console().print(table)

    def accuracies(self, right: Tensor, groups: Mapping[str, Sequence[str]]) -> dict[str, float]:
        """The accuracies by name, for which answers of the test are right, bool [N]."""
        kinds = self.data.test.types
        of_type = {name: right[kinds == i].float() for i, name in enumerate(self.data.types)}
        found = {"accuracy": right.float().mean().item()}
        found |= {f"accuracy_{name}": values.mean().item() for name, values in of_type.items() if len(values)}
        grouped = {name: torch.cat([of_type[kind] for kind in kinds]) for name, kinds in groups.items()}
        return found | {f"accuracy_{name}": values.mean().item() for name, values in grouped.items() if len(values)}

    # --- language alone ----------------------------------------------------------------------------------------------

    def language_alone(self, task: ImageTextTask) -> Tensor:
        """Which answers a decoder without images gives right in the test, bool [N]."""
        text: Any = copy.deepcopy(task.evaluated.text)
        text.requires_grad_(True).train()
        if self.is_new:
            with torch.device("cpu"):
                initialize(text, self.seed)
        layout: TokenLayout = replace(self.data.train.layout, prefix=(self.data.train.layout.end,))
        train, test = (self.without_images(rows, layout) for rows in (self.data.train, self.data.test))
        alone = ImageTextTask(text, optim=task.optim)
        batches = KeyedBatches(len(train), min(self.data.batch_size, len(train)), seed=self.seed, step=lambda: step)
        optimizer = torch.optim.AdamW(text.parameters(), lr=task.optim.lr, betas=task.optim.betas, weight_decay=0.05)
        device, step = next(text.parameters()).device, 0
        torch.manual_seed(self.seed)
        while step < self.steps:
            for keys in batches:
                for group in optimizer.param_groups:
                    group["lr"] = task.optim.lr * _warmup_cosine(step, self.steps)
                predictions = alone.predict(text, self.on(device, train.__getitems__(keys)))
                loss = predictions.cross_entropy("sum") / predictions.count
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                step += 1
                if step == self.steps:
                    break
        text.eval()
        with torch.no_grad():
            parts = [alone.right_texts(text, self.on(device, test.__getitems__(Keys(rows.tolist(), 0))))[0].cpu()
                     for rows in torch.arange(len(test)).split(256)]  # fmt: skip
        return torch.cat(parts)

    @staticmethod
    def without_images(rows: ImageTextRows, layout: TokenLayout) -> ImageTextRows:
        """The same texts without the image tokens before them."""
        found = copy.copy(rows)
        found.caption_epochs = found.introductory_epochs = 0
        cut = len(rows.layout.prefix) - 1  # the last token before the prompt gives its place to the new prefix
        found.layout, found.starts = layout, rows.starts + cut
        found.lengths, found.prompt_lengths = rows.lengths - cut, rows.prompt_lengths - cut
        found.ids = rows.ids.clone()
        found.ids[found.starts] = layout.prefix[0]
        return found

    @staticmethod
    def on(device: torch.device, batch: Mapping[str, Any]) -> dict[str, Any]:
        """A batch without its images, on a device."""
        kept = {name: value for name, value in batch.items() if name != "pixel_values"}
        return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in kept.items()}

    # --- images alone ------------------------------------------------------------------------------------------------

    def image_alone(self, task: ImageTextTask) -> Tensor:
        """Which answers logistic regression on the features of the images gives right in the test, bool [N]."""
        from sklearn.linear_model import LogisticRegression

        train, test = self.data.train, self.data.test
        epoch = max(train.caption_epochs, train.introductory_epochs)  # the first that reads all images and texts
        keys = Keys(list(range(min(PROBE_ITEMS, len(train)))), epoch)
        answers = [train.texts[i].target for i in train.text_rows(keys).tolist()]
        features = [self.features(task, part.data, count) for part, count in
                    ((train, len(keys)), (test, len(test.data)))]  # fmt: skip
        mean, std = features[0].mean(0), features[0].std(0).clamp(min=1e-6)
        x, y = ((part - mean) / std for part in features)
        if len(set(answers)) == 1:
            predicted = answers[:1] * len(y)
        else:
            with warnings.catch_warnings():  # a linear model that has not quite converged is a baseline, too
                warnings.filterwarnings("ignore", message=".*failed to converge", module="sklearn")
                predicted = list(LogisticRegression(max_iter=200).fit(x.numpy(), answers).predict(y.numpy()))
        return torch.tensor([predicted[i] == text.target for i, text in zip(test.image_of.tolist(), test.texts)])

    def features(self, task: ImageTextTask, images: ImageTexts, count: int) -> Tensor:
        """The mean over the patches of the encoder's features of the first images, float32 [count, W] on the CPU."""
        model: Any = task.evaluated
        device, parts = next(model.parameters()).device, []
        for rows in torch.arange(count).split(256):
            raw = {"pixel_values": images.images[rows].to(device), "index": rows.to(device), "epoch": 0}
            pixels = self.data.prepare(raw, seed=0, step=0, train=False)["pixel_values"]
            with torch.no_grad():
                parts.append(model.encoder_features(pixel_values=pixels)[0].mean(1).float().cpu())
        return torch.cat(parts)


def _warmup_cosine(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / (0.05 * steps + 1)) * 0.5 * (1 + math.cos(math.pi * step / steps))


class AnswersFile(L.Callback):
    """Writes the questions of the test split with the answers of the model to `answers.csv` in the run folder.

    Args:
        folder: The run folder.
    """

    columns = ("image", "type", "question", "answer", "prediction")

    def __init__(self, folder: Path) -> None:
        self.file = folder / "answers.csv"

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the file; answers that are not exactly right are generated."""
        task: Any = pl_module
        if distributed.rank() != 0:
            return
        rows: ImageTextRows = trainer.datamodule.test  # type: ignore[attr-defined]
        task.predictions |= answers_of(task, trainer.datamodule, task.wrong)  # type: ignore[attr-defined]
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.columns)
        for i, text in enumerate(rows.texts):
            predicted = task.predictions.get(i, text.target)
            writer.writerow([int(rows.image_of[i]), text.type, text.prompt, text.target, " ".join(predicted.split())])
        write_text(self.file, out.getvalue())


def answers_of(task: ImageTextTask, data: ImageTextDataModule, items: Sequence[int]) -> dict[int, str]:
    """{index: the answer that the model generates} for items of the test split."""
    found: dict[int, str] = {}
    if not len(items):  # all are right
        return found
    longest = int((data.test.lengths - data.test.prompt_lengths).max())  # tokens, with the one of the end
    device = next(task.evaluated.parameters()).device
    for rows in torch.tensor(items, dtype=torch.int64).split(256):
        raw = data.test.__getitems__(Keys(rows.tolist(), 0))
        batch = data.ready({k: v.to(device) if isinstance(v, Tensor) else v for k, v in raw.items()})
        with torch.no_grad():
            found |= dict(zip(rows.tolist(), task.generate(task.evaluated, batch, num_beams=1,
                                                          max_new_tokens=max(16, longest))))  # fmt: skip
    return found


def questions(run: "Run", task: Any, result: "Result") -> "Figure | None":
    """Test images of different types of questions with the answers of the model, wrong ones in red."""
    rows: ImageTextRows = task.trainer.datamodule.test
    step = max(1, len(rows) // PLOTTED)
    chosen = [min(i * step + i % 6, len(rows) - 1) for i in range(min(PLOTTED, len(rows)))]
    columns = 4
    figure = make_figure(3.0 * columns, 2.9 * -(-len(chosen) // columns), 110)
    for place, i in enumerate(chosen):
        text = rows.texts[i]
        axes = figure.add_subplot(-(-len(chosen) // columns), columns, place + 1)
        axes.imshow(rows.data.images[rows.image_of[i]].permute(1, 2, 0).numpy(), interpolation="nearest")
        axes.set_axis_off()
        answer = task.predictions.get(i, text.target)
        color = "black" if answer == text.target else "firebrick"
        words = text.prompt.split()
        half = -(-len(words) // 2) if len(text.prompt) > 34 else len(words)
        lines = [" ".join(words[:half]), *([" ".join(words[half:])] if words[half:] else [])]
        axes.set_title("\n".join(label_text(line, 44) for line in [*lines, f"> {answer}"]), fontsize=8, color=color)
    return figure


PLOTS = {"questions": questions}
