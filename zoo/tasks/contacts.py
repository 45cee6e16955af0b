"""Contacts of residues: each pair of residues of a protein is a contact or none."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric, Metric

from zoo.data.alignments.baselines import mean_field_dca, mutual_information
from zoo.tasks.config import OptimSettings
from zoo.tasks.evaluated import EvaluatedTask
from zoo.tasks.functions import at_least_float32
from zoo.tasks.masked_msa import column_log_frequencies, mask_msa, masked_losses, means_of_alignments
from zoo.tasks.weighted_mean import WeightedMean

DIVISORS = {"precision_l5": 5, "precision_l2": 2, "precision_l": 1}
BASELINES = {"mutual_information": mutual_information, "mean_field_dca": mean_field_dca}


def top_precision(scores: Tensor, contacts: Tensor, min_separation: int) -> Tensor:
    """Precision at L/5, L/2 and L of one protein of L residues, float32 [3]; NaN if it has no contact of this range.

    The fraction of contacts among the L / 5 (and so on, rounded down, at least 1) pairs i, j with the highest scores,
    of those with j - i >= min_separation whose contact is known.

    Args:
        scores: [N, N], of which the upper triangle is read.
        contacts: [N, N], 1 for a contact, 0 for none, -1 where it is not known.
        min_separation: Least distance along the chain; 24 is long range.
    """
    upper = torch.ones_like(scores, dtype=torch.bool).triu(min_separation)
    found = scores[upper & (contacts >= 0)]
    true = contacts[upper & (contacts >= 0)].float()
    if not bool(true.any()):
        return torch.full((len(DIVISORS),), torch.nan)
    ranked = true[found.argsort(descending=True, stable=True)]
    counts = [min(max(1, len(scores) // divisor), len(ranked)) for divisor in DIVISORS.values()]
    return torch.stack([ranked[:count].mean() for count in counts])


class ContactPrecision(Metric):
    """Mean over the proteins of the precision of their most probable long-range contacts; see `top_precision`.

    Proteins without a contact of this range do not count. `compute` returns `precision_l5`, `precision_l2` and
    `precision_l`, NaN if no protein counts.

    Args:
        min_separation: Least distance of a pair along the chain.
    """

    higher_is_better = True
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, min_separation: int = 24) -> None:
        super().__init__()
        self.min_separation = min_separation
        self.add_state("total", default=torch.zeros(len(DIVISORS)), dist_reduce_fx="sum")
        self.add_state("count", default=torch.zeros(()), dist_reduce_fx="sum")

    def update(self, scores: Tensor, contacts: Tensor, lengths: Tensor | None = None) -> None:
        """Add proteins: scores and contacts [B, N, N], lengths [B] without padding (None: N)."""
        sizes = [scores.shape[1]] * len(scores) if lengths is None else lengths.tolist()
        for own, true, size in zip(scores, contacts, sizes):
            found = top_precision(own[:size, :size], true[:size, :size], self.min_separation)
            if not found.isnan().any():
                self.total += found.to(self.total)
                self.count += 1

    def compute(self) -> dict[str, float]:
        """The mean of each."""
        means = self.total / self.count if self.count else torch.full_like(self.total, torch.nan)
        return dict(zip(DIVISORS, means.tolist()))


@dataclass(frozen=True)
class FamilyPrecision:
    """The precisions at L/5, L/2 and L of one test family, by name of the method; see `top_precision`."""

    index: int
    residues: int
    sequences: int
    precision: Mapping[str, tuple[float, ...]]


class ContactTask(EvaluatedTask):
    """Train and evaluate a model that predicts which residues of a protein are in contact.

    Batches: the model's inputs, such as `msa` [B, S, N], and `contacts` [B, N, N]: 1 for a contact, 0 for none, -1
    where it is unknown and at padding. The loss is the mean binary cross-entropy over the pairs i, j with j - i >=
    min_separation. Logs `train_loss`, `lr`, and for validation and test `loss` and the precision of long-range contacts
    at L/5, L/2 and L, `precision_l5`, `precision_l2` and `precision_l`. The step with the highest `val_precision_l2` is
    the best. The test also logs those of mutual information and mean-field direct coupling analysis on the same
    sequences, `test_mutual_information_precision_l5` and so on, and keeps each family in `tested`.

    Args:
        model: Returns logits [B, N, N], symmetric.
        lr: Peak learning rate; overrides the one in `optim`.
        min_separation: Least distance along the chain of pairs that are learned.
        long_range: Least distance along the chain of pairs whose precision is logged.
        baselines: Whether to test the two methods without a model, of batches with `msa`.
        masked_msa_weight: Above 0, residues of the alignment are masked in training, and the mean loss of predicting
            them, times this weight, is added to the loss of each of its pairs. The model is an Evoformer with
            masked_msa=True. Logs `val_masked_msa_loss` and `test_masked_msa_loss`, and beside it
            `test_column_frequencies_loss`, of a prediction by the frequencies of each column (Jumper et al. 2021,
            supplement, section 1.9.9).
        mask_probability: Fraction of the residues that are masked; see `mask_msa`.
        optim, ema, seed: See Task.
    """

    monitor = "val_precision_l2"
    mode = "max"

    def __init__(self, model: nn.Module, lr: float | None = None, *, min_separation: int = 6, long_range: int = 24,
                 baselines: bool = True, masked_msa_weight: float = 0.0, mask_probability: float = 0.15,
                 optim: OptimSettings | None = None, ema: float = 0.0, seed: int = 0):  # fmt: skip
        optim = optim or OptimSettings()
        super().__init__(model, optim=optim if lr is None else replace(optim, lr=lr), ema=ema, seed=seed)
        if not 1 <= min_separation <= long_range:
            raise ValueError(f"min_separation={min_separation}, long_range={long_range}: expected at least 1 and at "
                             f"least min_separation")  # fmt: skip
        self.min_separation, self.long_range, self.baselines = min_separation, long_range, baselines
        self.masked_msa_weight, self.mask_probability = masked_msa_weight, mask_probability
        self.metrics: dict[str, Metric] = {}  # a plain dict: metrics are not part of the state dict
        self.tested: list[FamilyPrecision] = []

    @property
    def validation_metrics(self) -> dict[str, str]:
        """As in Task."""
        return super().validation_metrics | {f"val_{name}": "max" for name in DIVISORS}

    def loss_of(self, batch: Mapping[str, Any], step: int, micro: int) -> Tensor:
        """Mean binary cross-entropy over the pairs of a micro-batch, and of the masked residues."""
        masked = None
        if self.masked_msa_weight:
            batch, logits, each = self._masked(self.model, batch, int(batch.get("epoch", 0)))
            masked = means_of_alignments(each, batch["labels"])
        else:
            logits = self._logits(self.model, batch)
        losses, known = self._losses(logits, batch["contacts"])
        total = losses.sum()
        if masked is not None:
            total = total + self.masked_msa_weight * (masked * known.sum((1, 2))).sum()
        return self.mean_loss(total, known.sum())

    def on_test_epoch_start(self) -> None:
        """Forget the families of an earlier test."""
        self.tested = []

    def _masked(
        self, model: nn.Module, batch: Mapping[str, Any], epoch: int
    ) -> tuple[Mapping[str, Any], Tensor, Tensor]:
        """(the batch with masked residues and their `labels`, logits of contacts [B, N, N], losses of the residues)."""
        msa, labels = mask_msa(batch, self.mask_probability, self.seed, epoch)
        batch = {**batch, "msa": msa, "labels": labels}
        contacts, logits = model(**self._inputs(batch), return_msa_logits=True)
        return batch, at_least_float32(contacts), masked_losses(logits, labels)

    def _inputs(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        names = getattr(self.model, "inputs", None) or ("msa", "msa_mask", "attention_mask")
        return {name: batch[name] for name in names if name in batch}

    def _logits(self, model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
        """Logits [B, N, N] of a batch, in float32 or float64."""
        logits, contacts = model(**self._inputs(batch)), batch["contacts"]
        if logits.shape != contacts.shape:
            raise ValueError(f"ContactTask needs logits [B, N, N] of the shape of `contacts`, {list(contacts.shape)}, "
                             f"the model returned {list(logits.shape)}; create it with head='contacts'")  # fmt: skip
        return at_least_float32(logits)

    def _losses(self, logits: Tensor, contacts: Tensor) -> tuple[Tensor, Tensor]:
        """(losses [B, N, N], 0 for pairs that do not count, which pairs do)."""
        known = (contacts >= 0) & torch.ones_like(logits[0], dtype=torch.bool).triu(self.min_separation)
        losses = F.binary_cross_entropy_with_logits(logits, contacts.clamp(min=0).to(logits.dtype), reduction="none")
        return losses * known, known

    def _evaluate(self, batch: Mapping[str, Any], stage: str) -> None:
        logits, contacts = self._logits(self.evaluated, batch), batch["contacts"]
        losses, known = self._losses(logits, contacts)
        counts = known.sum((1, 2))
        means = losses.sum((1, 2))[counts > 0] / counts[counts > 0]
        if len(means):
            self._metric(f"{stage}_loss", MeanMetric()).update(means, counts[counts > 0])
        lengths = lengths_of(batch)
        self._metric(f"{stage}_precision", ContactPrecision(self.long_range)).update(logits, contacts, lengths)
        if self.masked_msa_weight:
            self._evaluate_masked(batch, stage)
        if stage == "test" and "msa" in batch:
            self._test_families(batch, logits, lengths)

    def _evaluate_masked(self, batch: Mapping[str, Any], stage: str) -> None:
        """Update the loss of masked residues, always the same ones, and that of the frequencies of their columns."""
        masked, _, losses = self._masked(self.evaluated, batch, -1)
        found = {"masked_msa": losses}
        if stage == "test":
            found["column_frequencies"] = masked_losses(column_log_frequencies(masked), masked["labels"])
        for name, each in found.items():
            self._metric(f"{stage}_{name}_loss", WeightedMean()).update(each.sum() / max(len(each), 1), len(each))

    def _test_families(self, batch: Mapping[str, Any], logits: Tensor, lengths: Tensor) -> None:
        """Keep the precisions of each family, of the model and of the methods without one."""
        index = batch.get("index", torch.arange(len(logits)))
        for row, size in enumerate(lengths.tolist()):
            msa, true = real_rows(batch, row)[:, :size].cpu(), batch["contacts"][row, :size, :size].cpu()
            untrained = {name: method(msa).float() for name, method in BASELINES.items()} if self.baselines else {}
            for name, each in untrained.items():
                metric = self._metric(f"test_{name}", ContactPrecision(self.long_range))
                metric.update(each[None].to(self.device), true[None].to(self.device))
            scores = {"model": logits[row, :size, :size].cpu()} | untrained
            found = {name: tuple(top_precision(each, true, self.long_range).tolist()) for name, each in scores.items()}
            self.tested.append(FamilyPrecision(int(index[row]), size, len(msa), found))

    def _metric(self, name: str, new: Metric) -> Any:
        if name not in self.metrics:
            self.metrics[name] = new.to(self.device)
        return self.metrics[name]

    def _log_epoch(self, stage: str) -> None:
        row: dict[str, float] = {}
        for name, metric in self.metrics.items():
            if not name.startswith(stage):
                continue
            value = metric.compute()
            prefix = name if name != f"{stage}_precision" else stage
            row |= {f"{prefix}_{k}": v for k, v in value.items()} if isinstance(value, dict) else {name: float(value)}
            metric.reset()
        self.log_evaluation(row)


def lengths_of(batch: Mapping[str, Any]) -> Tensor:
    """Number of residues of each protein of a batch [B]: those of `attention_mask`, or all columns of `contacts`."""
    mask, contacts = batch.get("attention_mask"), batch["contacts"]
    return torch.full((len(contacts),), contacts.shape[1]) if mask is None else mask.sum(1)


def real_rows(batch: Mapping[str, Any], row: int) -> Tensor:
    """The sequences of one alignment of a batch [S, N], without padding by sequences."""
    mask = batch.get("msa_mask")
    msa: Tensor = batch["msa"][row]
    return msa if mask is None else msa[mask[row].bool().any(-1)]


def gap_closed(tested: list[FamilyPrecision], low: float = 0.2, high: float = 0.5) -> tuple[int, float, float]:
    """(number, mean of mutual information, mean of the model) of precisions at L/5, over the families where that of
    mutual information, with the average product correction, is from `low` to `high`; NaN without such families."""
    pairs = [(own.precision["mutual_information"][0], own.precision["model"][0]) for own in tested
             if low <= own.precision["mutual_information"][0] <= high]  # fmt: skip
    if not pairs:
        return 0, float("nan"), float("nan")
    before, after = (sum(values) / len(pairs) for values in zip(*pairs))
    return len(pairs), before, after
