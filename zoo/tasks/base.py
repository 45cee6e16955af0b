"""Base class of all tasks: seeded randomness per step, optimizer, EMA, non-finite loss check, logging."""

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
    """A model with a training objective. Subclasses implement `loss_of(batch, step, micro)` and the evaluation steps.

    State dict: the model under `model.` and its exponential moving average, if any, under `ema.`. Nothing else is
    needed to resume: all randomness of a training step is a pure function of (seed, step, micro-batch).

    `monitor` is the validation metric that selects the best step; `mode` is "max" or "min".

    Args:
        model: Any module; it is called as `model(**inputs)` with the batch entries that `model.inputs` lists.
        optim: Optimizer settings: learning rate, weight decay, warm-up, frozen parameters.
        ema: Decay of the exponential moving average of the weights, which is evaluated and saved; 0 disables it.
        seed: Seed of all random numbers in training.
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
        self._ema_updater: EMA | None = None

    def loss_of(self, batch: Mapping[str, Any], step: int, micro: int) -> Tensor:
        """Scalar training loss of one micro-batch."""
        raise NotImplementedError

    @property
    def evaluated(self) -> nn.Module:
        """The model that is evaluated and saved: the moving average if there is one, else the model."""
        return self.model if self.ema is None else self.ema

    def finalize(self, model: nn.Module) -> nn.Module:
        """Prepare a trained model for saving, in place: LoRA adapters are merged into the weights."""
        return merge_lora(model)

    # --- one training step -------------------------------------------------------------------------------------------

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Loss of a micro-batch. Seeds all random number generators first and checks that the loss is finite."""
        step, micro = self.position(batch_idx)
        batch = as_batch_dict(batch)
        seed_all(self.seed, step, micro, self.device)
        loss = self.loss_of(batch, step, micro)
        self.guard.watch(loss, batch, step, micro)
        self._losses.append(loss.detach())
        return loss

    def position(self, batch_idx: int) -> tuple[int, int]:
        """(optimizer step, micro-batch within it): rank r at accumulation index a takes micro-batch a * world + r."""
        trainer = self.trainer
        within = batch_idx % trainer.accumulate_grad_batches
        group = trainer.distributed_sampler_kwargs or {"rank": 0, "num_replicas": 1}  # the data-parallel group
        return trainer.global_step, within * group["num_replicas"] + group["rank"]

    def configure_gradient_clipping(
        self, optimizer: torch.optim.Optimizer, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        """Clip by norm; done here because Lightning does not clip a fused optimizer under mixed precision."""
        if self.scaled or not gradient_clip_val or gradient_clip_algorithm not in (None, "norm"):
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], gradient_clip_val)

    @property
    def scaled(self) -> bool:
        """Whether a gradient scaler is in use (fp16)."""
        return getattr(self.trainer.precision_plugin, "scaler", None) is not None

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step the optimizer, then the moving average; both happen before any callback writes a checkpoint."""
        step = self.trainer.global_step
        super().optimizer_step(*args, **kwargs)
        if self._ema_updater is not None:
            self._ema_updater.update(step)
        losses, self._losses = self._losses, []
        if (step + 1) % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._record_step(step, losses)

    def _record_step(self, step: int, losses: list[Tensor]) -> None:
        """Log the loss, averaged over the step's micro-batches on all devices, and the learning rate.

        This goes to the loggers directly: `self.log` in every step would cost as much as a small model's step.
        """
        mean = self.trainer.strategy.reduce(torch.stack(losses).mean(), reduce_op="mean")
        lr = max(group["lr"] for group in self.trainer.optimizers[0].param_groups)
        self.log("train_loss", mean, prog_bar=True, logger=False, batch_size=1)
        self.record({"train_loss": float(mean), "lr": lr, "epoch": float(self.trainer.current_epoch)}, step + 1)

    def record(self, row: dict[str, float], step: int) -> None:
        """Send metrics to every logger. `step` is the number of optimizer steps done."""
        for logger in self.loggers:
            logger.log_metrics(row, step=step)

    # --- optimizer, sharding, checkpoints ----------------------------------------------------------------------------

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with parameter groups, and a warm-up + cosine schedule over the trainer's steps."""
        steps = self.trainer.estimated_stepping_batches
        if steps == float("inf"):
            raise ValueError("the learning rate schedule has no end: set max_steps or max_epochs of the Trainer")
        o = self.optim
        groups = param_groups(self.model, o.lr, o.weight_decay, o.layer_decay)
        optimizer = adamw(groups, o.betas, o.eps, fused=not self.scaled)
        factor = partial(warmup_cosine, steps=int(steps), warmup=round(o.warmup * steps), final=o.final_lr)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_model(self) -> None:
        """Shard the model and its moving average if the strategy provides a device mesh (FSDP2)."""
        if self.device_mesh is not None:
            for model in filter(None, (self.model, self.ema)):
                shard(model, self.device_mesh["data_parallel"])

    def on_fit_start(self) -> None:
        """Set the folder for a failing batch, and pair the moving average with the model (now placed and sharded)."""
        self.guard.folder = Path(self.trainer.default_root_dir)
        self._losses = []
        self._ema_updater = None if self.ema is None else EMA(self.ema, self.model, self.ema_decay)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check all pending losses before weights are written, and store the model's config with them."""
        self.guard.drain()
        described = describe(self.model)
        if described is not None:
            checkpoint["zoo"] = described


def as_batch_dict(batch: Any) -> Mapping[str, Any]:
    """A batch as a dict; an (images, labels) pair, as torchvision datasets yield it, becomes named inputs."""
    if isinstance(batch, Mapping):
        return batch
    if isinstance(batch, list | tuple) and len(batch) == 2:
        return {"pixel_values": batch[0], "labels": batch[1]}
    raise ValueError(f"expected a batch that is a dict or a pair (images, labels), got {type(batch).__name__}")


def seed_all(seed: int, step: int, micro: int, device: torch.device) -> None:
    """Seed the random number generators of the CPU and of `device` from (seed, step, micro-batch)."""
    digest = hashlib.blake2b(struct.pack("<3q", seed, step, micro), digest_size=8).digest()
    key = int.from_bytes(digest, "little") >> 1
    torch.default_generator.manual_seed(key)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(key)


def describe(model: nn.Module) -> dict[str, Any] | None:
    """The `config.json` of a zoo model, None for any other module."""
    return native.describe(model) if isinstance(model, Model) else None
