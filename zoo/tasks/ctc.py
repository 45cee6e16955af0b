"""Speech recognition with connectionist temporal classification (CTC)."""

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
from zoo.tasks.base import as_batch_dict
from zoo.tasks.classification import Augmentation
from zoo.tasks.config import OptimSettings
from zoo.tasks.evaluated import EvaluatedTask


class CTCTask(EvaluatedTask):
    """Train a CTC model to transcribe speech.

        L.Trainer(max_steps=2000).fit(CTCTask(model, lr=1e-3), loader)

    Batches: the model's inputs, `labels` [B, L] (ids of the `Vocabulary`) and `label_lengths` [B]. Logs `train_loss`,
    `lr`, `val_loss`, `val_wer`, `val_cer` (word and character error rate) and the same for the test set. The step with
    the lowest `val_wer` is the best.

    Args:
        model: Created with head="ctc": returns logits [B, N, V]; `model.frames` maps sample counts to frame counts.
        lr: Peak learning rate; overrides the one in `optim`.
        vocabulary: Maps between ids and text. Default: that of `model.preprocess`.
        augment: Turns a raw batch into a training or test batch; None uses batches as they are.
        width: Beam width for decoding the test set; 1 decodes greedily, as in validation.
        optim, ema, seed: See Task.
    """

    monitor = "val_wer"
    mode = "min"

    def __init__(self, model: nn.Module, lr: float | None = None, *, vocabulary: Vocabulary | None = None,
                 augment: Augmentation | None = None, width: int = 1, optim: OptimSettings | None = None,
                 ema: float = 0.0, seed: int = 0):  # fmt: skip
        optim = optim or OptimSettings()
        super().__init__(model, optim=optim if lr is None else replace(optim, lr=lr), ema=ema, seed=seed)
        vocabulary = vocabulary or getattr(getattr(model, "preprocess", None), "vocabulary", None)
        if vocabulary is None:
            raise ValueError(
                "the model has no vocabulary: give vocabulary=zoo.preprocessing.ctc_vocabulary.Vocabulary.of(texts)"
            )
        if width < 1:
            raise ValueError(f"width={width}: expected at least 1")
        self.vocabulary, self.augment, self.width = vocabulary, augment, width
        self.metrics: dict[str, Metric] = {}  # a plain dict: metrics are not part of the state dict

    @property
    def validation_metrics(self) -> dict[str, str]:
        """As in Task."""
        return super().validation_metrics | {"val_cer": "min"}

    def loss_of(self, batch: Mapping[str, Any], step: int, micro: int) -> Tensor:
        """CTC loss per character, averaged over the texts of a micro-batch."""
        batch = self._prepare(batch, step, train=True)
        losses = self._losses(*self._scores(self.model, batch), batch)
        return self.mean_loss(losses.sum(), len(losses))

    def predict_step(self, batch: Any, batch_idx: int) -> list[str]:
        """Transcripts."""
        batch = self._prepare(as_batch_dict(batch), 0, train=False)
        return self._texts(*self._scores(self.evaluated, batch), self.width)

    def _prepare(self, batch: Mapping[str, Any], step: int, *, train: bool) -> Mapping[str, Any]:
        if self.augment is None:
            return batch
        return self.augment(batch, seed=self.seed, step=step, train=train)

    def _scores(self, model: nn.Module, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """(logits [B, N, V] in float32, number of frames of each row [B])."""
        inputs = {name: batch[name] for name in self.model.inputs if name in batch}  # type: ignore[union-attr]
        logits = model(**inputs).float()
        if logits.ndim != 3:
            raise ValueError(f"CTCTask needs logits [B, N, V], the model returned {list(logits.shape)}; create it "
                             f"with head='ctc'")  # fmt: skip
        mask, values = batch.get("attention_mask"), batch["input_values"]
        samples = torch.full(values.shape[:1], values.shape[1]) if mask is None else mask.sum(1)
        return logits, self.model.frames(samples.to(logits.device))  # type: ignore[operator]

    def _losses(self, logits: Tensor, frames: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """CTC losses per character of the texts, [B]."""
        labels, lengths = batch["labels"], batch["label_lengths"]
        losses = ctc_loss(logits, frames, labels, lengths, blank=self.vocabulary.blank_id, reduction="none")
        return losses / lengths.clamp(min=1)

    def _texts(self, logits: Tensor, frames: Tensor, width: int) -> list[str]:
        blank = self.vocabulary.blank_id
        if width == 1:
            ids = greedy(logits, frames, blank=blank)
        else:
            ids = [hypotheses[0][0] for hypotheses in beam(logits, frames, width=width, blank=blank)]
        return [self.vocabulary.decode(one) for one in ids]

    def _evaluate(self, batch: Mapping[str, Any], stage: str) -> None:
        batch = self._prepare(batch, 0, train=False)
        logits, frames = self._scores(self.evaluated, batch)
        if f"{stage}_loss" not in self.metrics:
            metrics: dict[str, Metric] = {"loss": MeanMetric(), "wer": WordErrorRate(), "cer": CharErrorRate()}
            self.metrics |= {f"{stage}_{name}": metric.to(self.device) for name, metric in metrics.items()}
        self.metrics[f"{stage}_loss"].update(self._losses(logits, frames, batch))
        predictions = self._texts(logits, frames, self.width if stage == "test" else 1)
        rows = zip(batch["labels"].tolist(), batch["label_lengths"].tolist())
        references = [self.vocabulary.decode(row[:length]) for row, length in rows]
        for name in ("wer", "cer"):
            self.metrics[f"{stage}_{name}"].update(predictions, references)
