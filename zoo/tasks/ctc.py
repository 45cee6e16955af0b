"""Speech to characters by connectionist temporal classification."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric
from torchmetrics.text import CharErrorRate, WordErrorRate

from zoo.inference.ctc_decoding import beam, greedy
from zoo.nn.losses.ctc import ctc_loss
from zoo.preprocessing.ctc_vocabulary import Vocabulary
from zoo.tasks.base import Task, named
from zoo.tasks.classification import Augmentation
from zoo.tasks.config import OptimSettings


class CTCTask(Task):
    """Train a model of frames to write what is said.

        L.Trainer(max_steps=2000).fit(CTC(model, lr=1e-3), loader)

    Batches: the model's inputs, `labels` [B, L] ids of `Vocabulary` and `label_lengths` [B]. Logs `train_loss`,
    `lr`, `val_loss`, `val_wer`, `val_cer` (word and character error rate; the least `val_wer` is the best), and the
    like of the test.

    Args:
        model: With head="ctc": returns scores [B, N, V]; `model.frames` says how many frames samples make.
        lr: Highest learning rate; goes over the one in `optim`.
        vocabulary: Between ids and texts; that of `model.preprocess` without it.
        augment: Makes a training or test batch of a raw one; None takes batches as they are.
        width: Of the beam that decodes the test; 1 decodes it greedily, as validations are.
        optim, ema, seed: See Task.
    """

    monitor = "val_wer"
    mode = "min"

    def __init__(self, model: nn.Module, lr: float | None = None, *, vocabulary: Vocabulary | None = None,
                 augment: Augmentation | None = None, width: int = 1, optim: OptimSettings | None = None,
                 ema: float = 0.0, seed: int = 0):  # fmt: skip
        optim = optim or OptimSettings()
        super().__init__(model, optim=optim if lr is None else replace(optim, lr=lr), ema=ema, seed=seed)
        known = vocabulary or getattr(getattr(model, "preprocess", None), "vocabulary", None)
        if known is None:
            raise ValueError(
                "texts need a vocabulary: give vocabulary=zoo.preprocessing.ctc_vocabulary.Vocabulary.of(texts)"
            )
        if width < 1:
            raise ValueError(f"width={width}: expected at least 1")
        self.vocabulary, self.augment, self.width = known, augment, width
        self.metrics: dict[str, Metric] = {}  # no submodules: nothing of them belongs into a checkpoint

    def loss_of(self, batch: Mapping[str, Any], step: int, micro: int) -> Tensor:
        """The mean over the texts of a micro-batch, each divided by its length."""
        batch = self._prepare(batch, step, train=True)
        logits, frames = self._scores(self.model, batch)
        return ctc_loss(
            logits, frames, batch["labels"], batch["label_lengths"], blank=self.vocabulary.blank_id
        )  # fmt: skip

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Greedy decoding."""
        self._evaluate(batch, "val", 1)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Decoding by a beam of `width`."""
        self._evaluate(batch, "test", self.width)

    def predict_step(self, batch: Any, batch_idx: int) -> list[str]:
        """Texts."""
        batch = self._prepare(named(batch), 0, train=False)
        return self._texts(*self._scores(self.evaluated, batch), self.width)

    def on_validation_epoch_end(self) -> None:
        """Log the figures of this validation."""
        self._finish("val")

    def on_test_epoch_end(self) -> None:
        """Log the figures."""
        self._finish("test")

    def _prepare(self, batch: Mapping[str, Any], step: int, *, train: bool) -> Mapping[str, Any]:
        if self.augment is None:
            return batch
        return self.augment(batch, seed=self.seed, step=step, train=train)

    def _scores(self, model: nn.Module, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """(scores [B, N, V] in float32, frames [B] of each row)."""
        inputs = {name: batch[name] for name in self.model.inputs if name in batch}  # type: ignore[union-attr]
        logits = model(**inputs).float()
        if logits.ndim != 3:
            raise ValueError(f"CTC needs scores [B, N, V], the model returned {list(logits.shape)}; create it with "
                             f"head='ctc'")  # fmt: skip
        mask, values = batch.get("attention_mask"), batch["input_values"]
        samples = torch.full(values.shape[:1], values.shape[1]) if mask is None else mask.sum(1)
        return logits, self.model.frames(samples.to(logits.device))  # type: ignore[operator]

    def _texts(self, logits: Tensor, frames: Tensor, width: int) -> list[str]:
        blank = self.vocabulary.blank_id
        if width == 1:
            ids = greedy(logits, frames, blank=blank)
        else:
            ids = [answers[0][0] for answers in beam(logits, frames, width=width, blank=blank)]
        return [self.vocabulary.decode(one) for one in ids]

    def _evaluate(self, batch: Any, stage: str, width: int) -> None:
        batch = self._prepare(named(batch), 0, train=False)
        logits, frames = self._scores(self.evaluated, batch)
        labels, lengths = batch["labels"], batch["label_lengths"]
        if f"{stage}_loss" not in self.metrics:
            made: dict[str, Metric] = {"loss": MeanMetric(), "wer": WordErrorRate(), "cer": CharErrorRate()}
            self.metrics |= {f"{stage}_{name}": metric.to(self.device) for name, metric in made.items()}
        losses = ctc_loss(logits, frames, labels, lengths, blank=self.vocabulary.blank_id, reduction="none")
        self.metrics[f"{stage}_loss"].update(losses / lengths.clamp(min=1))
        said = self._texts(logits, frames, width)
        true = [self.vocabulary.decode(row[:n]) for row, n in zip(labels.tolist(), lengths.tolist())]
        for name in ("wer", "cer"):
            self.metrics[f"{stage}_{name}"].update(said, true)

    def _finish(self, stage: str) -> None:
        row = {}
        for name in [name for name in self.metrics if name.startswith(stage)]:
            row[name] = float(self.metrics[name].compute())
            self.metrics[name].reset()
        self.log_dict(row, prog_bar=True, logger=False)
        if not self.trainer.sanity_checking:
            self.record(row, self.trainer.global_step)
