"""Place a model on the processes of a mesh, as a plan says."""

from weakref import WeakSet

from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from zoo.parallel.checkpointing import recompute
from zoo.parallel.context import context_parallel
from zoo.parallel.fsdp import replicate, shard
from zoo.parallel.plan import Plan
from zoo.parallel.tensor import divide

_PLACED: WeakSet[nn.Module] = WeakSet()


def parallelize(model: nn.Module, plan: Plan, mesh: DeviceMesh, *, gather_output: bool | None = None) -> nn.Module:
    """Place a whole model on the processes of a mesh, in place.

    All processes call this with equal weights, before they create the optimizer: parameters are replaced. Their names
    stay the same. Each process then calls the model with its part of the batch, and after `backward` every parameter
    has the gradient of the mean of the losses over the parts.

    Args:
        model: A model of the zoo; its parameters are of the device of the mesh.
        plan: The plan.
        mesh: `plan.mesh(device_type)`.
        gather_output: With `context` above 1, see `context_parallel`.

    A model that was placed before stays as it is.

    Returns: The model. With `context` above 1 its outputs may be those of the tokens of this process, for which
        `zoo.parallel.context.slices_of` computes the loss.

    Raises: ValueError as `Plan.check`; for a plan with a pipeline, which `make_pipeline` makes.
    """
    if plan.pipeline > 1:
        raise ValueError(f"plan: pipeline={plan.pipeline}: a pipeline is not called but does steps: use "
                         "zoo.parallel.make_pipeline")  # fmt: skip
    if model in _PLACED:
        return model
    plan.check(model)
    _PLACED.add(model)
    return place(model, plan, mesh, gather_output)


def place(model: nn.Module, plan: Plan, mesh: DeviceMesh, gather_output: bool | None = None) -> nn.Module:
    """Place a model, or a stage of one, on all dimensions of a mesh but that of the pipeline, in place."""
    if plan.checkpointing is not None:
        recompute(model, plan.checkpointing)
    if plan.tensor > 1:
        divide(model, mesh["tensor"], sequence=plan.sequence)
    if plan.context > 1:
        context_parallel(model, mesh["context"].get_group(), gather_output=gather_output)
    if plan.shard > 1:
        parts = with_context(mesh, "shard")
        shard(model, mesh["data", parts.mesh_dim_names[0]] if plan.data > 1 else parts, plan)  # type: ignore[index]
    elif plan.data > 1 or plan.context > 1:
        replicate(model, with_context(mesh, "data"))
    return model


def with_context(mesh: DeviceMesh, name: str) -> DeviceMesh:
    """The processes over which gradients are averaged as one dimension: those of `name`, together with `context`, whose
    tokens have parts in the gradients, too."""
    return mesh[name] if mesh["context"].size() == 1 else mesh[name, "context"]._flatten(f"{name}_context")
