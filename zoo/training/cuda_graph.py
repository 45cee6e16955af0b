"""Whether the steps of a run can be launched as CUDA graphs."""

from zoo.models.base import Model
from zoo.tasks.base import Task
from zoo.tasks.classification import ClassificationTask
from zoo.tasks.cuda_graph import INPUTS
from zoo.training.config import RunSettings
from zoo.training.devices import strategy_name


def why_no_cuda_graph(settings: RunSettings, task: Task) -> str | None:
    """Why the steps of a run cannot be launched as CUDA graphs, or None if they can."""
    t, model = settings.trainer, task.model
    images = isinstance(task, ClassificationTask) and isinstance(model, Model) and set(model.inputs) <= INPUTS
    foreign = [type(m).__name__ for m in model.modules() if type(m).__module__.split(".")[0] not in ("zoo", "torch")]
    if t.accelerator != "cuda":
        return f"CUDA graphs need accelerator=cuda, and this run has accelerator={t.accelerator}"
    if not images:
        return "CUDA graphs are for the classification of images by a model of zoo"
    if foreign:  # a replay would repeat what it computed on the host
        return f"{foreign[0]} is a module of your own, which may compute on the host"
    if strategy_name(settings) != "one":
        return "several processes exchange gradients during the backward pass"
    if t.precision == "bf16-master":
        return "precision=bf16-master casts the weights of each step outside of the graph"
    if t.compile:
        return f"compile={str(t.compile).lower()} replaces the kernels while it runs"
    if t.gradient_checkpointing:
        return "gradient_checkpointing=true restores the random numbers of the forward pass on the host"
    return None
