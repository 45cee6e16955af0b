"""Contrastive learning of a shared embedding space for two or more modalities, with gradient caching."""

import warnings
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from itertools import permutations
from typing import Any, Literal

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from zoo.nn.losses.all_gather import Group, batch_shard, gather
from zoo.nn.losses.temperature import clamp_temperature, temperature
from zoo.tasks.base import as_batch_dict, seed_all
from zoo.tasks.classification import Augmentation
from zoo.tasks.config import OptimSettings
from zoo.tasks.evaluated import EvaluatedTask
from zoo.tasks.retrieval_metrics import RECALL_AT, RetrievalMetrics
from zoo.utils.keyed_random import mix
from zoo.utils.transfer import to_host

Duplicates = Literal["name", "refuse", "positives", "ignore"]
_DUPLICATES = ("name", "refuse", "positives", "ignore")
_MAX_SHOWN = 5
_BEHIND = 4  # steps that a warning lags behind on a GPU


class ContrastiveTask(EvaluatedTask):
    """Train a multi-tower model contrastively, as in CLIP, SigLIP or CLAP; works in any `lightning.Trainer`.

        model = zoo.contrast(image="vit_cifar_tiny", text="bert_tiny")
        L.Trainer(max_epochs=3).fit(ContrastiveTask(model, lr=1e-3, grad_cache_size=64), loader)

    Batches are dicts with the inputs of two or more towers, row i of one matching row i of the others. Optional keys:
    `positives` [B], integers (rows with equal numbers are positives of one another); `captions`, the B texts, for
    messages; `image_id`, `text_id`, `audio_id` [B] (an item that occurs in several rows is retrieved once; default:
    `index` [B]; equal texts are always one item); `weight` [B] (0 excludes a row from evaluation).

    The loss is exact over the batches of all processes: gradients equal those of one process with all rows. Evaluation
    retrieves from the whole set, not within a batch. Logs `train_loss`, `lr`, `logit_scale`; for each pair of
    modalities, in both directions, `val_image_to_text_r1`, `..._r5`, `..._r10`, `..._median_rank`; `val_recall`, the
    mean of all R@k, which selects the best step; `val_loss`, over the whole set as one batch; the same as `test_...`.

    Args:
        model: A model made by `zoo.contrast`, or one with the same interface: forward(**inputs) returns an output with
            features and `pairs()`; `loss(output, chunk=, group=, positives=)`; `logit_scale`.
        lr: Peak learning rate; overrides the one in `optim`.
        optim: Further optimizer settings.
        loss_chunk_size: Rows of logits that the loss computes at a time; None chooses a size for the device.
        grad_cache_size: Rows that are encoded at a time, so that a large batch needs the memory of a small one:
            features are computed without storing activations, then again, with the same dropout, for the gradients,
            which are exact (Gao et al. 2021, GradCache, https://arxiv.org/abs/2101.06983). None encodes all rows at
            once.
        duplicates: What to do about equal texts in a batch, which are negatives of each other's partners: "name" lists
            them in one warning; "refuse" raises an error; "positives" treats them as positives; "ignore" does nothing.
        hub: Train only on pairs with this modality, e.g. "image". None trains on all pairs of modalities.
        augment: Turns a raw batch into a training or test batch; None uses batches as they are.
        ema, seed: See Task.
    """

    monitor = "val_recall"
    mode = "max"

    def __init__(self, model: nn.Module, lr: float | None = None, *, optim: OptimSettings | None = None,
                 loss_chunk_size: int | None = None, grad_cache_size: int | None = None,
                 duplicates: Duplicates = "name", hub: str | None = None, augment: Augmentation | None = None,
                 ema: float = 0.0, seed: int = 0):  # fmt: skip
        optim = optim or OptimSettings()
        super().__init__(model, optim=optim if lr is None else replace(optim, lr=lr), ema=ema, seed=seed)
        for name, value in (("loss_chunk_size", loss_chunk_size), ("grad_cache_size", grad_cache_size)):
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: expected at least 1 row")
        if duplicates not in _DUPLICATES:
            raise ValueError(f"duplicates={duplicates!r}: expected one of {', '.join(_DUPLICATES)}")
        modalities = getattr(model, "modalities", None)
        if hub is not None and modalities is not None and hub not in modalities:
            raise ValueError(f"hub={hub!r}: expected a modality of the model, {', '.join(modalities)}")
        self.loss_chunk_size, self.grad_cache_size = loss_chunk_size, grad_cache_size
        self.duplicates, self.hub, self.augment = duplicates, hub, augment
        self.metrics: dict[str, RetrievalMetrics] = {}  # a plain dict: metrics are not part of the state dict
        self._warned = False
        self._looks: deque[tuple[Any, ...]] = deque()  # for equal texts; not looked at yet

    @property
    def validation_metrics(self) -> dict[str, str]:
        """As in Task; recalls and ranks are those of the pairs of modalities that the model has."""
        found = super().validation_metrics
        for a, b in permutations(getattr(self.model, "modalities", ()), 2):
            if self.hub is None or self.hub in (a, b):
                found |= {f"val_{a}_to_{b}_r{k}": "max" for k in RECALL_AT}
                found[f"val_{a}_to_{b}_median_rank"] = "min"
        return found

    # --- training ----------------------------------------------------------------------------------------------------

    def loss_of(self, batch: Mapping[str, Any], step: int, micro: int) -> Tensor:
        """Contrastive loss over the batches of all processes."""
        batch = self._prepare(batch, step, train=True)
        inputs = self._inputs(batch)
        ids = self._positives(batch, step)
        output = self._encode_in_chunks(inputs, step, micro) if self.grad_cache_size else self.model(**inputs)
        return self._loss(self.model, output, ids, self._group)

    def _encode_in_chunks(self, inputs: dict[str, Any], step: int, micro: int) -> Any:
        """Output of the model for all rows, computed `grad_cache_size` rows at a time; only features are kept.

        Chunk k of n on rank r is seeded like micro-batch r * n + k, so dropout equals that of r * n processes without
        chunks.
        """
        assert self.grad_cache_size is not None
        split = {name: split_rows(x, self.grad_cache_size) for name, x in inputs.items()}
        count = len(next(iter(split.values())))
        outputs = [
            checkpoint(
                self._encode_chunk, {name: chunks[k] for name, chunks in split.items()}, step, micro * count + k,
                use_reentrant=False, preserve_rng_state=False,  # the chunk seeds itself, also when it is recomputed
            )
            for k in range(count)
        ]  # fmt: skip
        return concatenate_outputs(outputs)

    def _encode_chunk(self, inputs: dict[str, Any], step: int, micro: int) -> Any:
        seed_all(self.seed, step, micro, self.device)
        return self.model(**inputs)

    def _loss(self, model: nn.Module, output: Any, ids: Tensor | None, group: Group) -> Tensor:
        """Mean loss over the pairs of modalities that are trained on."""
        options = {"chunk": self.loss_chunk_size, "group": group, "positives": ids}
        losses = [model.loss(select_modalities(output, *pair), **options) for pair in self._pairs(output)]  # type: ignore[operator]
        return torch.stack(losses).mean()

    def _pairs(self, output: Any) -> list[tuple[str, str]]:
        pairs = [pair for pair in output.pairs() if self.hub is None or self.hub in pair]
        if not pairs:
            present = ", ".join(name for name, _ in features(output))
            hub = f", one of them the hub {self.hub!r}" if self.hub else ""
            raise ValueError(f"the batch only has {present}: ContrastiveTask needs the inputs of two modalities{hub}")
        return pairs

    def on_fit_start(self) -> None:
        """Check that no gradients are accumulated."""
        super().on_fit_start()
        self._check_accumulation()

    def on_train_epoch_start(self) -> None:
        """Check again: a GradientAccumulationScheduler may have changed the setting."""
        self._check_accumulation()

    def _check_accumulation(self) -> None:
        if (count := self.trainer.accumulate_grad_batches) != 1:
            raise ValueError(
                f"accumulate_grad_batches={count}: rows of different batches would not be contrasted, so this is not "
                f"the gradient of a batch {count} times as large. Use a batch {count} times as large and "
                f"ContrastiveTask(grad_cache_size=<rows to encode at a time>): about the same memory, exact gradients"
            )

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """As in Task; `logit_scale` is also clamped after each step, to a temperature scale between 1 and 100."""
        config: Any = super().configure_optimizers()
        config["optimizer"].register_step_post_hook(lambda *_: clamp_temperature(self.model))
        return config

    def record(self, row: dict[str, float], step: int) -> None:
        """Send metrics to every logger; training metrics include `logit_scale`."""
        if "train_loss" in row and hasattr(self.model, "logit_scale"):
            row = row | {"logit_scale": temperature(self.model)[0]}
        super().record(row, step)

    # --- batches -----------------------------------------------------------------------------------------------------

    def _prepare(self, batch: Mapping[str, Any], step: int, *, train: bool) -> Mapping[str, Any]:
        if self.augment is None:
            return batch
        return self.augment(batch, seed=self.seed, step=step, train=train)

    def _inputs(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        names = tuple(self.model.inputs)  # type: ignore[arg-type]
        if not (inputs := {name: batch[name] for name in names if name in batch}):
            raise ValueError(f"the model takes {', '.join(names)}; the batch has {', '.join(batch)}")
        return inputs

    def _positives(self, batch: Mapping[str, Any], step: int) -> Tensor | None:
        """[B] integers, equal for rows that are positives of one another; None if every row has one positive."""
        if "positives" in batch:
            return batch["positives"].long()
        if "input_ids" not in batch or self.duplicates == "ignore":
            return None
        ids = text_hashes(batch["input_ids"], batch.get("attention_mask"))
        if self.duplicates == "positives":
            return ids
        if not self._warned:
            self._look_for_duplicates(ids, batch, step)
        return None

    def _look_for_duplicates(self, ids: Tensor, batch: Mapping[str, Any], step: int) -> None:
        """Report equal texts in a batch. On a GPU that takes some steps, so that the host need not wait, but for an
        error."""
        all_ids = gather(ids, batch_shard(len(ids), ids.device, self._group))
        ordered = all_ids.sort().values
        found, ready = to_host((ordered[1:] == ordered[:-1]).any())
        self._looks.append((found, ready, all_ids, ids, batch, step))
        self._report_found(0 if ready is None or self.duplicates == "refuse" else _BEHIND)

    def _report_found(self, behind: int = 0) -> None:
        """Report what was found, except in the last `behind` batches."""
        while len(self._looks) > behind:
            found, ready, *where = self._looks.popleft()
            if ready is not None:
                ready.synchronize()
            if found and not self._warned:
                self._report_duplicates(*where)

    def on_train_end(self) -> None:
        """Report equal texts in the last batches."""
        super().on_train_end()
        self._report_found()

    def _report_duplicates(self, all_ids: Tensor, ids: Tensor, batch: Mapping[str, Any], step: int) -> None:
        """Warn once about equal texts in a batch, or raise ValueError with duplicates="refuse"."""
        _, group, count = all_ids.unique(return_inverse=True, return_counts=True)
        repeated = all_ids[count[group] > 1]
        rows = torch.isin(ids, repeated).nonzero()[:, 0].tolist()
        rows_of: dict[int, list[int]] = {}
        for row in rows:
            rows_of.setdefault(int(ids[row]), []).append(row)
        shown = [f"{self._caption(batch, at[0])} (rows {', '.join(map(str, at))})" for at in rows_of.values()]
        more = [f"and {len(shown) - _MAX_SHOWN} more"] if len(shown) > _MAX_SHOWN else []
        names = "; ".join(shown[:_MAX_SHOWN] + more)
        message = (
            f"step {step + 1}: {len(repeated.unique())} captions occur more than once in the batch"
            f"{': ' + names if names else ', in other processes'}. Equal captions are negatives of each other's "
            f"partners; duplicates='positives' makes them positives, duplicates='ignore' turns this check off"
        )
        if self.duplicates == "refuse":
            raise ValueError(message)
        self._warned = True
        warnings.warn(message, stacklevel=2)

    def _caption(self, batch: Mapping[str, Any], row: int) -> str:
        """The caption of a row for a message: its text if known, else its token ids."""
        if (captions := batch.get("captions")) is not None:
            return repr(captions[row])
        ids, keep = batch["input_ids"][row], batch.get("attention_mask")
        if keep is not None:
            ids = ids[keep[row].bool()]
        decode = getattr(getattr(getattr(self.model, "preprocess", None), "text", None), "decode", None)
        return repr(decode(ids)) if decode else f"token ids {ids.tolist()}"

    # --- evaluation --------------------------------------------------------------------------------------------------

    def predict_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """{modality: features [B, D]}."""
        batch = self._prepare(as_batch_dict(batch), 0, train=False)
        return dict(features(self.evaluated(**self._inputs(batch))))

    def _evaluate(self, batch: Mapping[str, Any], stage: str) -> None:
        batch = self._prepare(batch, 0, train=False)
        output = self.evaluated(**self._inputs(batch))
        by_modality = dict(features(output))
        keep = batch["weight"].bool() if "weight" in batch else slice(None)  # 0 marks padding rows of a rank
        ids = self._evaluated_ids(batch)
        ids = None if ids is None else ids[keep]
        for pair in self._pairs(output):
            name = "_".join((stage, *pair))
            if name not in self.metrics:
                self.metrics[name] = RetrievalMetrics(*pair).to(self.device)
            metric = self.metrics[name]
            metric.loss = partial(self._whole_loss, output, pair)
            a, b = (by_modality[side][keep] for side in pair)
            items = [None if (x := self._items(batch, side)) is None else x[keep] for side in pair]
            metric.update(a, b, a_ids=ids, b_ids=ids, a_items=items[0], b_items=items[1])

    def _evaluated_ids(self, batch: Mapping[str, Any]) -> Tensor | None:
        if "positives" in batch:
            return batch["positives"].long()
        if self.duplicates == "positives" and "input_ids" in batch:
            return text_hashes(batch["input_ids"], batch.get("attention_mask"))
        return None

    def _items(self, batch: Mapping[str, Any], modality: str) -> Tensor | None:
        """[B] integers, equal for rows that hold the same item of a modality."""
        if f"{modality}_id" in batch:
            return batch[f"{modality}_id"].long()
        if modality == "text":
            return text_hashes(batch["input_ids"], batch.get("attention_mask"))
        return batch["index"].long() if "index" in batch else None

    def _whole_loss(self, output: Any, pair: tuple[str, str], a: Tensor, b: Tensor, ids: Tensor) -> Tensor:
        """Loss of all rows as one batch, at the temperature of `output`."""
        whole = replace(output, **{f"{name}_features": x for name, x in zip(pair, (a, b), strict=True)})
        if len(a) < 2:
            return a.new_zeros(())
        return self._loss(self.evaluated, select_modalities(whole, *pair), ids, "local").float()

    def _log_epoch(self, stage: str) -> None:
        row: dict[str, float] = {}
        losses, recalls = [], []
        for name, metric in self.metrics.items():
            if not name.startswith(f"{stage}_"):
                continue
            values = {key: float(value) for key, value in metric.compute().items()}
            metric.reset()
            losses.append(values.pop("loss"))
            recalls += [value for key, value in values.items() if not key.endswith("_median_rank")]
            row |= {f"{stage}_{key}": value for key, value in values.items()}
        row |= {f"{stage}_loss": sum(losses) / len(losses), f"{stage}_recall": sum(recalls) / len(recalls)}
        self.log_evaluation(row, prog_bar=False)


def features(output: Any) -> list[tuple[str, Tensor]]:
    """(modality, features [B, D]) for each modality in an output."""
    names = [f.name for f in fields(output) if f.name.endswith("_features")]
    return [(name.removesuffix("_features"), x) for name in names if (x := getattr(output, name)) is not None]


def select_modalities(output: Any, *pair: str) -> Any:
    """An output with only the features of these modalities."""
    return replace(output, **{f"{name}_features": None for name, _ in features(output) if name not in pair})


def concatenate_outputs(outputs: list[Any]) -> Any:
    """Concatenate the outputs for the chunks of a batch."""
    chunks = [features(output) for output in outputs]
    whole = {f"{same[0][0]}_features": torch.cat([x for _, x in same]) for same in zip(*chunks, strict=True)}
    return replace(outputs[0], **whole)


def split_rows(rows: Tensor | list[Any], size: int) -> Sequence[Any]:
    """Parts of `size` rows of an input: a tensor, or numbers on the host."""
    return rows.split(size) if isinstance(rows, Tensor) else [rows[i : i + size] for i in range(0, len(rows), size)]


def text_hashes(ids: Tensor, mask: Tensor | None = None) -> Tensor:
    """64-bit hashes of tokenized texts, int64 [B], independent of padding length and side.

    Without a mask, padding is hashed as well.
    """
    keep = torch.ones_like(ids) if mask is None else mask.bool().long()
    return mix((mix(mix(ids.long()) ^ keep.cumsum(1)) * keep).sum(1))
