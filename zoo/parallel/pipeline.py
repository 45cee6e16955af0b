"""Pipelines: the processes of a group hold consecutive blocks of a model, through which parts of a batch follow each
other. The order of their forward and backward passes is that of `torch.distributed.pipelining`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NoReturn

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe, ScheduleInterleaved1F1B
from torch.distributed.tensor import DTensor

from zoo.parallel.cuts import check_model, check_schedule, cut_blocks
from zoo.parallel.gradients import clip_by_norm, total_norm
from zoo.parallel.place import place
from zoo.parallel.plan import Plan
from zoo.parallel.stages import LastStage, Loss, LossOfModel, inputs_of, joined, stage_model, tied_parameters

Schedule = Literal["gpipe", "1f1b", "interleaved"]
Weight = Callable[[Mapping[str, Any]], Tensor | float]
CLASSES: dict[str, Any] = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B, "interleaved": ScheduleInterleaved1F1B}
KEPT_SHAPES = 4  # of batches: each has buffers for the hidden states of its microbatches


class Pipeline:
    """A model cut into stages, one or several of which are in this process.

        pipeline = Pipeline(model, group, lambda logits, batch: F.cross_entropy(logits.mT, batch["labels"]))
        optimizer = torch.optim.AdamW(pipeline.parameters(), lr=1e-3)
        loss = pipeline.step(batch)  # the gradients are there
        optimizer.step()

    The loss and the gradients are those of gradient accumulation over the microbatches: means of their means, or with
    `weight` the mean over the whole batch. Padding is computed under a mask, and packed documents (`document_ids`) stay
    in their rows.

    Attributes:
        stages: The models of the stages in this process, with the parameters of the whole model under the same names.
            FSDP2 (`fully_shard`, or its `replicate` instead of DDP) and tensor parallelism may be applied to each of
            them, before the optimizer is made.
        parts: The numbers of the blocks of all stages.
    """

    def __init__(
        self,
        model: nn.Module,
        group: dist.ProcessGroup,
        loss: Loss | None,
        *,
        schedule: Schedule = "1f1b",
        microbatches: int | None = None,
        cuts: Sequence[int] | None = None,
        stages_per_process: int | None = None,
        weight: Weight | None = None,
        autocast: torch.dtype | None = None,
    ) -> None:
        """All processes of the group make it from the same model with the same weights.

        Args:
            model: A model with one stack of blocks, `model.blocks`. It should not be used afterwards.
            group: The processes of the pipeline; the first one has the first stage.
            loss: (output of the model for a microbatch, the microbatch) -> its mean loss; None if only `accumulate`,
                which is given a loss, is called.
            schedule: "gpipe" (Huang et al. 2019), all forward passes and then all backward passes; "1f1b" (Narayanan et
                al. 2019), with fewer activations in memory; "interleaved" (Narayanan et al. 2021), with several stages
                in each process, which wait less.
            microbatches: Number of parts of a batch; None for two for each process.
            cuts, stages_per_process: The first block of each stage but the first, see `cut_blocks`; the number of
                stages of each process, None for two if interleaved, else one.
            weight: (batch) -> what its mean loss is over, such as the number of tokens that have a label. A microbatch
                then counts by its part of that of the whole batch; None for equal microbatches.
            autocast: The type of the forward passes, torch.bfloat16 or torch.float16, as `torch.autocast` computes in
                it; None for that of the parameters.

        Raises: ValueError for a model that cannot be cut, by its name, for numbers that do not fit, and for another
            type of autocast.
        """
        if autocast not in (None, torch.bfloat16, torch.float16):
            raise ValueError(f"autocast={autocast!r}: expected torch.bfloat16, torch.float16 or None")
        check_model(model)
        self.group, self.ranks, self.rank = group, dist.get_world_size(group), dist.get_rank(group)
        each = stages_per_process
        if each is None:
            each = 2 if schedule == "interleaved" else 1
        self.schedule, self.microbatches = schedule, 2 * self.ranks if microbatches is None else microbatches
        self.count = each * self.ranks
        check_schedule(schedule, self.microbatches, self.ranks, each)
        self.parts = cut_blocks(model, self.count, cuts)
        self.numbers = list(range(self.rank, self.count, self.ranks))
        self.inputs: tuple[str, ...] = tuple(model.inputs)  # type: ignore[arg-type]
        self.tied, self.name = tied_parameters(model), type(model).__name__
        self.loss, self.weight = loss, weight
        self.stages: list[Any] = [stage_model(model, self.parts[number], autocast) for number in self.numbers]
        self._schedules: dict[Any, Any] = {}

    # --- A step ---------------------------------------------------------------------------------------------------

    def step(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Forward and backward passes of a batch: gradients are added to `.grad`, as by `backward`.

        Args:
            batch: Tensors with a row for each sample: inputs of the model and what the loss reads. All processes give
                the same batch.

        Returns: The mean of the losses of the microbatches, in all processes.
        """
        return self._sum(self.accumulate(batch, self._share_of(batch)))

    @torch.no_grad()
    def evaluate(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The loss of a batch, without gradients; see `step`."""
        return self._sum(self.map(batch, self._share_of(batch)))

    def accumulate(self, batch: Mapping[str, Tensor], loss: LossOfModel) -> list[Tensor]:
        """As `step`, with another loss; returns the losses of the microbatches in the process of the last stage, in
        others an empty list.

        Args:
            batch: As of `step`.
            loss: (model, microbatch) -> the part of the microbatch in the loss of the step. The model is the last stage
                and is called as the whole model is; so is its `encode`.
        """
        gradients = self._take_tied_gradients()
        losses = self._run(batch, loss, lambda schedule: schedule.step)
        self._sum_tied_gradients(gradients)
        return losses

    @torch.no_grad()
    def map(self, batch: Mapping[str, Tensor], function: LossOfModel) -> list[Tensor]:
        """What a function, such as `lambda model, batch: model(**batch)`, returns for the microbatches of a batch, in
        the process of the last stage, in others an empty list; without gradients. See `accumulate`."""
        results: list[Tensor] = []

        def collect(model: LastStage, part: Mapping[str, Any]) -> Tensor:
            results.append(function(model, part))
            return results[-1].new_zeros(())

        self._run(batch, collect, lambda schedule: schedule.eval)
        return results[-self.microbatches :]  # a batch of a new shape runs a microbatch more

    def from_last(self, value: Tensor | None, shape: Sequence[int] | None = None) -> Tensor:
        """A tensor that the process of the last stage has, in all processes. shape: of a float64 one, where all of them
        know it, so that it need not be sent before."""
        source = dist.get_global_rank(self.group, (self.count - 1) % self.ranks)
        described: list[Any] = [(shape, torch.float64) if value is None else (value.shape, value.dtype)]
        try:
            if shape is None:
                dist.broadcast_object_list(described, source, self.group)
            if value is None:
                value = torch.empty(described[0][0], dtype=described[0][1], device=self.device)
            value = value.detach().contiguous()
            dist.broadcast(value, source, self.group)
        except Exception as error:  # such as that of a stage that others have not waited for
            self._end(error)
        return value

    def _share_of(self, batch: Mapping[str, Tensor]) -> LossOfModel:
        """The part of a microbatch in the mean loss of a batch."""
        score, weight = self.loss, self.weight
        if score is None:
            raise ValueError("the pipeline has no loss: give one to Pipeline, or call accumulate(batch, loss)")
        whole = self.microbatches if weight is None else weight(batch)

        def share(model: LastStage, part: Mapping[str, Any]) -> Tensor:
            return score(model(**inputs_of(model, part)), part) * (1.0 if weight is None else weight(part)) / whole

        return share

    def _sum(self, losses: Sequence[Tensor]) -> Tensor:
        return self.from_last(torch.stack(list(losses)).sum().double() if losses else None, shape=())

    def _run(self, batch: Mapping[str, Tensor], loss: LossOfModel, method: Callable[[Any], Any]) -> list[Tensor]:
        index = torch.arange(self.check_batch(batch), device=self.device)
        losses: list[Tensor] = []
        is_first, is_last = 0 in self.numbers, self.count - 1 in self.numbers
        run = method(self._schedule_for(batch))
        if is_last:
            self.stages[-1].loss = loss
        last = {"target": index, "losses": losses} if is_last else {}
        try:
            run(*((index,) if is_first else ()), batch=dict(batch), return_outputs=False, **last)
        except Exception as error:
            self._end(error)
        finally:
            self.stages[-1].loss = None
        return [loss.detach() for loss in losses]

    def _end(self, error: Exception) -> NoReturn:
        """End the connections of the group, or the other stages would wait for ever; raises the first error of all."""
        while isinstance(error.__cause__, Exception):  # torch puts the inputs of the stage around it
            error = error.__cause__
        message = f"process {dist.get_rank()} of the pipeline failed with {type(error).__name__}: {error}"
        store = dist.PrefixStore(f"pipeline {self.group.group_name}", dist.distributed_c10d._get_default_store())
        first = store.compare_set("error", "", message).decode()
        self.group.abort()
        if first == message:
            raise error
        raise RuntimeError(first) from error

    def check_batch(self, batch: Mapping[str, Tensor]) -> int:
        """The number of rows. Raises ValueError for a batch that cannot be divided into microbatches."""
        sizes = {}
        for name, value in batch.items():
            if not isinstance(value, Tensor) or value.ndim == 0:
                raise ValueError(
                    f"{name}: a {type(value).__name__} cannot be divided into microbatches: expected a tensor with a "
                    "row for each sample" + (", leave it out: attention_mask says it" if name == "lengths" else "")
                )
            sizes[name] = len(value)
        rows = next(iter(sizes.values()), 0)
        if len(set(sizes.values())) != 1:
            raise ValueError(f"the tensors of a batch have different numbers of rows: {sizes}")
        if rows % self.microbatches or not rows:
            lower = rows - rows % self.microbatches
            choices = " or ".join(str(n) for n in (lower, lower + self.microbatches) if n)
            raise ValueError(
                f"a batch of {rows} rows cannot be divided into microbatches={self.microbatches}: choose {choices} "
                "rows, or another number of microbatches"
            )
        if "document_ids" in batch and self.stages[0].unpacks is not None:
            raise ValueError(
                f"document_ids: {self.stages[0].unpacks}, which needs a row for each document, and the rows of a "
                "pipeline have one shape: give a document a row, with attention_mask"
            )
        return rows

    def _schedule_for(self, batch: Mapping[str, Tensor]) -> Any:
        """The schedule of batches of these shapes; its first step runs a microbatch to find those of hidden states."""
        modes = tuple(stage.training for stage in self.stages)
        key = (modes, torch.is_grad_enabled(), *((name, value.shape, value.dtype) for name, value in batch.items()))
        if key not in self._schedules:
            while len(self._schedules) >= KEPT_SHAPES:
                del self._schedules[next(iter(self._schedules))]
            made = [
                PipelineStage(stage, number, self.count, self.device, group=self.group)
                for stage, number in zip(self.stages, self.numbers, strict=True)
            ]
            self._schedules[key] = CLASSES[self.schedule](
                made if self.schedule == "interleaved" else made[0],
                self.microbatches,
                loss_fn=lambda loss, target: loss,
                scale_grads=False,
            )
        return self._schedules[key]

    # --- Parameters -----------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """That of the parameters."""
        return next(self.parameters()).device

    @property
    def module(self) -> nn.Module:
        """The parameters of all stages in this process under the names of the whole model; it cannot be called. Made
        after the stages are placed, which may replace parameters."""
        return joined(self.stages)

    @property
    def names(self) -> dict[str, str]:
        """{name of a parameter here: its name in the whole model}, that of the first stage if it is tied."""
        tied = {pair.last: pair.first for pair in self.tied}
        return {name: tied.get(name, name) for name, _ in self.named_parameters()}

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters of the stages in this process, under the names of the whole model."""
        for stage in self.stages:
            yield from stage.named_parameters()

    def parameters(self) -> Iterator[nn.Parameter]:
        """Those of `named_parameters`."""
        return (parameter for _, parameter in self.named_parameters())

    def train(self, mode: bool = True) -> "Pipeline":
        """As of a module."""
        for stage in self.stages:
            stage.train(mode)
        return self

    def eval(self) -> "Pipeline":
        """As of a module."""
        return self.train(False)

    def clip_grad_norm_(self, max_norm: float) -> Tensor:
        """Scale the gradients of all stages so that their norm is at most `max_norm`; returns the norm before that."""
        total = self.grad_norm()
        clip_by_norm(self.parameters(), max_norm, total)
        return total

    def grad_norm(self) -> Tensor:
        """The norm of the gradients of all stages."""
        tied = {id(p) for p in self._tied_here() if self.rank}  # counted in the first stage
        own = [p.grad for p in self.parameters() if p.grad is not None and id(p) not in tied]
        total = total_norm(own).double().square().to(self.device)
        dist.all_reduce(total, group=self.group)
        return total.sqrt()

    # --- Tied parameters ------------------------------------------------------------------------------------------

    def _tied_here(self) -> list[nn.Parameter]:
        """The parameters that the first and the last stage have, if this process has one of these and not both."""
        if self.ranks == 1 or not self.tied or self.rank not in (0, self.ranks - 1):
            return []
        stage, which = (self.stages[0], 0) if self.rank == 0 else (self.stages[-1], 1)
        parameters = dict(stage.named_parameters(remove_duplicate=False))
        return [parameters[pair[which]] for pair in self.tied]

    def _take_tied_gradients(self) -> list[Tensor | None]:
        """The gradients of tied parameters from before a step, which are not exchanged again."""
        parameters = self._tied_here()
        gradients = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            parameter.grad = None
        return gradients

    def _sum_tied_gradients(self, before: list[Tensor | None]) -> None:
        """Sum the gradients of tied parameters over the first and the last stage, which stay equal by it."""
        other = dist.get_global_rank(self.group, self.ranks - 1 if self.rank == 0 else 0)
        for parameter, earlier in zip(self._tied_here(), before, strict=True):
            if (gradient := parameter.grad) is None:
                continue
            own = gradient.to_local() if isinstance(gradient, DTensor) else gradient
            theirs = torch.empty_like(own)
            sends = dist.P2POp(dist.isend, own.clone(), other, self.group)
            receives = dist.P2POp(dist.irecv, theirs, other, self.group)
            for work in dist.batch_isend_irecv([sends, receives]):
                work.wait()
            own += theirs
            if earlier is not None:
                gradient += earlier


def make_pipeline(
    model: nn.Module,
    plan: Plan,
    mesh: DeviceMesh,
    loss: Loss | None,
    *,
    cuts: Sequence[int] | None = None,
    weight: Weight | None = None,
    autocast: torch.dtype | None = None,
) -> Pipeline:
    """Cut a whole model into the stages of a pipeline, and place those of this process on the other dimensions.

    Args:
        model, plan, mesh: As of `parallelize`.
        loss: (output of the model for a microbatch, the microbatch) -> its mean loss.
        cuts, weight, autocast: See `Pipeline`. Parts of a batch of different processes count equally.

    Returns: What `step` is called of with this process's part of a batch, see `Pipeline`. Its
        optimizer is made afterwards.

    Raises: ValueError as `Plan.check`.
    """
    plan.check(model)
    group = mesh["pipeline"].get_group()
    made = Pipeline(model, group, loss, schedule=plan.schedule, microbatches=plan.microbatches, cuts=cuts,
                    weight=weight, autocast=autocast)  # fmt: skip
    for stage in made.stages:
        place(stage, plan, mesh)
    return made
