"""A plan: how the processes of a run share a model and its batches."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from torch import distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from zoo.parallel.checks import check
from zoo.parallel.config import DIMENSIONS, PlanSettings
from zoo.parallel.describe import describe
from zoo.utils.errors import did_you_mean


@dataclass(frozen=True, kw_only=True)
class Plan(PlanSettings):
    """How many processes share what; see `PlanSettings` for the fields.

        plan = Plan(shard=4, tensor=2)
        model = parallelize(model, plan, plan.mesh("cuda"))

    The names of parameters stay the same, so no family of models knows about plans.
    """

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The plan of a mapping, such as a YAML file. Raises ValueError for unknown names and wrong values."""
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                raise ValueError(
                    f"plan: unknown setting {name!r}{did_you_mean(name, known)}; known: {', '.join(known)}"
                )
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The settings of the plan, by name."""
        return asdict(self)

    def mesh(self, device_type: str) -> DeviceMesh:
        """The mesh of the processes of this run, with the dimensions `DIMENSIONS` (those of size 1, too).

        All processes call this. `batch_mesh` of it are those that receive different parts of a batch.

        Raises: ValueError if their number is not that of the plan.
        """
        world = dist.get_world_size() if dist.is_initialized() else 1
        if world != self.world:
            factors = " x ".join(f"{name}={size}" for name, size in self.sizes.items())
            raise ValueError(f"the plan is for {self.world} processes ({factors}), and there are {world}: start "
                             f"{self.world} processes, or change a factor of the plan")  # fmt: skip
        mesh = init_device_mesh(device_type, tuple(self.sizes.values()), mesh_dim_names=DIMENSIONS)
        batch_mesh(mesh)
        token_mesh(mesh)
        return mesh

    def check(self, model: nn.Module, batch_size: int | None = None) -> None:
        """Check that the plan divides a model, which may be on the meta device, and the batch of a step.

        Raises: ValueError that says which number is not divisible by what and what to choose, or which part of the
            model cannot be divided in this way.
        """
        check(self, model, batch_size)

    def describe(self, model: nn.Module) -> str:
        """A table: each group of parameters, how it is divided, and what a process holds of it, in numbers and bytes.

        Args:
            model: A whole model, before `parallelize`; it may be on the meta device.

        Raises: ValueError as `check`.
        """
        check(self, model)
        return describe(self, model)


def batch_mesh(mesh: DeviceMesh) -> DeviceMesh:
    """The processes that receive different parts of a batch, `data` and `shard` of a mesh, as one dimension.

    Losses over a whole batch, such as `clip_loss`, take its group.
    """
    return mesh["data", "shard"]._flatten("batch")  # that of the first call


def token_mesh(mesh: DeviceMesh) -> DeviceMesh:
    """The processes that compute with different tokens: those of `batch_mesh`, together with `context`, as one
    dimension."""
    if mesh["context"].size() == 1:
        return batch_mesh(mesh)
    return mesh["data", "shard", "context"]._flatten("batch_context")
