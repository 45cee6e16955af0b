"""Base class of all tasks: randomness and mean loss of a step, optimizer, EMA, non-finite values, logging."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from zoo.checkpoints.formats import native
from zoo.models.base import Model
from zoo.parallel.context import slices_of
from zoo.parallel.fsdp import shard
from zoo.parallel.gradients import clip_by_norm, local, total_norm
from zoo.parallel.place import parallelize
from zoo.parallel.plan import batch_mesh, token_mesh
from zoo.parallel.token_slices import TokenSlices
from zoo.tasks.bf16_weights import BF16Weights
from zoo.tasks.config import OptimSettings
from zoo.tasks.cuda_graph import GraphedModel
from zoo.tasks.ema import EMA, averaged_copy
from zoo.tasks.functions import as_batch_dict, as_count, at_least_float32, metrics_in, optimized, seed_all
from zoo.tasks.lora import lora_scale, merge_lora
from zoo.tasks.loss_guard import LossGuard, MicroBatch
from zoo.tasks.mup import mup_rates
from zoo.tasks.optimizer import adamw, freeze, param_groups
from zoo.tasks.pipelined import TaskPipeline
from zoo.tasks.schedule import inverse_sqrt, warmup_cosine


class Task(L.LightningModule):
    """A model with a training objective. Subclasses implement `loss_of(batch, step, micro)` and the evaluation steps.

    State dict: the model under `model.` and its exponential moving average, if any, under `ema.`. Nothing else is
    needed to resume: all randomness of a training step is a pure function of (seed, step, micro-batch).

    The gradient of an optimizer step is that of the mean loss over all items of its batch, however the batch is split
    over devices and accumulation steps. A `loss_of` that averages over a varying number of items (tokens, weighted
    classes) therefore returns `self.mean_loss(total, count)`; without it micro-batches count equally.

    Where processes divide the tokens of a sequence (`Plan.context`), they receive the same batches. The outputs of a
    task with `divides_tokens` may be those of the tokens of this process, which `slices` finds in labels: its losses
    and metrics are sums over these tokens and their number. Other tasks have the outputs of all tokens everywhere.

    Where a plan cuts the model into the stages of a pipeline, `pipeline` calls it. A class that sets `runs_in_pipeline`
    itself has `prepared`, the batch whose rows are divided into microbatches, and `batch_loss` of a microbatch.

    `graphed` is what a `loss_of` calls in place of the model where a run trains with CUDA graphs, else None.
    `bf16_weights = BF16Weights(task.model)` trains with bfloat16 casts of the float32 weights, without autocast.

    `monitor` is the validation metric that selects the best step; `mode` is "max" or "min". Early stopping looks at
    `stop_monitor` and `stop_mode`: the loss, which still moves when an accuracy no longer does.

    Args:
        model: Any module; it is called as `model(**inputs)` with the batch entries that `model.inputs` lists.
        optim: Optimizer settings: learning rate, weight decay, warm-up, frozen parameters.
        ema: Decay of the exponential moving average of the weights, which is evaluated and saved; 0 disables it.
        seed: Seed of all random numbers in training.
    """

    monitor = "val_loss"
    mode = "min"
    stop_monitor = "val_loss"
    stop_mode = "min"
    divides_tokens = False
    runs_in_pipeline = False
    pipeline: TaskPipeline | None = None
    slices: TokenSlices | None = None

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
        self._micro_batches: list[MicroBatch] = []
        self._count: Tensor | float = 1.0  # items in the loss that `loss_of` just returned
        self._usual_count: float | None = None
        self._step_loss = torch.tensor(float("nan"))
        self._finite = torch.tensor(True)  # whether the gradient of the step is
        self._ema_updater: EMA | None = None
        self._logged_loss: Tensor | None = None
        self.graphed: GraphedModel | None = None
        self.bf16_weights: BF16Weights | None = None

    def loss_of(self, batch: Mapping[str, Any], step: int, micro: int) -> Tensor:
        """Scalar training loss of one micro-batch."""
        raise NotImplementedError

    def prepared(self, batch: Mapping[str, Any], step: int, *, train: bool) -> Mapping[str, Any]:
        """A batch with the inputs of the model and its `labels` or `targets`, after augmentation and masking; equal in
        all processes that have this batch."""
        raise NotImplementedError

    def batch_loss(self, model: Any, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor | float]:
        """(sum of the losses, number of items) of a prepared batch, without rows that `is_copy` names."""
        raise NotImplementedError

    def output_of(self, model: Any, batch: Mapping[str, Any]) -> Tensor:
        """What the metrics read of the output of a model for a prepared batch, with a row for each of its rows."""
        raise NotImplementedError

    def mean_loss(self, total: Tensor, count: Tensor | float) -> Tensor:
        """total / count, or 0 without items; training weights the micro-batch by `count` within its optimizer step.

        Args:
            total: Sum of the losses of the items of a micro-batch.
            count: Number of the items, or the sum of their weights.
        """
        self._count = count
        return total / (count.clamp(min=1e-30) if isinstance(count, Tensor) else max(count, 1e-30))

    @property
    def validation_metrics(self) -> dict[str, str]:
        """The metrics that a validation logs, each with its better direction, "max" or "min"."""
        return {"val_loss": "min", self.monitor: self.mode, self.stop_monitor: self.stop_mode}

    @property
    def evaluated(self) -> nn.Module:
        """The model that is evaluated and saved: the moving average if there is one, else the model."""
        return self.model if self.ema is None else self.ema

    def finalize(self, model: nn.Module) -> nn.Module:
        """Prepare a trained model for saving, in place: LoRA adapters are merged into the weights."""
        return merge_lora(model)

    # --- one training step -------------------------------------------------------------------------------------------

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Loss of a micro-batch, weighted by the number of its items. Seeds all random number generators first."""
        step, micro = self.position(batch_idx)
        batch = as_batch_dict(batch)
        seed_all(self.seed, step, micro, self.device)
        if self.pipeline is not None:
            return self.pipeline.start(batch, step, micro)
        self._count = 1.0
        loss = self.compute_loss(batch, step, micro)
        count = as_count(self._count, loss, torch.promote_types(loss.dtype, torch.float32))
        self._micro_batches.append(MicroBatch(loss.detach(), count, batch, micro))
        return loss * (count / self.usual_count(count))

    def usual_count(self, count: Tensor | float) -> float:
        """What losses are scaled by: any constant will do, and this one keeps them in the range of their means.

        count: the number of items of a micro-batch.
        """
        if self._usual_count is None:
            self._usual_count = float(self.trainer.strategy.broadcast(float(count))) or 1.0
        return self._usual_count

    def compute_loss(self, batch: Mapping[str, Any], step: int, micro: int) -> Tensor:
        """`loss_of`, with bfloat16 weights where a run trains with them: until `backward` has been called."""
        if self.bf16_weights is None:
            return self.loss_of(batch, step, micro)
        return self.bf16_weights.compute(self.loss_of, batch, step, micro)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """The backward pass of a micro-batch, after which the model has its float32 weights again."""
        if self.pipeline is not None:
            self._micro_batches.append(self.pipeline.run(loss))
            return
        try:
            super().backward(loss, *args, **kwargs)
        finally:
            if self.bf16_weights is not None:
                self.bf16_weights.restore()

    def position(self, batch_idx: int) -> tuple[int, int]:
        """(optimizer step, micro-batch within it): rank r at accumulation index a takes micro-batch a * world + r."""
        trainer = self.trainer
        within = batch_idx % trainer.accumulate_grad_batches
        rank, world = self._rank_and_world
        return trainer.global_step, within * world + rank

    @property
    def _rank_and_world(self) -> tuple[int, int]:
        """Data-parallel rank and world size."""
        sampler = self.trainer.distributed_sampler_kwargs or {"rank": 0, "num_replicas": 1}
        return sampler["rank"], sampler["num_replicas"]

    @property
    def _group(self) -> dist.ProcessGroup | None:
        """The process group whose rows make up a batch; None is the default group."""
        mesh = self.device_mesh
        if mesh is None:
            return None
        return (batch_mesh(mesh) if hasattr(self.trainer.strategy, "plan") else mesh["data_parallel"]).get_group()

    @property
    def _token_mesh(self) -> DeviceMesh | None:
        """The processes of a plan whose tokens make up a batch: without `context`, those of `_group`."""
        mesh = self.device_mesh
        return token_mesh(mesh) if mesh is not None and hasattr(self.trainer.strategy, "plan") else None

    def _average_gradients(self, optimizer: torch.optim.Optimizer) -> None:
        """Turn accumulated gradients into those of the mean loss over the items of the whole step.

        Lightning has divided each loss by the number of accumulation steps, the strategy by the number of processes.
        Those that divide a sequence have counted different tokens, or all of them the same items: that factor cancels.
        """
        losses = torch.stack([at_least_float32(micro.loss) for micro in self._micro_batches])
        counts = torch.stack([micro.count for micro in self._micro_batches])
        sums = torch.stack([(losses * counts).sum(), counts.sum()])
        mesh = self._token_mesh
        world = self._rank_and_world[1] if mesh is None else mesh.size()
        if world > 1:
            dist.all_reduce(sums, group=self._group if mesh is None else mesh.get_group())
        total = torch.where(sums[1] > 0, sums[1], 1.0)
        self._step_loss = sums[0] / total
        assert self._usual_count is not None
        factor = self.trainer.accumulate_grad_batches * world * self._usual_count / total
        if gradients := [local(p.grad) for p in optimized(optimizer) if p.grad is not None]:  # none in a frozen stage
            torch._foreach_mul_(gradients, factor)

    def configure_gradient_clipping(
        self, optimizer: torch.optim.Optimizer, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        """Clip the gradient, and let the optimizer skip this step if its norm is not finite.

        Done here because Lightning does not clip a fused optimizer under mixed precision. A fused optimizer reads a
        flag on the device, so that nothing waits for it; for others the gradients are dropped.
        """
        parameters = optimized(optimizer)
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = total_norm(gradients) if self.pipeline is None else self.pipeline.trained.grad_norm()
        if gradient_clip_val and gradient_clip_algorithm in (None, "norm"):
            clip_by_norm(parameters, gradient_clip_val, norm)
        elif gradient_clip_val:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        self._finite = norm.isfinite()
        step = self.trainer.global_step
        self.guard.watch(self._step_loss, norm, step, self._micro_batches, scaled=self.scaled)
        if getattr(optimizer, "_step_supports_amp_scaling", False):
            optimizer.found_inf = (~self._finite).float()  # type: ignore[attr-defined]
        elif not self._finite:
            for parameter in parameters:
                parameter.grad = None

    @property
    def scaled(self) -> bool:
        """Whether a gradient scaler is in use (fp16)."""
        return getattr(self.trainer.precision_plugin, "scaler", None) is not None

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        """Step the optimizer, then the moving average; both happen before any callback writes a checkpoint."""
        assert optimizer_closure is not None
        step = self.trainer.global_step

        def closure() -> Any:
            loss = optimizer_closure()
            self._average_gradients(optimizer)
            return loss

        super().optimizer_step(epoch, batch_idx, optimizer, closure)
        vars(getattr(optimizer, "optimizer", optimizer)).pop("found_inf", None)
        self._micro_batches = []
        if self._ema_updater is not None:
            self._ema_updater.update(step, self._finite)
        if (step + 1) % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._record_step(step)

    def _record_step(self, step: int) -> None:
        """Log the mean loss of the step over all its items, the learning rate, and how many steps were skipped.

        This goes to the loggers directly: `self.log` in every step would cost as much as a small model's step. On a GPU
        the row is written when the guard has the loss on the CPU, some steps later, and always before a checkpoint.
        """
        lr = max(group["lr"] for group in self.trainer.optimizers[0].param_groups)
        epoch = float(self.trainer.current_epoch)

        def write(loss: float) -> None:
            self._logged_loss = torch.tensor(loss)
            row = {"train_loss": loss, "lr": lr, "skipped_steps": float(self.guard.skipped), "epoch": epoch}
            self.record(row, step + 1)

        self.guard.after_check(write)
        if self._logged_loss is not None:  # on the CPU: reading that of this step would wait for the GPU
            self.log("train_loss", self._logged_loss, prog_bar=True, logger=False, batch_size=1)

    def log_evaluation(self, row: dict[str, float], *, prog_bar: bool = True) -> None:
        """Log the metrics of a validation or test, under the step after which it runs."""
        self.guard.drain()  # rows of earlier steps come first
        self.log_dict(row, prog_bar=prog_bar, logger=False)
        if not self.trainer.sanity_checking:
            self.record(row, self.trainer.global_step)

    def record(self, row: dict[str, float], step: int) -> None:
        """Send metrics to every logger. `step` is the number of optimizer steps done."""
        for logger in self.loggers:
            logger.log_metrics(row, step=step)

    # --- optimizer, sharding, checkpoints ----------------------------------------------------------------------------

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with parameter groups, and the schedule of the settings over the trainer's steps."""
        steps = self.trainer.estimated_stepping_batches
        if steps == float("inf"):
            raise ValueError("the learning rate schedule has no end: set max_steps or max_epochs of the Trainer")
        o = self.optim
        groups = self.parameter_groups() if self.pipeline is None else self.pipeline.parameter_groups()
        optimizer = adamw(groups, o.betas, o.eps, fused=not self.scaled, decoupled=o.decoupled_weight_decay)
        warmup = round(o.warmup * steps)
        factor = partial(warmup_cosine, steps=int(steps), warmup=warmup, final=o.final_lr)
        if o.schedule == "inverse_sqrt":
            factor = partial(inverse_sqrt, warmup=max(1, warmup))
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Those of the optimizer; of the whole model, before it is placed."""
        o = self.optim
        rates = mup_rates(self.model, o.mup_base_width) if o.mup_base_width else None
        return param_groups(self.model, o.lr, o.weight_decay, o.layer_decay, rates)

    @property
    def size(self) -> int:
        """Number of parameters of the whole model."""
        return sum(p.numel() for p in self.model.parameters()) if self.pipeline is None else self.pipeline.size

    def configure_model(self) -> None:
        """Place the model and its moving average if the strategy provides a device mesh: by its plan, or by FSDP2."""
        if (mesh := self.device_mesh) is not None and self.pipeline is None:
            plan = getattr(self.trainer.strategy, "plan", None)
            if plan is not None and plan.pipeline > 1:
                self.pipeline = TaskPipeline(self, plan, mesh, str(self.trainer.precision))
                return
            whole = None if self.divides_tokens else True
            for model in filter(None, (self.model, self.ema)):
                if plan is None:
                    shard(model, mesh["data_parallel"])
                else:
                    parallelize(model, plan, mesh, gather_output=whole)
            self.slices = slices_of(self.model)

    def on_fit_start(self) -> None:
        """Set the folder for a failing batch, and pair the moving average with the model (now placed and sharded)."""
        self.guard.folder, self.guard.rank = Path(self.trainer.default_root_dir), self.trainer.global_rank
        self._micro_batches = []
        self._ema_updater = None if self.ema is None else EMA(self.ema, self.model, self.ema_decay)

    def on_validation_batch_end(self, *args: Any) -> None:
        """Place the metrics."""
        self._place_metrics()

    def on_test_batch_end(self, *args: Any) -> None:
        """Place the metrics."""
        self._place_metrics()

    def _place_metrics(self) -> None:
        """Let metrics sum over the processes with different parts of the data, so that each item counts once."""
        if hasattr(self.trainer.strategy, "plan"):
            tokens = None if self.slices is None else self._token_mesh
            for metric in metrics_in(list(vars(self).values())):
                metric.process_group = self._group if tokens is None else tokens.get_group()

    def on_train_end(self) -> None:
        """Check and log the last steps."""
        self.guard.drain()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check all pending losses before weights are written, and store the model's config with them."""
        self.guard.drain()
        checkpoint |= {"items_per_micro_batch": self._usual_count, "skipped_steps": self.guard.skipped}
        described = describe(self.model)
        if described is not None:
            checkpoint["zoo"] = described
        if (scale := lora_scale(self.model)) is not None:
            checkpoint["lora_scale"] = scale

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the scale of the losses, so that a resumed run rounds like the original, and the skipped steps."""
        self._usual_count = self._usual_count or checkpoint.get("items_per_micro_batch")
        self.guard.skipped = max(self.guard.skipped, checkpoint.get("skipped_steps", 0))


def describe(model: nn.Module) -> dict[str, Any] | None:
    """The `config.json` of a zoo model, None for any other module."""
    return native.describe(model) if isinstance(model, Model) else None
