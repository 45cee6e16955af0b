"""Place a model on the processes of a mesh, as a plan says."""

from weakref import WeakSet

from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from zoo.parallel.checkpointing import recompute
from zoo.parallel.fsdp import replicate, shard
from zoo.parallel.plan import Plan
from zoo.parallel.tensor import divide

_PLACED: WeakSet[nn.Module] = WeakSet()


def parallelize(model: nn.Module, plan: Plan, mesh: DeviceMesh) -> nn.Module:
    """Place a whole model on the processes of a mesh, in place.

    All processes call this with equal weights, before they create the optimizer: parameters are replaced. Their names
    stay the same. Each process then calls the model with its part of the batch, and after `backward` every parameter
    has the gradient of the mean of the losses over the parts.

    Args:
        model: A model of the zoo; its parameters are of the device of the mesh.
        plan: The plan.
        mesh: `plan.mesh(device_type)`.

    A model that was placed before stays as it is. Raises: ValueError as `Plan.check`.
    """
    if model in _PLACED:
        return model
    plan.check(model)
    _PLACED.add(model)
    if plan.checkpointing is not None:
        recompute(model, plan.checkpointing)
    if plan.tensor > 1:
        divide(model, mesh["tensor"], sequence=plan.sequence)
    if plan.shard > 1:
        shard(model, mesh["data", "shard"] if plan.data > 1 else mesh["shard"], plan)
    elif plan.data > 1:
        replicate(model, mesh["data"])
    return model
