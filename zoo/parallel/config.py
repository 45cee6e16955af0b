"""Options of a plan: how the processes of a run share a model and its batches. Torch-free, because `--help` reads this
file."""

from dataclasses import dataclass
from typing import Any, Literal

from zoo.utils.type_checks import check_type, field_types

DIMENSIONS = ("pipeline", "data", "shard", "context", "tensor")
"""The dimensions of a mesh, from the one whose neighbors may be far apart (other machines) to the one whose neighbors
exchange most (GPUs of one machine)."""


@dataclass(frozen=True, kw_only=True)
class PlanSettings:
    """How many processes share what. Their number is the product of data, shard, context, pipeline and tensor.

    Attributes:
        data: Copies of the model that train on different parts of a batch (DDP).
        shard: Processes that train on different parts of a batch and hold a part of each parameter, its gradient and
            its optimizer state (FSDP2). With `data` above 1 this is hybrid sharding (HSDP).
        tensor: Processes that divide the heads of each attention, the hidden units of each MLP and the vocabulary.
        sequence: Between these, divide the tokens over the processes of `tensor`, too: less memory for activations.
        context: Processes that divide the tokens of each sequence.
        pipeline: Stages of consecutive blocks.
        schedule: Order of the forward and backward passes of the microbatches of a pipeline.
        microbatches: Parts of a batch that follow each other through a pipeline; null for two for each stage.
        mixed_precision: Compute with parameters in this precision, and sum gradients over processes in float32; the
            parameters of the optimizer stay in float32. Needs `shard`.
        cpu_offload: Keep parameters, gradients and optimizer states in the memory of the CPU. Needs `shard`.
        checkpointing: Recompute activations in the backward pass: `full`, all but the inputs of blocks; `selective`,
            what is cheap to compute, and keep the results of attention and of every second matrix product.
    """

    data: int = 1
    shard: int = 1
    tensor: int = 1
    sequence: bool = False
    context: int = 1
    pipeline: int = 1
    schedule: Literal["gpipe", "1f1b", "interleaved"] = "1f1b"
    microbatches: int | None = None
    mixed_precision: Literal["bf16", "fp16"] | None = None
    cpu_offload: bool = False
    checkpointing: Literal["full", "selective"] | None = None

    def __post_init__(self) -> None:
        cls: Any = type(self)
        for name, hint in field_types(cls).items():
            check_type(f"plan: {name}", getattr(self, name), hint)
        for name in (*DIMENSIONS, "microbatches"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"plan: {name}={value}: expected at least 1")
        if self.sequence and self.tensor == 1:
            raise ValueError("plan: sequence=true divides tokens over the processes of tensor=, which is 1: set "
                             "tensor=2 or more, or sequence=false")  # fmt: skip
        for name in ("mixed_precision", "cpu_offload"):
            if getattr(self, name) and self.shard == 1:
                raise ValueError(f"plan: {name}={getattr(self, name)!r} is done by FSDP2, which shard=1 does not use: "
                                 "set shard=2 or more")  # fmt: skip
        if self.microbatches is not None and self.pipeline == 1:
            raise ValueError(f"plan: microbatches={self.microbatches} are of a pipeline, and pipeline=1: set "
                             "pipeline=2 or more, or use accumulate_grad_batches=")  # fmt: skip

        if self.schedule != "1f1b" and self.pipeline == 1:
            raise ValueError(f"plan: schedule={self.schedule} is of a pipeline, and pipeline=1: set pipeline=2 or "
                             "more, or omit schedule=")  # fmt: skip

    @property
    def sizes(self) -> dict[str, int]:
        """The size of each dimension of the mesh."""
        return {name: getattr(self, name) for name in DIMENSIONS}

    @property
    def world(self) -> int:
        """Number of processes."""
        return self.pipeline * self.data * self.shard * self.context * self.tensor

    @property
    def parts_of_pipeline(self) -> int:
        """Number of microbatches that a batch is divided into for a pipeline; 1 without one."""
        return 1 if self.pipeline == 1 else self.microbatches or 2 * self.pipeline

    @property
    def stages_per_process(self) -> int:
        """Number of stages of a pipeline in each process."""
        return 2 if self.schedule == "interleaved" else 1

    @property
    def parts_of_parameters(self) -> int:
        """Number of parts that FSDP2 divides each parameter into, over the processes of shard and context; 1 without
        it."""
        return self.shard * self.context if self.shard > 1 else 1

    @property
    def batch_parts(self) -> int:
        """Number of parts that a batch is divided into: one for each combination of data and shard. The processes of
        the other dimensions receive the same part."""
        return self.data * self.shard

    def __str__(self) -> str:
        parts = [f"{name} {size}" for name, size in self.sizes.items() if size > 1]
        words = " x ".join(parts) + (" + sequence" if self.sequence else "")
        return words + (" + cpu_offload" if self.cpu_offload else "") or "one process"
