"""Contrast: two modalities or more learn one space, with a batch as large as one likes."""

import math
import warnings
from collections.abc import Mapping
from dataclasses import fields, replace
from functools import partial
from typing import Any, Literal

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from zoo.nn.losses.all_gather import Group, gather, place
from zoo.tasks.base import Task, named, seed_all
from zoo.tasks.classification import Augmentation
from zoo.tasks.config import OptimSettings
from zoo.tasks.retrieval_metrics import RetrievalMetrics
from zoo.utils.keyed_random import mix

Duplicates = Literal["name", "refuse", "positives", "ignore"]
HOTTEST = math.log(100)  # of the logarithmic scale, as in CLIP
_KINDS = ("name", "refuse", "positives", "ignore")
_SHOWN = 5


class ContrastiveTask(Task):
    """Train a model of several towers so that what belongs together lies close; also in a `lightning.Trainer` of one's
    own.

        model = zoo.contrast(image="vit_cifar_tiny", text="bert_tiny")
        L.Trainer(max_epochs=3).fit(Contrast(model, lr=1e-3, grad_cache_size=64), loader)

    Batches are dicts with the inputs of two towers or more, row i of one belonging to row i of the others. They may
    hold as well: `positives` [B], integers (pairs with equal ones are positives of one another); `captions`, the B
    texts, for messages; `image_id`, `text_id`, `audio_id` [B] (a thing that stands in several rows is one answer in
    retrieval; `index` [B] serves where they lack, and equal texts are one in any case); `weight` [B] (0 leaves a row
    out of an evaluation).

    The loss is exact over the batches of all processes: gradients are those of one process with all rows. Evaluation
    looks through everything there is, not within a batch. Logs `train_loss`, `lr`, `logit_scale`; of each pair of
    modalities, both ways, `val_image_to_text_r1`, `..._r5`, `..._r10`, `..._median_rank`; `val_recall`, the mean of all
    R@k, by which the best step is known; `val_loss`, over the whole set as one batch; the same as `test_...`.

    Args:
        model: forward(**inputs) gives an output with features, `pairs()`; `loss(output, chunk=, group=, positives=)`,
            `logit_scale`: what `zoo.contrast` makes, or the like.
        lr: Highest learning rate; goes over the one in `optim`.
        optim: The other settings of the optimizer.
        loss_chunk_size: Rows of scores that the loss holds at a time; None takes a number that suits the device.
        grad_cache_size: Rows that are encoded at a time. A large batch then needs the memory of a small one: features are
            computed without keeping anything, and once more, with the same dropout, for the gradients, which are the
            same (Gao et al. 2021, GradCache, https://arxiv.org/abs/2101.06983). None encodes all rows at once.
        duplicates: What to do about equal texts in a batch, each of which counts as a wrong answer to the other's
            partner: "name" them in a warning, once; "refuse" them; count them as "positives"; "ignore" them.
        hub: The modality around which others gather: only pairs with it count. None counts all pairs.
        augment: Makes a training or test batch of a raw one; None takes batches as they are.
        ema, seed: See Task.
    """

    monitor = "val_recall"
    mode = "max"

    def __init__(self, model: nn.Module, lr: float | None = None, *, optim: OptimSettings | None = None,
                 loss_chunk_size: int | None = None, grad_cache_size: int | None = None, duplicates: Duplicates = "name",
                 hub: str | None = None, augment: Augmentation | None = None,
                 ema: float = 0.0, seed: int = 0):  # fmt: skip
        optim = optim or OptimSettings()
        super().__init__(model, optim=optim if lr is None else replace(optim, lr=lr), ema=ema, seed=seed)
        for name, value in (("loss_chunk_size", loss_chunk_size), ("grad_cache_size", grad_cache_size)):
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: expected at least 1 row")
        if duplicates not in _KINDS:
            raise ValueError(f"duplicates={duplicates!r}: expected one of {', '.join(_KINDS)}")
        known = getattr(model, "modalities", None)
        if hub is not None and known is not None and hub not in known:
            raise ValueError(f"hub={hub!r}: the model has {', '.join(known)}")
        self.loss_chunk_size, self.grad_cache_size, self.duplicates, self.hub, self.augment = (
            loss_chunk_size,
            grad_cache_size,
            duplicates,
            hub,
            augment,
        )
        self.metrics: dict[str, RetrievalMetrics] = {}  # no submodules: nothing of them belongs into a checkpoint
        self._warned = False

    # --- training ----------------------------------------------------------------------------------------------------

    def loss_of(self, batch: Mapping[str, Any], step: int, micro: int) -> Tensor:
        """The loss of the batches of all processes."""
        batch = self._prepare(batch, step, train=True)
        inputs = self._inputs(batch)
        ids = self._positives(batch, step)
        output = self._encode_in_parts(inputs, step, micro) if self.grad_cache_size else self.model(**inputs)
        return self._loss(self.model, output, ids, self._group)

    def _encode_in_parts(self, inputs: dict[str, Tensor], step: int, micro: int) -> Any:
        """The output of the model for all rows, `grad_cache_size` at a time, of which only features are kept.

        Part k of rank r's n draws what micro-batch r * n + k would: dropout is that of as many processes without parts.
        """
        assert self.grad_cache_size is not None
        split = {name: x.split(self.grad_cache_size) for name, x in inputs.items()}
        count = len(next(iter(split.values())))
        outputs = [
            checkpoint(
                self._encode_part, {name: parts[k] for name, parts in split.items()}, step, micro * count + k,
                use_reentrant=False, preserve_rng_state=False,  # keyed: it replays itself
            )
            for k in range(count)
        ]  # fmt: skip
        return joined(outputs)

    def _encode_part(self, inputs: dict[str, Tensor], step: int, micro: int) -> Any:
        seed_all(self.seed, step, micro, self.device)
        return self.model(**inputs)

    def _loss(self, model: nn.Module, output: Any, ids: Tensor | None, group: Group) -> Tensor:
        """The mean over the pairs of modalities that count."""
        options = {"chunk": self.loss_chunk_size, "group": group, "positives": ids}
        losses = [model.loss(alone(output, *pair), **options) for pair in self._pairs(output)]  # type: ignore[operator]
        return torch.stack(losses).mean()

    def _pairs(self, output: Any) -> list[tuple[str, str]]:
        pairs = [pair for pair in output.pairs() if self.hub is None or self.hub in pair]
        if not pairs:
            there = ", ".join(name for name, _ in features(output))
            about = f" with the hub {self.hub!r} among them" if self.hub else ""
            raise ValueError(f"a batch of {there} alone: ContrastiveTask needs the inputs of two modalities{about}")
        return pairs

    @property
    def _group(self) -> Group:
        """The processes whose rows make up a batch."""
        return None if self.device_mesh is None else self.device_mesh["data_parallel"].get_group()

    def on_fit_start(self) -> None:
        """Accumulated batches would not meet."""
        super().on_fit_start()
        self._refuse_accumulation()

    def on_train_epoch_start(self) -> None:
        """A scheduler may have changed how many batches are accumulated."""
        self._refuse_accumulation()

    def _refuse_accumulation(self) -> None:
        if (many := self.trainer.accumulate_grad_batches) != 1:
            raise ValueError(
                f"accumulate_grad_batches={many}: rows of different batches would never be contrasted, so this is not "
                f"the gradient of a batch {many} times as large. Make the batch itself {many} times as large and give "
                f"ContrastiveTask grad_cache_size=<rows to encode at a time>: about the same memory, and exact"
            )

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """As in every task; after each step the temperature is clamped: a scale between 1 and 100."""
        made: Any = super().configure_optimizers()
        made["optimizer"].register_step_post_hook(lambda *_: self._clamp())
        return made

    @torch.no_grad()
    def _clamp(self) -> None:
        if isinstance(scale := getattr(self.model, "logit_scale", None), Tensor):
            scale.clamp_(0.0, HOTTEST)

    def record(self, row: dict[str, float], step: int) -> None:
        """Write a row to every logger, with the temperature in those of training."""
        if "train_loss" in row and isinstance(scale := getattr(self.model, "logit_scale", None), Tensor):
            row = row | {"logit_scale": float(scale.detach().exp())}
        super().record(row, step)

    # --- batches -----------------------------------------------------------------------------------------------------

    def _prepare(self, batch: Mapping[str, Any], step: int, *, train: bool) -> Mapping[str, Any]:
        if self.augment is None:
            return batch
        return self.augment(batch, seed=self.seed, step=step, train=train)

    def _inputs(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        names = tuple(self.model.inputs)  # type: ignore[arg-type]
        if not (inputs := {name: batch[name] for name in names if name in batch}):
            raise ValueError(f"the model takes {', '.join(names)}; the batch has {', '.join(batch)}")
        return inputs

    def _positives(self, batch: Mapping[str, Any], step: int) -> Tensor | None:
        """[B] numbers of the rows that are positives of one another, None where each is its own."""
        if "positives" in batch:
            return batch["positives"].long()
        if "input_ids" not in batch or self.duplicates == "ignore":
            return None
        ids = text_numbers(batch["input_ids"], batch.get("attention_mask"))
        if self.duplicates == "positives":
            return ids
        if not self._warned:
            self._name(ids, batch, step)
        return None

    def _name(self, ids: Tensor, batch: Mapping[str, Any], step: int) -> None:
        """Warn of equal texts, once, or refuse them."""
        everywhere = gather(ids, place(len(ids), ids.device, self._group))
        _, group, count = everywhere.unique(return_inverse=True, return_counts=True)
        twice = everywhere[count[group] > 1]
        if not len(twice):
            return
        rows = torch.isin(ids, twice).nonzero()[:, 0].tolist()
        found: dict[int, list[int]] = {}
        for row in rows:
            found.setdefault(int(ids[row]), []).append(row)
        shown = [f"{self._spoken(batch, at[0])} (rows {', '.join(map(str, at))})" for at in found.values()]
        names = "; ".join(shown[:_SHOWN] + ([f"and {len(shown) - _SHOWN} more"] if len(shown) > _SHOWN else []))
        message = (
            f"step {step + 1}: {len(twice.unique())} captions stand in the batch more than once"
            f"{': ' + names if names else ', in other processes'}. Each counts as a wrong answer to what its equals "
            f"belong to; duplicates='positives' counts it as a right one, 'ignore' leaves it at that"
        )
        if self.duplicates == "refuse":
            raise ValueError(message)
        self._warned = True
        warnings.warn(message, stacklevel=2)

    def _spoken(self, batch: Mapping[str, Any], row: int) -> str:
        """A caption as one reads it, as far as that is known."""
        if (captions := batch.get("captions")) is not None:
            return repr(captions[row])
        ids, keep = batch["input_ids"][row], batch.get("attention_mask")
        if keep is not None:
            ids = ids[keep[row].bool()]
        decode = getattr(getattr(getattr(self.model, "preprocess", None), "text", None), "decode", None)
        return repr(decode(ids)) if decode else f"token ids {ids.tolist()}"

    # --- evaluation --------------------------------------------------------------------------------------------------

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Nothing in here is random."""
        self._evaluate(batch, "val")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """As in validation."""
        self._evaluate(batch, "test")

    def predict_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """{modality: features [B, D]}."""
        batch = self._prepare(named(batch), 0, train=False)
        return dict(features(self.evaluated(**self._inputs(batch))))

    def on_validation_epoch_end(self) -> None:
        """Log the figures of this validation."""
        self._finish("val")

    def on_test_epoch_end(self) -> None:
        """Log the figures."""
        self._finish("test")

    def _evaluate(self, batch: Any, stage: str) -> None:
        batch = self._prepare(named(batch), 0, train=False)
        output = self.evaluated(**self._inputs(batch))
        found = dict(features(output))
        keep = batch["weight"].bool() if "weight" in batch else slice(None)  # 0 marks the filler that evens out ranks
        ids = self._evaluated_ids(batch)
        ids = None if ids is None else ids[keep]
        for pair in self._pairs(output):
            name = "_".join((stage, *pair))
            if name not in self.metrics:
                self.metrics[name] = RetrievalMetrics(*pair).to(self.device)
            metric = self.metrics[name]
            metric.loss = partial(self._whole_loss, output, pair)
            a, b = (found[side][keep] for side in pair)
            items = [None if (x := self._items(batch, side)) is None else x[keep] for side in pair]
            metric.update(a, b, a_ids=ids, b_ids=ids, a_items=items[0], b_items=items[1])

    def _evaluated_ids(self, batch: Mapping[str, Any]) -> Tensor | None:
        if "positives" in batch:
            return batch["positives"].long()
        if self.duplicates == "positives" and "input_ids" in batch:
            return text_numbers(batch["input_ids"], batch.get("attention_mask"))
        return None

    def _items(self, batch: Mapping[str, Any], modality: str) -> Tensor | None:
        """[B] numbers by which a thing that stands in several rows is known."""
        if f"{modality}_id" in batch:
            return batch[f"{modality}_id"].long()
        if modality == "text":
            return text_numbers(batch["input_ids"], batch.get("attention_mask"))
        return batch["index"].long() if "index" in batch else None

    def _whole_loss(self, output: Any, pair: tuple[str, str], a: Tensor, b: Tensor, ids: Tensor) -> Tensor:
        """Of all rows as one batch, at the temperature of `output`."""
        whole = replace(output, **{f"{name}_features": x for name, x in zip(pair, (a, b), strict=True)})
        if len(a) < 2:
            return a.new_zeros(())
        return self._loss(self.evaluated, alone(whole, *pair), ids, "local").float()

    def _finish(self, stage: str) -> None:
        row: dict[str, float] = {}
        losses, recalls = [], []
        for name, metric in self.metrics.items():
            if not name.startswith(f"{stage}_"):
                continue
            found = {key: float(value) for key, value in metric.compute().items()}
            metric.reset()
            losses.append(found.pop("loss"))
            recalls += [value for key, value in found.items() if not key.endswith("_median_rank")]
            row |= {f"{stage}_{key}": value for key, value in found.items()}
        row |= {f"{stage}_loss": sum(losses) / len(losses), f"{stage}_recall": sum(recalls) / len(recalls)}
        self.log_dict(row, prog_bar=False, logger=False)
        if not self.trainer.sanity_checking:
            self.record(row, self.trainer.global_step)


def features(output: Any) -> list[tuple[str, Tensor]]:
    """(modality, [B, D]) of what an output holds."""
    names = [f.name for f in fields(output) if f.name.endswith("_features")]
    return [(name.removesuffix("_features"), x) for name in names if (x := getattr(output, name)) is not None]


def alone(output: Any, *pair: str) -> Any:
    """An output with the features of these modalities and no others."""
    return replace(output, **{f"{name}_features": None for name, _ in features(output) if name not in pair})


def joined(outputs: list[Any]) -> Any:
    """Outputs for parts of a batch -> that of the whole."""
    found = [features(output) for output in outputs]
    whole = {f"{same[0][0]}_features": torch.cat([x for _, x in same]) for same in zip(*found, strict=True)}
    return replace(outputs[0], **whole)


def text_numbers(ids: Tensor, mask: Tensor | None = None) -> Tensor:
    """int64 [B]: equal for equal texts, however far they are padded and on which side; two others share one with a
    chance of 2^-64. Without a mask all tokens count, padding too."""
    keep = torch.ones_like(ids) if mask is None else mask.bool().long()
    return mix((mix(mix(ids.long()) ^ keep.cumsum(1)) * keep).sum(1))
