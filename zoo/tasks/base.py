"""What every task shares: keyed randomness, optimizer, moving average, the loss guard, the rows that are logged."""

import hashlib
import struct
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from zoo.checkpoints.formats import native
from zoo.models.base import Model
from zoo.parallel.fsdp import shard
from zoo.tasks.config import OptimSettings
from zoo.tasks.ema import EMA, averaged_copy
from zoo.tasks.lora import merge_lora
from zoo.tasks.loss_guard import LossGuard
from zoo.tasks.optimizer import adamw, freeze, param_groups
from zoo.tasks.schedule import warmup_cosine


class Task(L.LightningModule):
    """A model with an objective. A subclass gives `loss_of(batch, step, micro)` and the evaluation steps.

    State dict: the model under `model.`, its moving average, if there is one, under `ema.`. Nothing else is needed to
    go on: all randomness of a training step is a pure function of (seed, step, micro-batch).

    `monitor` is the figure of validations that says which step is the best, the greatest or the least by `mode`.

    Args:
        model: Any module; `model(**batch)` takes the keys of the batch that `model.inputs` lists.
        optim: Learning rate, decay, warm-up, frozen parameters.
        ema: Decay of the moving average that is evaluated and saved; 0 keeps none.
        seed: Key of every random draw in training.
    """

    monitor = "val_loss"
    mode = "min"

    def __init__(self, model: nn.Module, *, optim: OptimSettings, ema: float = 0.0, seed: int = 0):
        super().__init__()
        if not 0.0 <= ema < 1.0:
            raise ValueError(f"ema={ema}: expected a decay of at least 0 and less than 1, e.g. 0.999")
        freeze(model, optim.freeze)
        self.model = model
        self.ema = averaged_copy(model) if ema else None
        self.optim, self.ema_decay, self.seed = optim, ema, seed
        self.guard = LossGuard()
        self.strict_loading = True
        self._losses: list[Tensor] = []
        self._follower: EMA | None = None

    def loss_of(self, batch: Mapping[str, Any], step: int, micro: int) -> Tensor:
        """The scalar loss of one micro-batch in training."""
        raise NotImplementedError

    @property
    def evaluated(self) -> nn.Module:
        """The model that is evaluated and saved: the moving average if there is one."""
        return self.model if self.ema is None else self.ema

    def finished(self, model: nn.Module) -> nn.Module:
        """A trained model as it is saved, changed in place: adapters are added to what they stand beside."""
        return merge_lora(model)

    # --- one training step -------------------------------------------------------------------------------------------

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Loss of a micro-batch; sets the random state before, and looks for a loss that is no number after."""
        step, micro = self.position(batch_idx)
        batch = named(batch)
        seed_all(self.seed, step, micro, self.device)
        loss = self.loss_of(batch, step, micro)
        self.guard.watch(loss, batch, step, micro)
        self._losses.append(loss.detach())
        return loss

    def position(self, batch_idx: int) -> tuple[int, int]:
        """(optimizer step, micro-batch within it): rank r at accumulation index a takes micro-batch a * world + r."""
        trainer = self.trainer
        within = batch_idx % trainer.accumulate_grad_batches
        place = trainer.distributed_sampler_kwargs or {"rank": 0, "num_replicas": 1}  # of the data-parallel group
        return trainer.global_step, within * place["num_replicas"] + place["rank"]

    def configure_gradient_clipping(
        self, optimizer: torch.optim.Optimizer, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        """Clip by norm here where nothing is scaled: Lightning refuses a fused optimizer under bf16 as under fp16."""
        if self.scaled or not gradient_clip_val or gradient_clip_algorithm not in (None, "norm"):
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], gradient_clip_val)

    @property
    def scaled(self) -> bool:
        """Whether losses are scaled against underflow, as under fp16."""
        return getattr(self.trainer.precision_plugin, "scaler", None) is not None

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """One step of the optimizer, then of the average; both are done before any callback writes a checkpoint."""
        step = self.trainer.global_step
        super().optimizer_step(*args, **kwargs)
        if self._follower is not None:
            self._follower.update(step)
        losses, self._losses = self._losses, []
        if (step + 1) % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._record_step(step, losses)

    def _record_step(self, step: int, losses: list[Tensor]) -> None:
        """A row of the logs: the mean loss over the step's micro-batches on all devices, and the learning rate.

        Straight to the loggers: `self.log` in every step costs as much as a small model's step.
        """
        mean = self.trainer.strategy.reduce(torch.stack(losses).mean(), reduce_op="mean")
        rate = max(group["lr"] for group in self.trainer.optimizers[0].param_groups)
        self.log("train_loss", mean, prog_bar=True, logger=False, batch_size=1)
        self.record({"train_loss": float(mean), "lr": rate, "epoch": float(self.trainer.current_epoch)}, step + 1)

    def record(self, row: dict[str, float], step: int) -> None:
        """Write a row to every logger. `step` counts the optimizer steps done."""
        for logger in self.loggers:
            logger.log_metrics(row, step=step)

    # --- optimizer, sharding, checkpoints ----------------------------------------------------------------------------

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with decay groups, and warm-up + cosine over the trainer's steps."""
        steps = self.trainer.estimated_stepping_batches
        if steps == float("inf"):
            raise ValueError("the schedule needs an end: give the Trainer max_steps or max_epochs")
        o = self.optim
        groups = param_groups(self.model, o.lr, o.weight_decay, o.layer_decay)
        optimizer = adamw(groups, o.betas, o.eps, fused=not self.scaled)
        factor = partial(warmup_cosine, steps=int(steps), warmup=round(o.warmup * steps), final=o.final_lr)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_model(self) -> None:
        """Shard the model and its average when the strategy brought a device mesh (FSDP2)."""
        if self.device_mesh is not None:
            for model in filter(None, (self.model, self.ema)):
                shard(model, self.device_mesh["data_parallel"])

    def on_fit_start(self) -> None:
        """Where a bad batch would be saved; the average and its model, now that they are where they stay."""
        self.guard.folder = Path(self.trainer.default_root_dir)
        self._losses = []
        self._follower = None if self.ema is None else EMA(self.ema, self.model, self.ema_decay)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Look at all losses before weights go to disk, and say what model they belong to."""
        self.guard.drain()
        described = describe(self.model)
        if described is not None:
            checkpoint["zoo"] = described


def named(batch: Any) -> Mapping[str, Any]:
    """A batch as a dict; the pairs (images, labels) of torchvision's data sets get the names a model takes."""
    if isinstance(batch, Mapping):
        return batch
    if isinstance(batch, list | tuple) and len(batch) == 2:
        return {"pixel_values": batch[0], "labels": batch[1]}
    raise ValueError(f"expected a batch that is a dict or a pair (images, labels), got {type(batch).__name__}")


def seed_all(seed: int, step: int, micro: int, device: torch.device) -> None:
    """Set the random state of the host and of the step's device as a function of (seed, step, micro-batch)."""
    digest = hashlib.blake2b(struct.pack("<3q", seed, step, micro), digest_size=8).digest()
    key = int.from_bytes(digest, "little") >> 1
    torch.default_generator.manual_seed(key)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(key)


def describe(model: nn.Module) -> dict[str, Any] | None:
    """The `config.json` of a zoo model, None for a stranger."""
    return native.describe(model) if isinstance(model, Model) else None
