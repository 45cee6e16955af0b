"""Classification: one label, or a soft target, per input; several labels; or a number."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric

from zoo.models.base import Model
from zoo.models.config import ProblemType
from zoo.nn.heads import rescale
from zoo.tasks.base import Task, named
from zoo.tasks.config import OptimSettings
from zoo.tasks.problem_types import Objective, Unit

_OWN = (0.0, 1.0)  # the unit in which numbers are themselves
_NO_INPUTS = ("labels", "targets", "index", "epoch", "weight")


class Augmentation(Protocol):
    """Turns a raw batch into inputs, `labels` [B] and `targets` ([B] classes or [B, K] shares), on its device."""

    def __call__(self, batch: Mapping[str, Any], *, seed: int, step: int, train: bool) -> dict[str, Any]: ...


class ClassificationTask(Task):
    """Train and evaluate a classifier; also in a `lightning.Trainer` of one's own.

        L.Trainer(max_epochs=3).fit(Classify(zoo.create_model("vit_tiny_patch16_224"), lr=1e-3), loader)

    Batches are dicts with `labels` [B] beside the model's inputs, or pairs (images, labels). Logs `train_loss`, `lr`,
    `val_loss`, `val_accuracy`, `test_loss`, `test_accuracy`, `test_f1`; with several labels `val_f1` too, with numbers
    `error` (mean absolute, in their own unit) and `r2` in their place.

    Args:
        model: Returns logits [B, C].
        lr: Highest learning rate; goes over the one in `optim`.
        optim: The other settings of the optimizer.
        label_smoothing: Share of the target spread over all classes.
        problem_type: `single_label_classification`; `multi_label_classification`, labels [B, C] of 0 and 1; `regression`,
            labels [B] for logits [B, 1]. None:
            what the model's config says it answers with; given, the config says so from here on.
        unit: (mean, std) that numbers are learned in. Checkpoints know it, and `finished` puts it into `head.proj`.
        class_weights: [C], in the training loss; `zoo.tasks.balanced` makes them of the labels.
        augment: Makes a training or test batch of a raw one; None takes batches as they are.
        ema: Decay of the moving average that is evaluated and saved; 0 keeps none.
        seed: Key of every random draw in training.
    """

    def __init__(self, model: nn.Module, lr: float | None = None, *, optim: OptimSettings | None = None,
                 label_smoothing: float = 0.0, problem_type: ProblemType | None = None, class_weights: Tensor | None = None,
                 unit: Unit = _OWN, augment: Augmentation | None = None, ema: float = 0.0, seed: int = 0):  # fmt: skip
        optim = optim or OptimSettings()
        if isinstance(model, Model):
            problem_type = problem_type or model.config.resolved_problem_type
            if problem_type != model.config.resolved_problem_type:
                model.config = model.config.replace(problem_type=problem_type)
        super().__init__(model, optim=optim if lr is None else replace(optim, lr=lr), ema=ema, seed=seed)
        self.objective, self.augment = (
            Objective(problem_type or "single_label_classification", label_smoothing, class_weights, unit),
            augment,
        )
        figure, self.mode = self.objective.monitor
        self.monitor = f"val_{figure}"
        self.metrics: dict[str, Metric] = {}  # no submodules: nothing of them belongs into a checkpoint
        self.confusion: Tensor | None = None

    def loss_of(self, batch: Mapping[str, Any], step: int, micro: int) -> Tensor:
        """Loss of a micro-batch, augmented on its device."""
        batch = self._prepare(batch, step, train=True)
        return self.objective.loss(self._logits(self.model, batch), batch.get("targets", batch["labels"]))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Nothing in here is random."""
        self._evaluate(batch, "val")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """As in validation."""
        self._evaluate(batch, "test")

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Probabilities [B, C], or numbers [B]."""
        batch = self._prepare(named(batch), 0, train=False)
        return self.objective.answer(self._logits(self.evaluated, batch))

    def on_validation_epoch_end(self) -> None:
        """Log the figures of this validation."""
        self._finish("val")

    def on_test_epoch_end(self) -> None:
        """Log the figures, and keep the confusion matrix [C, C] (true, predicted)."""
        if "test_confusion" in self.metrics:
            self.confusion = self._take("test_confusion").cpu()
        self._finish("test")

    def finished(self, model: nn.Module) -> nn.Module:
        """As `Task.finished`; the model answers in the numbers' own unit again."""
        model = super().finished(model)
        if self.objective.unit != _OWN:
            rescale(cast(Any, model).head.proj, *self.objective.unit)
            self.objective = replace(self.objective, unit=_OWN)
        return model

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The unit belongs to the weights."""
        super().on_save_checkpoint(checkpoint)
        if self.objective.unit != _OWN:
            checkpoint["unit"] = list(self.objective.unit)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The unit of these weights."""
        mean, std = checkpoint.get("unit", _OWN)
        self.objective = replace(self.objective, unit=(mean, std))

    def _prepare(self, batch: Mapping[str, Any], step: int, *, train: bool) -> Mapping[str, Any]:
        if self.augment is None:
            return batch
        return self.augment(batch, seed=self.seed, step=step, train=train)

    def _logits(self, model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
        """Float32 logits [B, C] of the batch's inputs."""
        inputs = getattr(self.model, "inputs", None)
        logits = model(**{k: v for k, v in batch.items() if (k in inputs if inputs else k not in _NO_INPUTS)})
        if logits.ndim != 2:
            raise ValueError(f"Classify needs logits [B, C], the model returned {list(logits.shape)}; "
                             f"create it with head='classify'")  # fmt: skip
        return logits.float()

    def _evaluate(self, batch: Any, stage: str) -> None:
        batch = self._prepare(named(batch), 0, train=False)
        logits, labels = self._logits(self.evaluated, batch), batch["labels"]
        if (keep := batch.get("weight")) is not None:  # 0 marks the filler that evens out the ranks' last batches
            logits, labels = logits[keep.bool()], labels[keep.bool()]
        if f"{stage}_loss" not in self.metrics:
            made = {"loss": MeanMetric()} | self.objective.metrics(stage, logits.shape[-1])
            self.metrics |= {f"{stage}_{name}": metric.to(self.device) for name, metric in made.items()}
        if not len(labels):
            return
        self.metrics[f"{stage}_loss"].update(self.objective.losses(logits, labels))
        scores = self.objective.scores(logits, labels)
        for name, metric in self.metrics.items():
            if name.startswith(stage) and not name.endswith("_loss"):
                metric.update(*scores)

    def _finish(self, stage: str) -> None:
        names = [name for name in self.metrics if name.startswith(stage) and not name.endswith("_confusion")]
        row = {name: float(self._take(name)) for name in names}
        self.log_dict(row, prog_bar=True, logger=False)
        if not self.trainer.sanity_checking:
            self.record(row, self.trainer.global_step)

    def _take(self, name: str) -> Tensor:
        """The value of a metric over all ranks; it starts afresh."""
        metric = self.metrics[name]
        value = metric.compute()
        metric.reset()
        return torch.as_tensor(value)
