"""Language modeling: the next token, or those that a mask hides."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric

from zoo.tasks.base import Task, named
from zoo.tasks.config import OptimSettings
from zoo.utils.keyed_random import KeyedRandom

IGNORED = -100


class LanguageModelingTask(Task):
    """A task whose evaluation is the mean loss of a token, and its exponential, the perplexity.

    Logs `train_loss`, `lr`, `val_loss`, `val_perplexity`, `test_loss`, `test_perplexity`.

    Args:
        model: Of the zoo, or any module that returns scores [B, N, V].
        lr: Highest learning rate; goes over the one in `optim`.
        optim, ema, seed: See Task.
    """

    def __init__(self, model: nn.Module, lr: float | None = None, *, optim: OptimSettings | None = None,
                 ema: float = 0.0, seed: int = 0):  # fmt: skip
        optim = optim or OptimSettings()
        super().__init__(model, optim=optim if lr is None else replace(optim, lr=lr), ema=ema, seed=seed)
        self.metrics: dict[str, MeanMetric] = {}  # no submodules: nothing of them belongs into a checkpoint

    def losses(self, model: nn.Module, batch: Mapping[str, Any], epoch: int | None = None) -> Tensor:
        """[K], of the tokens that count. epoch: in training, else None."""
        raise NotImplementedError

    def loss_of(self, batch: Mapping[str, Any], step: int, micro: int) -> Tensor:
        """The mean over the tokens of a micro-batch."""
        return self.losses(self.model, batch, int(batch.get("epoch", 0))).mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Nothing in here is random."""
        self._evaluate(batch, "val_loss")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """As in validation."""
        self._evaluate(batch, "test_loss")

    def on_validation_epoch_end(self) -> None:
        """Log the figures of this validation."""
        self._finish("val")

    def on_test_epoch_end(self) -> None:
        """Log the figures."""
        self._finish("test")

    def _evaluate(self, batch: Any, name: str) -> None:
        if name not in self.metrics:
            self.metrics[name] = MeanMetric().to(self.device)
        losses = self.losses(self.evaluated, named(batch))
        if len(losses):
            self.metrics[name].update(losses)

    def _finish(self, stage: str) -> None:
        metric = self.metrics[f"{stage}_loss"]
        loss = float(metric.compute())
        metric.reset()
        row = {f"{stage}_loss": loss, f"{stage}_perplexity": math.exp(min(loss, 700.0))}
        self.log_dict(row, prog_bar=True, logger=False)
        if not self.trainer.sanity_checking:
            self.record(row, self.trainer.global_step)


class CausalLMTask(LanguageModelingTask):
    """Train a decoder on the next token.

        L.Trainer(max_steps=1000).fit(LMHead(zoo.create_model("gpt_nano"), lr=1e-3), loader)

    Batches: `input_ids` [B, N], and `labels` [B, N], the token behind each; without them the ids themselves say what
    follows. Padding (`attention_mask` 0) and labels of -100 do not count.
    """

    def losses(self, model: nn.Module, batch: Mapping[str, Any], epoch: int | None = None) -> Tensor:
        scores = model(**_inputs(self.model, batch)).float()
        labels = batch.get("labels")
        if labels is None:
            scores, labels = scores[:, :-1], batch["input_ids"][:, 1:]
            if (keep := batch.get("attention_mask")) is not None:
                labels = labels.masked_fill(~(keep[:, 1:].bool() & keep[:, :-1].bool()), IGNORED)
        losses = F.cross_entropy(scores.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none")
        return losses[labels.flatten() != IGNORED]


class MaskedLMTask(LanguageModelingTask):
    """Train an encoder to find tokens that are hidden from it.

    Of all tokens that are not special, `mask_probability` are chosen, and at least one of each text: 8 of 10 become the mask, 1
    another token, 1 stays. Which they are is a pure function of (seed, epoch, index, place); in evaluation always the
    same.

    Batches: `input_ids`, `attention_mask`, ... [B, N], `index` [B], `epoch`.

    Args:
        model: With head="masked_lm".
        mask_id: The mask's token id.
        special: Ids that are never hidden.
        mask_probability: Of the tokens that are hidden.
        options: Of LanguageModelingTask.

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
        hidden, chosen = self.hide(batch, epoch)
        inputs = _inputs(self.model, batch) | {"input_ids": hidden}
        if hasattr(model, "encode") and isinstance(getattr(model, "head", None), nn.Module):
            scores = model.head(model.encode(**inputs)[chosen])  # type: ignore[operator]  # of these tokens alone
        else:
            scores = model(**inputs)[chosen]
        return F.cross_entropy(scores.float(), batch["input_ids"][chosen], reduction="none")

    def hide(self, batch: Mapping[str, Any], epoch: int | None = None) -> tuple[Tensor, Tensor]:
        """(ids with some hidden, which those are), each [B, N]; at least one token of each text."""
        ids = batch["input_ids"]
        index = batch["index"][:, None] if "index" in batch else torch.arange(len(ids), device=ids.device)[:, None]
        places = torch.arange(ids.shape[1], device=ids.device)
        draws = KeyedRandom(self.seed, -1 if epoch is None else epoch, (index << 20) + places)
        open_ = torch.isin(ids, torch.tensor(self.special, device=ids.device), invert=True)
        if (keep := batch.get("attention_mask")) is not None:
            open_ = open_ & keep.bool()
        rank = draws.uniform("masked").masked_fill(~open_, 2.0)
        chosen = rank <= rank.amin(1, keepdim=True).clamp(min=self.mask_probability, max=1.0)
        how = draws.uniform("masked/how")
        other = draws.integers("masked/other", self.vocab_size)
        hidden = torch.where(chosen & (how < 0.8), torch.full_like(ids, self.mask_id), ids)
        return torch.where(chosen & (how >= 0.9), other, hidden), chosen


def _inputs(model: nn.Module, batch: Mapping[str, Any]) -> dict[str, Any]:
    names = getattr(model, "inputs", ("input_ids", "attention_mask"))
    return {name: batch[name] for name in names if name in batch}
