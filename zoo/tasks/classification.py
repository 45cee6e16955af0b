"""Classification (single-label, soft targets, multi-label) and regression."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric

from zoo.models.base import Model
from zoo.models.config import ProblemType
from zoo.nn.heads import rescale_output
from zoo.tasks.base import as_batch_dict
from zoo.tasks.calibration import TemperatureFit
from zoo.tasks.config import OptimSettings
from zoo.tasks.evaluated import EvaluatedTask
from zoo.tasks.functions import COPY, at_least_float32
from zoo.tasks.problem_types import Objective, Unit

_IDENTITY = (0.0, 1.0)  # (mean, std) that leaves targets as they are
_NOT_INPUTS = ("labels", "targets", "index", "epoch", "weight", "lengths")  # of a model that does not say its inputs


class Augmentation(Protocol):
    """Turns a raw batch into inputs, `labels` [B] and `targets` (classes [B] or probabilities [B, K])."""

    def __call__(self, batch: Mapping[str, Any], *, seed: int, step: int, train: bool) -> dict[str, Any]: ...


class ClassificationTask(EvaluatedTask):
    """Train and evaluate a classifier or regression model, in the recipes or in any `lightning.Trainer`.

        task = ClassificationTask(zoo.create_model("vit_tiny_patch16_224"), lr=1e-3)
        L.Trainer(max_epochs=3).fit(task, loader)

    Batches are dicts with `labels` [B] and the model's inputs, or pairs (images, labels). Logs `train_loss`, `lr`,
    `val_loss`, `val_accuracy`, `val_f1` (mean over the classes), `val_calibration_error` (expected calibration error)
    and the same as `test_...`; regression logs `error` (mean absolute error, in the units of the labels) and `r2`
    instead. Of several values these are means over the columns, with errors in standard deviations.

    Args:
        model: Returns logits [B, C].
        lr: Peak learning rate; overrides the one in `optim`.
        optim: Further optimizer settings.
        label_smoothing: Fraction of the target that is spread over all classes.
        problem_type: `single_label_classification`; `multi_label_classification`, with labels [B, C] of 0 and 1; or
            `regression`, with labels [B] and logits [B, 1], or labels and logits [B, C] of several values. A label of
            the last two that is NaN is missing, and left out. Default: that of the model's config. A value given here
            is written to the config.
        unit: (mean, std) by which regression targets are normalized, or (means, stds) of several. It is stored in
            checkpoints, and `finalize` folds it into `head.proj`.
        class_weights: [C], for the training loss; `zoo.tasks.balanced` computes them from the labels.
        augment: Turns a raw batch into a training or test batch; None uses batches as they are.
        ema: Decay of the exponential moving average of the weights, which is evaluated and saved; 0 disables it.
        seed: Seed of all random numbers in training.
    """

    runs_in_pipeline = True
    objective_type: type[Objective] = Objective

    def __init__(self, model: nn.Module, lr: float | None = None, *, optim: OptimSettings | None = None,
                 label_smoothing: float = 0.0, problem_type: ProblemType | None = None,
                 class_weights: Tensor | None = None, unit: Unit = _IDENTITY, augment: Augmentation | None = None,
                 ema: float = 0.0, seed: int = 0):  # fmt: skip
        optim = optim or OptimSettings()
        if isinstance(model, Model):
            problem_type = problem_type or model.config.resolved_problem_type
            if problem_type != model.config.resolved_problem_type:
                model.config = model.config.replace(problem_type=problem_type)
        super().__init__(model, optim=optim if lr is None else replace(optim, lr=lr), ema=ema, seed=seed)
        self.augment = augment
        problem_type = problem_type or "single_label_classification"
        self.objective = self.objective_type(problem_type, label_smoothing, class_weights, unit)
        metric, self.mode = self.objective.monitor
        self.monitor = f"val_{metric}"
        self.metrics: dict[str, Metric] = {}  # a plain dict: metrics are not part of the state dict
        self.temperature = model.temperature if isinstance(model, Model) else 1.0
        self.calibration: dict[str, float] = {}  # of `fit_temperature`: the temperature, and errors before and after
        self._fits_temperature = False
        self.confusion: Tensor | None = None
        self.class_counts: Tensor | None = None
        self.columns: Tensor | None = None

    @property
    def validation_metrics(self) -> dict[str, str]:
        """As in Task."""
        metrics = self.objective.metrics("val", 2)  # the names do not depend on the number of classes
        return super().validation_metrics | {
            f"val_{name}": "max" if metric.higher_is_better else "min" for name, metric in metrics.items()
        }

    def loss_of(self, batch: Mapping[str, Any], step: int, micro: int) -> Tensor:
        """Training loss of a micro-batch, after augmentation on its device."""
        return self.mean_loss(*self.batch_loss(self.graphed or self.model, self.prepared(batch, step, train=True)))

    def batch_loss(self, model: Any, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor | float]:
        """As in Task."""
        logits, targets = self.output_of(model, batch), batch.get("targets", batch["labels"])
        if (copies := batch.get(COPY)) is not None:
            logits, targets = logits[~copies], targets[~copies]
        return self.objective.total_loss(logits, targets)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Update the validation metrics; deterministic."""
        self._evaluate(as_batch_dict(batch), "temperature" if self._fits_temperature else "val")

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Probabilities [B, C], or predicted values for regression: [B], or [B, C] of several."""
        _, logits = self._predicted(as_batch_dict(batch))
        return self.objective.predictions(logits)

    @contextmanager
    def fit_temperature(self) -> Iterator[None]:
        """Context in which a validation, `trainer.validate(task, data)`, fits `temperature` instead of logging metrics.

        Logits are divided by it in later tests and predictions, and `finalize` writes it to the model. It stays 1 if
        no finite temperature is the best; see `zoo.tasks.calibration.fit_temperature`.
        """
        self.temperature, self._fits_temperature = 1.0, True
        try:
            yield
        finally:
            self._fits_temperature = False

    def on_fit_start(self) -> None:
        """As in Task; a temperature that was fitted before does not fit the weights any longer."""
        super().on_fit_start()
        self.temperature = 1.0

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics."""
        if not self._fits_temperature:
            self._log_epoch("val")
            return
        names = ("temperature", "val_calibration_error_before", "val_calibration_error")
        found = dict(zip(names, self._pop_metric("temperature_fit").tolist(), strict=True))
        self.calibration = found | ({} if found["temperature"] > 0 else {"temperature": 1.0})
        self.temperature = self.calibration["temperature"]

    def on_test_epoch_end(self) -> None:
        """Log the test metrics; keep the confusion matrix [C, C] (true, predicted), the counts of each class, and the
        errors of each of several values."""
        if "test_confusion" in self.metrics:
            self.confusion = self._pop_metric("test_confusion").cpu()
        if "test_counts" in self.metrics:
            self.class_counts = self._pop_metric("test_counts").cpu()
        if "test_columns" in self.metrics:
            self.columns = self._pop_metric("test_columns").cpu()
        self._log_epoch("test")

    def finalize(self, model: nn.Module) -> nn.Module:
        """As `Task.finalize`; regression outputs are in the units of the labels again, and the model has the
        temperature."""
        model = super().finalize(model)
        if isinstance(model, Model):
            model.temperature = self.temperature
        if self.objective.unit != _IDENTITY:
            if (head := cast(Any, model).head) is not None:  # a stage of a pipeline may have none
                rescale_output(head.proj, *self.objective.unit)
            self.objective = replace(self.objective, unit=_IDENTITY)
        return model

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the normalization of regression targets with the weights."""
        super().on_save_checkpoint(checkpoint)
        if self.objective.unit != _IDENTITY:
            checkpoint["unit"] = list(self.objective.unit)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the normalization of regression targets."""
        super().on_load_checkpoint(checkpoint)
        mean, std = checkpoint.get("unit", _IDENTITY)
        self.objective = replace(self.objective, unit=(mean, std))

    def prepared(self, batch: Mapping[str, Any], step: int, *, train: bool) -> Mapping[str, Any]:
        """The batch after augmentation, on its device."""
        if self.augment is None:
            return batch
        return self.augment(batch, seed=self.seed, step=step, train=train)

    def output_of(self, model: Any, batch: Mapping[str, Any]) -> Tensor:
        """Logits [B, C] for a prepared batch, in float32 or float64."""
        inputs = getattr(self.model, "inputs", None)
        logits = model(**{k: v for k, v in batch.items() if (k in inputs if inputs else k not in _NOT_INPUTS)})
        if logits.ndim != 2:
            raise ValueError(f"ClassificationTask needs logits [B, C], the model returned {list(logits.shape)}; "
                             f"create it with head='classify'")  # fmt: skip
        return at_least_float32(logits)

    def _predicted(self, batch: Mapping[str, Any]) -> tuple[Mapping[str, Any], Tensor]:
        """(the batch as it is tested, its logits [B, C] by the evaluated model), divided by the temperature."""
        batch = self.prepared(batch, 0, train=False)
        logits = self.output_of(self.evaluated, batch) if self.pipeline is None else self.pipeline.outputs(batch)
        return batch, logits / self.temperature

    def _evaluate(self, batch: Mapping[str, Any], stage: str) -> None:
        batch, logits = self._predicted(batch)
        labels = batch["labels"]
        if (keep := batch.get("weight")) is not None:  # 0 marks padding rows in the last batch of a rank
            logits, labels = logits[keep.bool()], labels[keep.bool()]
        if stage == "temperature":
            fit = self.metrics.setdefault("temperature_fit", TemperatureFit(self.objective.problem_type))
            fit.to(self.device).update(logits, labels)
            return
        if f"{stage}_loss" not in self.metrics:
            metrics = {"loss": MeanMetric()} | self.objective.metrics(stage, logits.shape[-1])
            self.metrics |= {f"{stage}_{name}": metric.to(self.device) for name, metric in metrics.items()}
        if not len(labels):
            return
        self.metrics[f"{stage}_loss"].update(self.objective.losses(logits, labels))
        metric_inputs = self.objective.metric_inputs(logits, labels)
        for name, metric in self.metrics.items():
            if name.startswith(stage) and not name.endswith("_loss"):
                metric.update(*metric_inputs)

    def _log_epoch(self, stage: str) -> None:
        tables = ("test_confusion", "test_counts", "test_columns")
        names = [name for name in self.metrics if name.startswith(stage) and name not in tables]
        self.log_evaluation({name: float(self._pop_metric(name)) for name in names})

    def _pop_metric(self, name: str) -> Tensor:
        """Compute a metric over all ranks and reset it."""
        metric = self.metrics[name]
        value = metric.compute()
        metric.reset()
        return torch.as_tensor(value)
