"""Sequence to sequence: train an encoder-decoder to write a target text for a source, such as a translation."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from zoo.inference.generation.generate import generate
from zoo.models.base import Model
from zoo.nn.losses.cross_entropy import IGNORED
from zoo.nn.losses.token_labels import shift_right
from zoo.tasks.base import as_batch_dict
from zoo.tasks.classification import Augmentation
from zoo.tasks.config import OptimSettings
from zoo.tasks.language_modeling import Predictions, output_layer
from zoo.tasks.text_metric import TextMetricTask
from zoo.tasks.weighted_mean import WeightedMean

CHUNK = 2048  # tokens whose scores are computed at a time in evaluation
DECODER_INPUTS = ("decoder_input_ids", "decoder_attention_mask", "lengths")


class Seq2SeqTask(TextMetricTask):
    """Train an encoder-decoder with teacher forcing: the decoder reads the target tokens, and predicts each next one.

        L.Trainer(max_steps=1000).fit(Seq2SeqTask(model, lr=1e-3, label_smoothing=0.1), loader)

    Batches: the model's inputs, such as `input_ids` or `input_features`, and `labels` [B, T]: the target tokens with
    the end token, -100 for padding on the right. The decoder reads them shifted right behind the model's
    `decoder_start_token_id`. Logs `train_loss`, `lr`, and for validation and test `loss` and `perplexity` per token,
    without label smoothing, and `token_accuracy`, the fraction of the tokens that are the most probable ones after the
    right tokens before them.

    With `text_metric`, texts are generated for the inputs and compared with `references`: greedily for the first
    `val_samples` items in validation, and with the beams of `generation` in the test, whose texts are in `predictions`
    afterwards. For it, batches have the `index` of their items.

    Args:
        model: Returns logits [B, T, V] for its inputs with `decoder_input_ids` [B, T]; created with head="lm".
        lr: Peak learning rate; overrides the one in `optim`.
        label_smoothing: Fraction of the target that is spread evenly over all tokens of the vocabulary.
        text_metric: Makes the metric of generated texts, such as `BLEU`: `update(predictions, references)`, `compute()`
            gives its scores by name, and `directions` has "max" or "min" for each name.
        references: Target texts of the stages "val" and "test", by the index of the item.
        val_samples: Number of validation items to generate texts for; 0 generates none.
        generation: Options of `zoo.generate`, such as num_beams (of the test), length_penalty and max_new_tokens.
        optim, ema, seed: See Task.

    Attributes:
        augment: Turns a raw batch into a training or test batch; None uses batches as they are. Set it if the data
            module has one: `task.augment = data.augment`.

    Source: label smoothing as in Vaswani et al. 2017, section 5.4, https://arxiv.org/abs/1706.03762.
    Raises: ValueError for a model without `decoder_start_token_id`, or more beams than it has tokens.
    """

    augment: Augmentation | None = None

    def __init__(self, model: nn.Module, lr: float | None = None, *, label_smoothing: float = 0.0,
                 text_metric: Callable[[], Metric] | None = None, references: Mapping[str, Sequence[str]] | None = None,
                 val_samples: int = 200, generation: Mapping[str, Any] | None = None,
                 optim: OptimSettings | None = None, ema: float = 0.0, seed: int = 0):  # fmt: skip
        optim = optim or OptimSettings()
        super().__init__(model, optim=optim if lr is None else replace(optim, lr=lr), ema=ema, seed=seed)
        if not 0.0 <= label_smoothing < 1.0:
            raise ValueError(f"label_smoothing={label_smoothing}: expected at least 0 and less than 1")
        config: Any = getattr(model, "config", None)
        start = getattr(config, "decoder_start_token_id", None)
        if start is None:
            raise ValueError(f"{type(model).__name__} has no decoder_start_token_id, the token that the decoder reads "
                             f"first: expected an encoder-decoder whose config has one")  # fmt: skip
        self.start_id: int = start
        pad = getattr(config, "pad_token_id", None)
        self.pad_id: int = start if pad is None else pad
        self.label_smoothing = label_smoothing
        usual = {"num_beams": 1, "max_new_tokens": 128}
        self.set_text_metric(text_metric, references, val_samples, usual | dict(generation or {}))
        self.metrics: dict[str, Metric] = {}  # a plain dict: metrics are not part of the state dict

    @property
    def validation_metrics(self) -> dict[str, str]:
        """As in Task."""
        return super().validation_metrics | {"val_perplexity": "min", "val_token_accuracy": "max"}

    def loss_of(self, batch: Mapping[str, Any], step: int, micro: int) -> Tensor:
        """Mean loss over the target tokens of a micro-batch."""
        return self.mean_loss(*self._totals(self._prepare(batch, step, train=True)))

    def _totals(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """(sum of the losses of the target tokens of a training batch, their number)."""
        predictions = replace(self.predict(self.model, batch), label_smoothing=self.label_smoothing)
        return predictions.cross_entropy("sum"), predictions.count

    def predict(self, model: nn.Module, batch: Mapping[str, Any]) -> Predictions:
        """What the model predicts for the target tokens of a batch."""
        labels = batch["labels"].long()
        names = getattr(self.model, "inputs", ("input_ids", "attention_mask"))
        inputs = {name: batch[name] for name in names if name in batch}
        # Padding on the right comes after all tokens that count: the causal mask hides it from them.
        inputs.setdefault("decoder_input_ids", shift_right(labels, self.start_id, self.pad_id))
        layer = output_layer(model)
        if layer is None:
            x = model(**inputs)
            if x.ndim != 3 or x.shape[:2] != labels.shape:
                raise ValueError(f"Seq2SeqTask needs logits [B, T, V] for labels {list(labels.shape)}, the model "
                                 f"returned {list(x.shape)}; create it with head='lm'")  # fmt: skip
        else:
            own: Any = model
            x = own.head.features(own.hidden_states(**inputs))
        x, labels = x.flatten(0, 1), labels.flatten()
        if not x.is_cuda:  # the output layer skips padding; on a GPU its number would have to be waited for
            real = (labels != IGNORED).nonzero()[:, 0]
            x, labels = x[real], labels[real]
        return Predictions(x, labels, layer)

    # --- evaluation --------------------------------------------------------------------------------------------------

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Update the validation metrics, with greedy decoding."""
        batch = self._prepare(as_batch_dict(batch), 0, train=False)
        self._evaluate(batch, "val")
        self._validate_texts(batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Update the test metrics, with beam search."""
        batch = self._prepare(as_batch_dict(batch), 0, train=False)
        self._evaluate(batch, "test")
        self._test_texts(batch)

    def generate(self, model: nn.Module, batch: Mapping[str, Any], **options: Any) -> list[str]:
        """The texts that the model writes for the inputs of a batch."""
        names = [name for name in self.model.inputs if name not in DECODER_INPUTS and name in batch]  # type: ignore[union-attr]
        inputs = {name: batch[name] for name in names}
        ids = generate(cast(Model, model), **inputs, **(self.generation | options))
        preprocess: Any = self.model.preprocess
        return [preprocess.decode(row) for row in ids.cpu()]

    def _prepare(self, batch: Mapping[str, Any], step: int, *, train: bool) -> Mapping[str, Any]:
        if self.augment is None:
            return batch
        return self.augment(batch, seed=self.seed, step=step, train=train)

    def _metric(self, name: str, make: Callable[[], Metric]) -> Metric:
        if name not in self.metrics:
            self.metrics[name] = make().to(self.device)
        return self.metrics[name]

    def _evaluate(self, batch: Mapping[str, Any], stage: str) -> None:
        predictions = self.predict(self.evaluated, batch)
        count = predictions.count
        loss, right = predictions.x.new_zeros((), dtype=torch.float32), count.new_zeros(())
        for x, labels in zip(predictions.x.split(CHUNK), predictions.labels.split(CHUNK)):
            scores = x if predictions.layer is None else predictions.layer(x)
            loss = loss + Predictions(scores, labels, None).cross_entropy("sum")
            right = right + (scores.argmax(-1) == labels).sum()
        for name, total in (("loss", loss), ("token_accuracy", right)):
            metric = self._metric(f"{stage}_{name}", WeightedMean)
            metric.update(total / count.clamp(min=1), count)

    def _log_epoch(self, stage: str) -> None:
        row = {}
        for name in ("loss", "token_accuracy"):
            row[f"{stage}_{name}"] = float(self.metrics[f"{stage}_{name}"].compute())
            self.metrics[f"{stage}_{name}"].reset()
        row[f"{stage}_perplexity"] = math.exp(min(row[f"{stage}_loss"], 700.0))
        self.log_evaluation(row | self._text_scores(stage))
