"""Token classification: a tag for each word, such as those of named entities."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.utilities import dim_zero_cat

from zoo.nn.losses.cross_entropy import IGNORED
from zoo.preprocessing.tags import has_prefix
from zoo.tasks.base import as_batch_dict
from zoo.tasks.config import OptimSettings
from zoo.tasks.evaluated import EvaluatedTask
from zoo.utils import distributed


class EntityScores(Metric):
    """Precision, recall and F1 score of entities, as seqeval (and the script of CoNLL-2000) counts them.

    An entity is right if its first word, its last word and its type are. Tags are read as IOB1, IOB2 or BIOES.

    Args:
        labels: The names of the tags.

    Raises: ImportError without seqeval.
    """

    higher_is_better = True
    full_state_update = False

    def __init__(self, labels: Sequence[str]) -> None:
        super().__init__()
        try:
            import seqeval  # noqa: F401
        except ImportError:
            raise ImportError("the scores of entities need seqeval: pip install 'attention-zoo[seqeval]'") from None
        self.labels = list(labels)
        self.rows: list[Tensor]
        self.add_state("rows", default=[], dist_reduce_fx="cat")

    def update(self, predicted: Tensor, batch: Mapping[str, Tensor]) -> None:
        """Add the tags of a batch.

        Args:
            predicted: Tags of tokens [B, N].
            batch: `labels` [B, N], with -100 where there is no word; `index` [B] and `sentence` [B], by which the
                windows of a sentence are joined. Without them each row is a sentence.
        """
        labels = batch["labels"]
        unique = (distributed.rank() << 48) + (len(self.rows) << 24)
        index = batch.get("index", torch.arange(len(labels), device=labels.device) + unique)
        sentence = batch.get("sentence", index)
        position = torch.arange(labels.shape[1], device=labels.device).expand_as(labels)
        columns = [sentence[:, None].expand_as(labels), index[:, None].expand_as(labels), position, predicted, labels]
        self.rows.append(torch.stack(columns, -1)[labels != IGNORED])

    def sentences(self) -> tuple[list[list[str]], list[list[str]]]:
        """(true tags, predicted tags) of each sentence."""
        empty = isinstance(self.rows, list) and not self.rows  # it is a tensor once the processes have shared it
        rows = [] if empty else dim_zero_cat(self.rows).tolist()
        true: dict[int, list[str]] = {}
        predicted: dict[int, list[str]] = {}
        for sentence, _, _, guess, label in sorted(rows):
            true.setdefault(sentence, []).append(self.labels[label])
            predicted.setdefault(sentence, []).append(self.labels[guess])
        return list(true.values()), list(predicted.values())

    def compute(self) -> dict[str, float]:
        """`precision`, `recall` and `f1` over the entities of all types."""
        from seqeval.metrics.sequence_labeling import precision_recall_fscore_support

        true, predicted = self.sentences()
        if not true:
            return dict.fromkeys(("precision", "recall", "f1"), 0.0)
        scores = precision_recall_fscore_support(true, predicted, average="micro", zero_division=0)
        return {name: float(score) for name, score in zip(("precision", "recall", "f1"), scores)}

    def counts(self) -> tuple[list[str], Tensor]:
        """(types of entities, counts [T, 5] of each: true and false positives, 0, false negatives, entities)."""
        from seqeval.metrics.sequence_labeling import get_entities

        parts: list[set[tuple[str, int, int, int]]] = []
        for sentences in self.sentences():
            parts.append({(kind, i, start, end) for i, row in enumerate(sentences)
                          for kind, start, end in get_entities(row)})  # fmt: skip
        true, predicted = parts
        names = sorted({entity[0] for entity in true | predicted})
        rows = []
        for name in names:
            own, guessed = ({entity for entity in part if entity[0] == name} for part in (true, predicted))
            right = len(own & guessed)
            rows.append([right, len(guessed) - right, 0, len(own) - right, len(own)])
        return names, torch.tensor(rows, dtype=torch.long).reshape(-1, 5)


class TokenClassificationTask(EvaluatedTask):
    """Train and evaluate a model that gives each word a tag.

        task = TokenClassificationTask(zoo.load("bert", head="token"), labels=["O", "B-PER", "I-PER"], lr=5e-5)
        L.Trainer(max_epochs=3).fit(task, loader)

    Batches: the model's inputs and `labels` [B, N], the tag at the first token of each word and -100 elsewhere; with
    `index` and `sentence` [B], the rows of a sentence that is split are joined for the scores of entities. Logs
    `train_loss`, `lr`, and for validation and test `loss`, `accuracy` (of words), and `precision`, `recall` and `f1` of
    entities. The step with the highest `val_f1` is the best; with tags that have no prefixes (parts of speech), which
    are no entities, that with the highest `val_accuracy`.

    Args:
        model: Returns logits [B, N, C].
        lr: Peak learning rate; overrides the one in `optim`.
        labels: The names of the C tags. Default: `model.labels`.
        label_smoothing: Fraction of the target that is spread over all tags.
        optim, ema, seed: See Task.

    Raises: ImportError without seqeval, if the tags are those of entities.
    """

    mode = "max"

    def __init__(self, model: nn.Module, lr: float | None = None, *, labels: Sequence[str] | None = None,
                 label_smoothing: float = 0.0, optim: OptimSettings | None = None, ema: float = 0.0,
                 seed: int = 0):  # fmt: skip
        optim = optim or OptimSettings()
        super().__init__(model, optim=optim if lr is None else replace(optim, lr=lr), ema=ema, seed=seed)
        names = labels or getattr(model, "labels", None)
        if not names:
            raise ValueError("the tags have no names: give labels=['O', 'B-PER', ...], or set model.labels")
        self.labels, self.label_smoothing = list(names), label_smoothing
        self.entities = any(map(has_prefix, self.labels))
        if self.entities:
            EntityScores(self.labels)  # raises before training, not after it
        self.monitor = "val_f1" if self.entities else "val_accuracy"
        self.metrics: dict[str, Metric] = {}  # a plain dict: metrics are not part of the state dict
        self.class_counts: Tensor | None = None
        self.class_names: list[str] = []

    @property
    def validation_metrics(self) -> dict[str, str]:
        """As in Task."""
        names = ["accuracy", *(["precision", "recall", "f1"] if self.entities else [])]
        return super().validation_metrics | {f"val_{name}": "max" for name in names}

    def loss_of(self, batch: Mapping[str, Any], step: int, micro: int) -> Tensor:
        """Mean cross-entropy over the words of a micro-batch."""
        logits, labels = self._logits(self.model, batch), batch["labels"]
        if labels.device.type == "cpu":
            losses = self._losses(logits, labels, self.label_smoothing)
            return self.mean_loss(losses.sum(), len(losses))
        return self.mean_loss(*self._sum_of_losses(logits, labels))

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Tags of tokens [B, N]."""
        return self._logits(self.evaluated, as_batch_dict(batch)).argmax(-1)

    def _logits(self, model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
        """Float32 logits [B, N, C] of a batch."""
        names = getattr(self.model, "inputs", None) or [k for k in batch if k in ("input_ids", "attention_mask")]
        logits = model(**{name: batch[name] for name in names if name in batch}).float()
        if logits.ndim != 3 or logits.shape[-1] != len(self.labels):
            raise ValueError(f"TokenClassificationTask needs logits [B, N, {len(self.labels)}], one for each tag, the "
                             f"model returned {list(logits.shape)}; create it with head='token', "
                             f"num_classes={len(self.labels)}")  # fmt: skip
        return logits

    def _losses(self, logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Losses [K] of the K words."""
        self._check_labels(logits, labels)
        found = labels != IGNORED
        return F.cross_entropy(logits[found], labels[found].long(), reduction="none", label_smoothing=label_smoothing)

    def _sum_of_losses(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(sum of the losses of all words, their number): words are not selected, which would wait for a GPU."""
        self._check_labels(logits, labels)
        total = F.cross_entropy(logits.flatten(0, 1), labels.flatten().long(), ignore_index=IGNORED, reduction="sum",
                                label_smoothing=self.label_smoothing)  # fmt: skip
        return total, (labels != IGNORED).sum()

    def _check_labels(self, logits: Tensor, labels: Tensor) -> None:
        if labels.shape != logits.shape[:2] or labels.is_floating_point():
            raise ValueError(f"labels of shape {list(labels.shape)} and {labels.dtype}: expected whole numbers of "
                             f"shape {list(logits.shape[:2])}, -100 where there is no word")  # fmt: skip

    def _evaluate(self, batch: Mapping[str, Any], stage: str) -> None:
        logits, labels = self._logits(self.evaluated, batch), batch["labels"]
        if f"{stage}_loss" not in self.metrics:
            made: dict[str, Metric] = {"loss": MeanMetric(), "accuracy": MulticlassAccuracy(
                len(self.labels), average="micro", ignore_index=IGNORED)}  # fmt: skip
            made |= {"entities": EntityScores(self.labels)} if self.entities else {}
            self.metrics |= {f"{stage}_{name}": metric.to(self.device) for name, metric in made.items()}
        losses, predicted = self._losses(logits, labels), logits.argmax(-1)
        if len(losses):
            self.metrics[f"{stage}_loss"].update(losses)
            self.metrics[f"{stage}_accuracy"].update(predicted.flatten(), labels.flatten())
        if self.entities:
            self.metrics[f"{stage}_entities"].update(predicted, batch)

    def _log_epoch(self, stage: str) -> None:
        metric = self.metrics.get("test_entities")
        if isinstance(metric, EntityScores) and stage == "test":
            with metric.sync_context():
                names, counts = metric.counts()
            if names:
                self.class_names, self.class_counts = names, counts
        super()._log_epoch(stage)
