"""Causal and masked language modeling."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric

from zoo.tasks.base import Task, as_batch_dict
from zoo.tasks.config import OptimSettings
from zoo.utils.keyed_random import KeyedRandom

IGNORED = -100


class LanguageModelingTask(Task):
    """Base class of language modeling tasks, evaluated by the mean loss per token and the perplexity.

    Logs `train_loss`, `lr`, `val_loss`, `val_perplexity`, `test_loss`, `test_perplexity`.

    Args:
        model: A zoo model, or any module that returns logits [B, N, V].
        lr: Peak learning rate; overrides the one in `optim`.
        optim, ema, seed: See Task.
    """

    def __init__(self, model: nn.Module, lr: float | None = None, *, optim: OptimSettings | None = None,
                 ema: float = 0.0, seed: int = 0):  # fmt: skip
        optim = optim or OptimSettings()
        super().__init__(model, optim=optim if lr is None else replace(optim, lr=lr), ema=ema, seed=seed)
        self.metrics: dict[str, MeanMetric] = {}  # a plain dict: metrics are not part of the state dict

    def losses(self, model: nn.Module, batch: Mapping[str, Any], epoch: int | None = None) -> Tensor:
        """Losses [K] of the K tokens that are predicted. `epoch` is None in evaluation."""
        raise NotImplementedError

    def loss_of(self, batch: Mapping[str, Any], step: int, micro: int) -> Tensor:
        """Mean loss over the predicted tokens of a micro-batch."""
        losses = self.losses(self.model, batch, int(batch.get("epoch", 0)))
        return self.mean_loss(losses.sum(), len(losses))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Update the validation loss; deterministic."""
        self._evaluate(batch, "val_loss")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Update the test loss; deterministic."""
        self._evaluate(batch, "test_loss")

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics."""
        self._log_epoch("val")

    def on_test_epoch_end(self) -> None:
        """Log the test metrics."""
        self._log_epoch("test")

    def _evaluate(self, batch: Any, name: str) -> None:
        if name not in self.metrics:
            self.metrics[name] = MeanMetric().to(self.device)
        losses = self.losses(self.evaluated, as_batch_dict(batch))
        if len(losses):
            self.metrics[name].update(losses)

    def _log_epoch(self, stage: str) -> None:
        metric = self.metrics[f"{stage}_loss"]
        loss = float(metric.compute())
        metric.reset()
        row = {f"{stage}_loss": loss, f"{stage}_perplexity": math.exp(min(loss, 700.0))}
        self.log_dict(row, prog_bar=True, logger=False)
        if not self.trainer.sanity_checking:
            self.record(row, self.trainer.global_step)


class CausalLMTask(LanguageModelingTask):
    """Causal language modeling: train a decoder to predict the next token.

        L.Trainer(max_steps=1000).fit(CausalLMTask(zoo.create_model("gpt_nano"), lr=1e-3), loader)

    Batches: `input_ids` [B, N] and `labels` [B, N], the token that follows each position; without `labels` they are
    `input_ids` shifted by one. Padding (`attention_mask` 0) and labels of -100 are ignored.
    """

    def losses(self, model: nn.Module, batch: Mapping[str, Any], epoch: int | None = None) -> Tensor:
        logits = model(**_inputs(self.model, batch)).float()
        labels = batch.get("labels")
        if labels is None:
            logits, labels = logits[:, :-1], batch["input_ids"][:, 1:]
            if (keep := batch.get("attention_mask")) is not None:
                labels = labels.masked_fill(~(keep[:, 1:].bool() & keep[:, :-1].bool()), IGNORED)
        losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none")
        return losses[labels.flatten() != IGNORED]


class MaskedLMTask(LanguageModelingTask):
    """Masked language modeling: train an encoder to predict masked tokens.

    A fraction `mask_probability` of the non-special tokens is selected, at least one per text: 80% become the mask
    token, 10% a random token, 10% stay. The selection is a pure function of (seed, epoch, index, position); in
    evaluation it is always the same.

    Batches: `input_ids`, `attention_mask`, ... [B, N], `index` [B], `epoch`.

    Args:
        model: A model with head="masked_lm".
        mask_id: Id of the mask token.
        special: Ids of special tokens, which are never masked.
        mask_probability: Fraction of tokens that are selected.
        options: Further arguments of LanguageModelingTask.

    Source: Devlin et al. 2019, section 3.1, https://arxiv.org/abs/1810.04805.
    """

    def __init__(self, model: nn.Module, lr: float | None = None, *, mask_id: int, special: tuple[int, ...] = (),
                 mask_probability: float = 0.15, **options: Any):  # fmt: skip
        super().__init__(model, lr, **options)
        if not 0.0 < mask_probability < 1.0:
            raise ValueError(f"mask_probability={mask_probability}: expected more than 0 and less than 1")
        self.mask_id, self.special, self.mask_probability = mask_id, special, mask_probability
        self.vocab_size: int = model.config.vocab_size  # type: ignore[union-attr,assignment]

    def losses(self, model: nn.Module, batch: Mapping[str, Any], epoch: int | None = None) -> Tensor:
        masked_ids, selected = self.mask_tokens(batch, epoch)
        inputs = _inputs(self.model, batch) | {"input_ids": masked_ids}
        if hasattr(model, "encode") and isinstance(getattr(model, "head", None), nn.Module):
            logits = model.head(model.encode(**inputs)[selected])  # type: ignore[operator]  # skips the other tokens
        else:
            logits = model(**inputs)[selected]
        return F.cross_entropy(logits.float(), batch["input_ids"][selected], reduction="none")

    def mask_tokens(self, batch: Mapping[str, Any], epoch: int | None = None) -> tuple[Tensor, Tensor]:
        """(masked ids, which tokens were selected), each [B, N]; at least one token of each text is selected."""
        ids = batch["input_ids"]
        index = batch["index"][:, None] if "index" in batch else torch.arange(len(ids), device=ids.device)[:, None]
        positions = torch.arange(ids.shape[1], device=ids.device)
        random = KeyedRandom(self.seed, -1 if epoch is None else epoch, (index << 20) + positions)
        maskable = torch.isin(ids, torch.tensor(self.special, device=ids.device), invert=True)
        if (keep := batch.get("attention_mask")) is not None:
            maskable = maskable & keep.bool()
        rank = random.uniform("masked").masked_fill(~maskable, 2.0)
        selected = rank <= rank.amin(1, keepdim=True).clamp(min=self.mask_probability, max=1.0)
        how = random.uniform("masked/how")
        other = random.integers("masked/other", self.vocab_size)
        masked_ids = torch.where(selected & (how < 0.8), torch.full_like(ids, self.mask_id), ids)
        return torch.where(selected & (how >= 0.9), other, masked_ids), selected


def _inputs(model: nn.Module, batch: Mapping[str, Any]) -> dict[str, Any]:
    names = getattr(model, "inputs", ("input_ids", "attention_mask"))
    return {name: batch[name] for name in names if name in batch}
