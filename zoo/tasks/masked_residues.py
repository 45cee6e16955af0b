"""Masked language modeling of proteins, with a prediction by frequencies beside it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.nn.losses.cross_entropy import IGNORED
from zoo.tasks.base import as_batch_dict
from zoo.tasks.language_modeling import MaskedLMTask
from zoo.tasks.weighted_mean import WeightedMean

PSEUDOCOUNT = 10.0  # sequences with the frequencies of all families and sites, which are added to those of a site


class SiteFrequencies:
    """Frequencies of the tokens at each site of each family of aligned sequences: a prediction without a model.

    Args:
        rows: Token ids of the training sequences, those of a family of equal length.
        families: The number of the family of each, from 0; empty: the frequencies are those of all sequences and sites.
        vocab_size: Number of tokens.
    """

    def __init__(self, rows: Sequence[Tensor], families: Sequence[int], vocab_size: int) -> None:
        everywhere = torch.bincount(torch.cat(list(rows)), minlength=vocab_size).double() + 1
        everywhere = everywhere / everywhere.sum()
        self.table = everywhere.log()[None, None]
        if families:
            counts = torch.zeros(max(families) + 1, max(map(len, rows)), vocab_size, dtype=torch.float64)
            for row, family in zip(rows, families, strict=True):
                counts[family, torch.arange(len(row)), row] += 1
            counts += PSEUDOCOUNT * everywhere
            self.table = (counts / counts.sum(-1, keepdim=True)).log()

    def log_probabilities(self, families: Tensor, length: int) -> Tensor:
        """[B, N, V] for sequences of these families [B], of N = `length` tokens."""
        if len(self.table) == 1:
            return self.table.expand(len(families), length, -1)
        return self.table[families, :length]


class MaskedResidueTask(MaskedLMTask):
    """Masked language modeling of proteins; see `MaskedLMTask`.

    The test also logs how well the frequencies of the training sequences predict the same masked residues,
    `test_frequencies_loss` and `test_frequencies_perplexity`.

    Args:
        model: A model with head="masked_lm".
        frequencies: Of the training sequences; None logs nothing beside the model.
        families: The number of the family of each test sequence, int64; None if there is one table for all.
        options: Further arguments of MaskedLMTask.
    """

    def __init__(self, model: Any, lr: float | None = None, *, frequencies: SiteFrequencies | None = None,
                 families: Tensor | None = None, **options: Any) -> None:  # fmt: skip
        super().__init__(model, lr, **options)
        self.frequencies, self.families = frequencies, families

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """As in MaskedLMTask, also for the frequencies."""
        super().test_step(batch, batch_idx)
        if self.frequencies is None:
            return
        losses = self.frequency_losses(self.labeled(as_batch_dict(batch), None), self.frequencies)
        if "frequencies" not in self.metrics:
            self.metrics["frequencies"] = WeightedMean().to(self.device)
        self.metrics["frequencies"].update(losses.mean().to(self.device), len(losses))

    def frequency_losses(self, batch: Mapping[str, Any], frequencies: SiteFrequencies) -> Tensor:
        """Losses [K] of the masked residues of a batch with `labels` by the frequencies."""
        labels = batch["labels"].cpu()
        index = batch["index"].cpu()
        families = torch.zeros_like(index) if self.families is None else self.families[index]
        predicted = frequencies.log_probabilities(families, labels.shape[1])
        masked = labels != IGNORED
        return F.nll_loss(predicted[masked], labels[masked], reduction="none")

    def on_test_epoch_end(self) -> None:
        """As in MaskedLMTask, also for the frequencies."""
        super().on_test_epoch_end()
        if (metric := self.metrics.get("frequencies")) is not None:
            loss = float(metric.compute())
            metric.reset()
            self.log_evaluation({"test_frequencies_loss": loss, "test_frequencies_perplexity": math.exp(loss)})
