"""A task whose model is cut into the stages of a pipeline: its steps, its evaluation, its parameters."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from zoo.parallel.pipeline import Pipeline, make_pipeline
from zoo.parallel.plan import Plan
from zoo.parallel.stages import LastStage
from zoo.tasks.functions import COPY, as_count, seed_all
from zoo.tasks.loss_guard import MicroBatch

if TYPE_CHECKING:
    from zoo.tasks.base import Task

LABELS = ("labels", "targets")


class TaskPipeline:
    """The model of a task and its moving average as pipelines, whose parameters the task has in their place.

    Tasks say what they compute by `prepared`, which all stages call, and `batch_loss`, which the last one calls.

    Args:
        task: A task with `runs_in_pipeline`, whose models are whole; its `model` and `ema` become those of the stages
            in this process.
        plan, mesh: As of `make_pipeline`.
        precision: That of the Trainer.

    Attributes:
        groups: The parameter groups of the optimizer, with the names of all parameters of the task.
        size: Number of parameters of the whole model.
        shapes: The shapes of all tensors of the whole task, by name.

    Raises: ValueError for a task that cannot, by its name; for a model as `Plan.check`; for a precision that scales
        losses.
    """

    def __init__(self, task: "Task", plan: Plan, mesh: DeviceMesh, precision: str) -> None:
        if not vars(type(task)).get("runs_in_pipeline"):  # a subclass may compute another loss
            raise ValueError(
                f"{type(task).__name__} does not run in a pipeline (plan: pipeline={plan.pipeline}), whose last stage "
                "alone has the outputs of the model: use shard= or tensor= instead of pipeline="
            )
        if precision.startswith("16"):
            raise ValueError(f"precision={precision} scales the loss, which the stages of a pipeline (plan: pipeline="
                             f"{plan.pipeline}) would not do alike: use bf16 or fp32")  # fmt: skip
        autocast = torch.bfloat16 if precision == "bf16-mixed" else None
        self.task, self.size = task, sum(p.numel() for p in task.model.parameters())
        self.shapes = {name: tuple(x.shape) for name, x in task.state_dict().items()}
        names = {id(p): f"model.{name}" for name, p in task.model.named_parameters()}
        self.groups = [{**g, "params": [names[id(p)] for p in g["params"]]} for g in task.parameter_groups()]
        self.trained: Pipeline = make_pipeline(task.model, plan, mesh, None, autocast=autocast)
        task.model = self.trained.module
        self.evaluated = self.trained
        if task.ema is not None:
            self.evaluated = make_pipeline(task.ema, plan, mesh, None, autocast=autocast)
            task.ema = self.evaluated.module
        self._batch: tuple[Mapping[str, Any], Mapping[str, Any], int] | None = None

    # --- Steps ----------------------------------------------------------------------------------------------------

    def start(self, batch: Mapping[str, Any], step: int, micro: int) -> Tensor:
        """Prepare the step of a micro-batch, which `run` computes: its forward and backward passes alternate.

        Returns: 1, of which Lightning computes the factor of the loss.
        """
        task, pipeline = self.task, self.trained
        self._batch = batch, self._padded(pipeline, task.prepared(batch, step, train=True)), micro
        seed_all(
            task.seed, step, micro * pipeline.ranks + pipeline.rank, task.device
        )  # stages drop out different units
        return torch.ones((), device=task.device)

    def run(self, factor: Tensor) -> MicroBatch:
        """Forward and backward passes of the micro-batch of `start`: gradients of `factor` times its loss, in the
        scale of the task's `usual_count`."""
        assert self._batch is not None
        task, pipeline, (batch, ready, micro) = self.task, self.trained.train(self.task.training), self._batch
        self._batch, scale = None, factor / task.usual_count(rows_of(ready, pipeline.inputs))
        sums: list[Tensor] = []

        def loss(model: LastStage, part: Mapping[str, Any]) -> Tensor:
            total, count = task.batch_loss(model, part)
            sums.append(pair(total, count))
            return total * scale.to(total.dtype)

        pipeline.accumulate(ready, loss)
        total, count = self._sum(pipeline, sums)
        return MicroBatch(total / count.clamp(min=1e-30), count, batch, micro)

    # --- Evaluation -----------------------------------------------------------------------------------------------

    def loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """(sum of the losses of a batch, number of its items), by the evaluated model, in all processes."""
        pipeline = self.evaluated.eval()
        ready = self._padded(pipeline, self.task.prepared(batch, 0, train=False))
        return self._sum(pipeline, pipeline.map(ready, lambda model, part: pair(*self.task.batch_loss(model, part))))

    def outputs(self, batch: Mapping[str, Any]) -> Tensor:
        """`output_of` the evaluated model for the rows of a prepared batch, such as logits [B, C], in all processes."""
        pipeline = self.evaluated.eval()
        found = pipeline.map(self._padded(pipeline, batch), self.task.output_of)
        return pipeline.from_last(torch.cat(found) if found else None)[: rows_of(batch, pipeline.inputs)]

    @staticmethod
    def _padded(pipeline: Pipeline, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        return padded(batch, pipeline.inputs, pipeline.microbatches)

    @staticmethod
    def _sum(pipeline: Pipeline, sums: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Sums of the last `microbatches` pairs, in all processes: a batch of a new shape runs a microbatch more."""
        last = torch.stack(sums[-pipeline.microbatches :]).sum(0) if sums else None
        total, count = pipeline.from_last(last, shape=(2,))
        return total, count

    # --- Parameters -----------------------------------------------------------------------------------------------

    @property
    def names(self) -> dict[int, str]:
        """{id of a parameter of this process: its name in the whole task}; tied ones have that of the first stage."""
        found: dict[int, str] = {}
        for prefix, pipeline in (("ema.", self.evaluated), ("model.", self.trained)):
            whole, module = pipeline.names, pipeline.module
            found |= {id(p): prefix + whole[name] for name, p in module.named_parameters()}
        return found

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The groups of the whole model with the parameters that are in this process, which may be none."""
        names = self.names
        own = {names[id(p)]: p for p in self.task.model.parameters()}
        return [{**g, "params": [own[name] for name in g["params"] if name in own]} for g in self.groups]


def pair(total: Tensor, count: Tensor | float) -> Tensor:
    """(total, count) as a float64 tensor [2]."""
    return torch.stack([total.detach().double(), as_count(count, total, torch.float64)])


def rows_of(batch: Mapping[str, Any], inputs: tuple[str, ...]) -> int:
    """The number of rows of a batch."""
    return len(batch[next(name for name in inputs if name in batch)])


def padded(batch: Mapping[str, Any], inputs: tuple[str, ...], multiple: int) -> dict[str, Tensor]:
    """The inputs and labels of a batch for a pipeline, as many rows as a multiple.

    Rows that are added are copies of the first ones, which `is_copy` names; losses leave them out. Lengths become the
    mask that they stand for.
    """
    rows = rows_of(batch, inputs)
    found = {name: batch[name] for name in (*inputs, *LABELS) if name in batch}
    lengths = found.pop("lengths", None)
    if lengths is not None and "attention_mask" not in found:
        first = found[inputs[0]]
        keep = torch.arange(first.shape[1]) < torch.as_tensor(lengths).cpu()[:, None]
        found["attention_mask"] = keep.to(first.device)
    if not (missing := -rows % multiple):
        return found
    device = found[inputs[0]].device
    index = torch.arange(rows + missing, device=device) % rows
    return {name: x[index.to(x.device)] for name, x in found.items()} | {
        COPY: torch.arange(rows + missing, device=device) >= rows
    }
