"""Place a model on the processes of a mesh, as a plan says."""

from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from zoo.nn.stack import Stack
from zoo.parallel.fsdp import replicate, shard
from zoo.parallel.plan import Plan
from zoo.parallel.tensor import divide


def parallelize(model: nn.Module, plan: Plan, mesh: DeviceMesh) -> nn.Module:
    """Place a whole model on the processes of a mesh, in place.

    All processes call this with equal weights, before they create the optimizer: parameters are replaced. Their names
    stay the same. Each process then calls the model with its part of the batch, and after `backward` every parameter
    has the gradient of the mean of the losses over the parts.

    Args:
        model: A model of the zoo; its parameters are of the device of the mesh.
        plan: The plan.
        mesh: `plan.mesh(device_type)`.

    Raises: ValueError as `Plan.check`.
    """
    plan.check(model)
    for stack in model.modules():
        if isinstance(stack, Stack) and plan.checkpointing is not None:
            stack.checkpointing = True
    if plan.tensor > 1:
        divide(model, mesh["tensor"], sequence=plan.sequence)
    if plan.shard > 1:
        shard(model, mesh["data", "shard"] if plan.data > 1 else mesh["shard"], plan)
    elif plan.data > 1:
        replicate(model, mesh["data"])
    return model
