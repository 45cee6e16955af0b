"""Lightning's strategy for a plan of `zoo.parallel`."""

from typing import Any

from lightning.pytorch.strategies import ModelParallelStrategy

from zoo.parallel.plan import Plan, batch_mesh
from zoo.training.sharded_checkpoints import ShardedStrategy


class PlanStrategy(ShardedStrategy):
    """Processes on the mesh of a plan. A task places its model in `configure_model`.

        L.Trainer(strategy=PlanStrategy(Plan(tensor=2, shard=4)), devices=8, use_distributed_sampler=False)

    Processes that divide a model receive the same batches.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan.batch_parts, plan.tensor)
        self.plan = plan

    def setup_environment(self) -> None:
        """Start the process group, and make the mesh."""
        super(ModelParallelStrategy, self).setup_environment()
        self._setup_distributed()
        self._device_mesh = self.plan.mesh(self.root_device.type)
        assert self.lightning_module is not None
        self.lightning_module._device_mesh = self._device_mesh

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        """The number of parts of a batch, and which of them this process receives."""
        mesh = batch_mesh(self.device_mesh)
        return {"num_replicas": mesh.size(), "rank": mesh.get_local_rank()}
