"""Lightning's strategy for a plan of `zoo.parallel`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torchmetrics import Metric

from zoo.parallel.plan import Plan, batch_mesh
from zoo.training.sharded_checkpoints import ShardedStrategy

if TYPE_CHECKING:
    from zoo.tasks.pipelined import TaskPipeline


class PlanStrategy(ShardedStrategy):
    """Processes on the mesh of a plan. A task places its model in `configure_model`.

        L.Trainer(strategy=PlanStrategy(Plan(tensor=2, shard=4)), devices=8, use_distributed_sampler=False)

    Processes that divide a model receive the same batches. Where they are the stages of a pipeline, each of them saves
    and loads the parameters that it has, under their names in the whole task.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan.batch_parts, plan.tensor)
        self.plan = plan

    def setup_environment(self) -> None:
        """Start the process group, and make the mesh."""
        if self.plan.cpu_offload and self.root_device.type == "cuda":
            self._process_group_backend = "cpu:gloo,cuda:nccl"  # the norm of gradients is summed where they are
        super(ModelParallelStrategy, self).setup_environment()
        self._setup_distributed()
        self._device_mesh = self.plan.mesh(self.root_device.type)
        assert self.lightning_module is not None
        self.lightning_module._device_mesh = self._device_mesh

    def model_to_device(self) -> None:
        """Move the task to its device; with `cpu_offload` all but the parameters, which FSDP2 moves."""
        assert self.lightning_module is not None
        if not self.plan.cpu_offload:
            super().model_to_device()
            return
        self.lightning_module._device = self.root_device  # where batches and metrics are
        for module in self.lightning_module.modules():
            if isinstance(module, Metric):
                module.to(self.root_device)
            for name, value in module._buffers.items():
                module._buffers[name] = None if value is None else value.to(self.root_device)

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        """The number of parts of a batch, and which of them this process receives."""
        mesh = batch_mesh(self.device_mesh)
        return {"num_replicas": mesh.size(), "rank": mesh.get_local_rank()}

    @property
    def _elsewhere(self) -> Mapping[str, Any]:
        return {} if self._pipeline is None else self._pipeline.shapes

    @property
    def _names(self) -> dict[int, str]:
        """As in ShardedStrategy; a parameter that two stages have has one name."""
        return super()._names if self._pipeline is None else self._pipeline.names

    def _groups(self, optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> list[dict[str, Any]]:
        """As in ShardedStrategy: with the parameters of all stages."""
        own = super()._groups(optimizer, names)
        if self._pipeline is None:
            return own
        whole = self._pipeline.groups
        return [{**group, "params": list(all_["params"])} for group, all_ in zip(own, whole, strict=True)]

    @property
    def _pipeline(self) -> "TaskPipeline | None":
        return getattr(self.lightning_module, "pipeline", None)
