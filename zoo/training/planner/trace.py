"""A training step of one process, run on shapes alone: what each block keeps, computes and exchanges.

The model is divided by the code that divides it in a run (`zoo.parallel`), on the meta device and over processes that
do not exist, so what is counted here is what that code does.
"""

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.debug import _clear_sharding_prop_cache
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from zoo.inference.cost import FusedAttention, PeakMemory, attention_flops, fused, meta_copy, step
from zoo.models.base import Model
from zoo.nn.heads import LMHead
from zoo.nn.losses import cross_entropy
from zoo.parallel.checkpointing import recompute
from zoo.parallel.context import context_parallel, slices_of
from zoo.parallel.exchanges import OF_CALL, Exchange, add_up
from zoo.parallel.fsdp import blocks_of
from zoo.parallel.tensor import divide
from zoo.tasks.language_modeling import Predictions, output_layer
from zoo.training.planner.autocast import meta_autocast

Phase = Literal["forward", "backward"]
KERNEL = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
BACKWARD_ATTENTION = 2.5  # its backward pass computes the scores again: five products in place of two
FREE = frozenset({"empty", "empty_strided", "new_empty", "empty_like", "new_empty_strided", "wait_tensor"})


@dataclass(frozen=True)
class Division:
    """What the computation of a process depends on.

    Attributes:
        tensor, sequence, context, checkpointing: As of a plan.
        whole_logits: The scores of all tokens are stored, as by a loss that is given to a pipeline.
        rows: Rows of a microbatch.
        dtype: Of parameters and activations.
        on_gpu: Whether the loss is computed in the chunks of a GPU.
        autocast: Whether products are in bfloat16 by autocast.
    """

    tensor: int = 1
    sequence: bool = False
    context: int = 1
    checkpointing: Literal["full", "selective"] | None = None
    whole_logits: bool = False
    rows: int = 1
    dtype: torch.dtype = torch.float32
    on_gpu: bool = False
    autocast: bool = False


@dataclass
class Work:
    """What is computed: FLOPs of products and convolutions, those of attention, bytes that other operations read and
    write, the number of operations, and calls of exchanges as (operation, group, bytes)."""

    flops: float = 0
    attention_flops: float = 0
    moved: float = 0
    operations: float = 0
    exchanges: list[Exchange] = field(default_factory=list)


NUMBERS = ("flops", "attention_flops", "moved", "operations")


def added(works: Sequence[Work], times: int = 1) -> Work:
    """The sum of what is computed and exchanged, `times` over."""
    found = Work(exchanges=add_up([e for work in works for e in work.exchanges], times))
    for name in NUMBERS:
        setattr(found, name, times * sum(getattr(work, name) for work in works))
    return found


@dataclass
class Segment:
    """A part of a step: the forward or backward pass of a block, or of what is before, between and behind the blocks.

    Attributes:
        phase: Forward or backward.
        unit: Name of the block, "" outside of blocks.
        peak: Most memory of activations and of gradients of this unit's parameters, in bytes.
        after: Memory of activations at the end.
        work: What it computes and exchanges.
    """

    phase: Phase
    unit: str
    peak: int = 0
    after: int = 0
    work: Work = field(default_factory=Work)


@dataclass(frozen=True)
class Trace:
    """The segments of a step, in order.

    Attributes:
        segments: In the order of time.
        hidden: Bytes of the hidden states before the first block.
    """

    segments: tuple[Segment, ...]
    hidden: int = 0

    def total(self, phase: Phase | None = None) -> Work:
        """The work of a phase, or of the whole step."""
        return added([segment.work for segment in self.segments if phase in (None, segment.phase)])


# --- processes that do not exist --------------------------------------------------------------------------------------


@contextmanager
def imaginary_processes(count: int) -> Iterator[None]:
    """Context in which this process is the first of a group of `count` that send nothing.

    Raises: ValueError if the process belongs to a group already.
    """
    if dist.is_initialized():
        raise ValueError("plans are compared in a process of its own: this one has a process group already; plan "
                         "before dist.init_process_group, or by the command `zoo plan`")  # fmt: skip
    from torch.testing._internal.distributed.fake_pg import FakeStore  # its import registers the backend

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=count)
    try:
        yield
    finally:
        dist.destroy_process_group()
        _clear_sharding_prop_cache()  # it has these groups, and gives them to equal meshes of later ones


def trace(model: Model | str, inputs: Mapping[str, Tensor], division: Division) -> Trace:
    """The training step of a process for a microbatch, by shapes.

    Args:
        model: Model on any device; it is copied to the meta device.
        inputs: The microbatch on the meta device.
        division: How processes divide the model; those of its plan have to be there (`imaginary_processes`) unless
            there is one.

    Raises: ValueError as `Plan.check`.
    """
    made = meta_copy(model, {}).to(division.dtype).train()
    inputs = {name: x.to(division.dtype) if x.is_floating_point() else x for name, x in inputs.items()}
    world = division.tensor * division.context
    groups: dict[str, str] = {}
    if world > 1:
        mesh = init_device_mesh("cpu", (division.context, division.tensor), mesh_dim_names=("context", "tensor"))
        groups = {str(mesh[name].get_group().group_name): name for name in ("context", "tensor")}
    if division.checkpointing is not None:
        recompute(made, division.checkpointing)
    if division.tensor > 1:
        divide(made, mesh["tensor"], sequence=division.sequence)
    if division.context > 1:
        context_parallel(made, mesh["context"].get_group())
    held = [p.to_local() if isinstance(p, DTensor) else p for p in made.parameters()]
    chunk = cross_entropy._ENTRIES_GPU if division.on_gpu else cross_entropy._ENTRIES
    with ExitStack() as contexts:
        contexts.enter_context(fused())
        cast = contexts.enter_context(meta_autocast(division.autocast, division.on_gpu, made))
        recorder = Recorder([*held, *made.buffers(), *inputs.values()], groups)
        for context in (kernel_attention(recorder, cast), patch.object(cross_entropy, "_ENTRIES", chunk),
                        patch.object(torch.autograd, "backward", recorder.begin_backward), recorder):  # fmt: skip
            contexts.enter_context(context)
        recorder.follow(made)
        backward(made, dict(inputs), whole_logits=division.whole_logits)
        recorder.close()
    return Trace(tuple(recorder.segments), recorder.hidden)


def backward(model: Any, inputs: dict[str, Tensor], *, whole_logits: bool) -> None:
    """One forward and backward pass with the loss of language models, else with one that takes nothing."""
    head, ids = getattr(model, "head", None), inputs.get("decoder_input_ids", inputs.get("input_ids"))
    if not isinstance(head, LMHead) or ids is None or model.has_loss:
        step(model, inputs)
        return
    layer = None if whole_logits else output_layer(model)
    x = model(**inputs) if layer is None else head.features(model.encode(**inputs))
    slices = slices_of(model)
    labels = ids.new_zeros(ids.shape, dtype=torch.long)
    labels = labels if slices is None else slices.take(labels)
    if labels.shape[:2] != x.shape[:2]:  # with image tokens between those of the text
        labels = labels.new_zeros(x.shape[:2])
    Predictions(x.flatten(0, 1), labels.flatten(), layer).cross_entropy("sum").backward()


# --- what is recorded -------------------------------------------------------------------------------------------------


class Recorder(PeakMemory):
    """Splits a step into segments. groups: name of a process group -> dimension of the plan."""

    def __init__(self, existing: list[Tensor], groups: Mapping[str, str]) -> None:
        super().__init__(existing)
        self.groups = groups
        self.segments = [Segment("forward", "")]
        self.blocks: dict[nn.Module, str] = {}
        self.parameters: list[nn.Parameter] = []
        self.last: weakref.ref[Tensor] | None = None  # output of a block
        self.run_backward = torch.autograd.backward
        self.hidden = 0
        self.attention = 0.0  # FLOPs of the next call of a kernel

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if any(issubclass(each, DTensor) for each in types):
            return NotImplemented  # it comes again with the part of this process
        result = super().__torch_dispatch__(func, types, args, kwargs)
        self.count(func, args, kwargs or {}, result)
        return result

    def note_peak(self) -> None:
        """As in PeakMemory, for the segment."""
        segment = self.segments[-1]
        segment.peak = max(segment.peak, self.current)

    # --- segments -------------------------------------------------------------------------------------------------

    def follow(self, model: nn.Module) -> None:
        """Begin a segment where a block begins and ends, in both passes."""
        named = {module: name for name, module in model.named_modules()}
        for block in blocks_of(model):
            self.blocks[block] = named[block]
            self.parameters.extend(block.parameters())
            block.register_forward_pre_hook(self.before)
            block.register_forward_hook(self.behind)

    def mark(self, phase: Phase, unit: str) -> None:
        """Close the segment, and begin one."""
        self.close()
        self.segments.append(Segment(phase, unit, self.current))

    def close(self) -> None:
        """Drop the gradients of blocks, which belong to the segment that ends."""
        if self.segments[-1].phase == "backward":
            for parameter in self.parameters:
                parameter.grad = None
        self.segments[-1].after = self.current

    def before(self, block: nn.Module, args: Any) -> None:
        if self.segments[-1].phase == "backward":
            return  # a block that is computed again
        self.mark("forward", self.blocks[block])
        self.hidden = self.hidden or args[0].nbytes
        follows = self.last is not None and self.last() is args[0]
        if args[0].requires_grad and not follows:  # the block before begins where this one ends
            args[0].register_hook(lambda grad: self.mark("backward", ""))

    def behind(self, block: nn.Module, args: Any, y: Any) -> None:
        if self.segments[-1].phase == "backward":
            return
        if y.requires_grad:
            y.register_hook(lambda grad: self.mark("backward", self.blocks[block]))
        self.last = weakref.ref(y)
        self.mark("forward", "")

    def begin_backward(self, *args: Any, **options: Any) -> None:
        """`torch.autograd.backward`, in segments of its own."""
        self.mark("backward", "")
        self.run_backward(*args, **options)

    # --- work -----------------------------------------------------------------------------------------------------

    def count(self, func: Any, args: tuple, kwargs: dict, result: Any) -> None:
        """Add what an operation computes to the segment."""
        work, packet = self.segments[-1].work, func._overloadpacket
        name = packet.__name__
        if func.namespace in ("c10d", "_c10d_functional"):
            if name in OF_CALL:
                self.exchange(name, args)
            return
        if packet is KERNEL:
            work.attention_flops, work.operations = work.attention_flops + self.attention, work.operations + 1
            return
        if packet in flop_registry:
            work.flops += flop_registry[packet](*args, **kwargs, out_val=result)
            work.operations += 1
        elif name not in FREE and not func.is_view and func.namespace != "prim":
            tensors = [t for t in tree_leaves((args, kwargs, result)) if isinstance(t, Tensor)]
            work.moved += sum(t.nbytes for t in tensors)
            work.operations += 1

    def exchange(self, name: str, args: tuple) -> None:
        """Add a call of torch.distributed."""
        tensors, group = OF_CALL[name].read(args)
        size = sum(t.nbytes for t in tensors)
        over = self.groups.get(group, next(iter(self.groups.values()), ""))
        self.segments[-1].work.exchanges.append(Exchange(OF_CALL[name].operation, 1, size, over))


@contextmanager
def kernel_attention(recorder: Recorder, cast: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Attention on meta tensors by the operation of a fused kernel, whose results selective checkpointing keeps. cast:
    of its inputs, for autocast."""
    of_shapes = F.scaled_dot_product_attention

    def attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
                  is_causal: bool = False, **options: Any) -> Tensor:  # fmt: skip
        if not q.is_meta or (attn_mask is not None and attn_mask.requires_grad):
            return of_shapes(q, k, v, attn_mask, dropout_p, is_causal, **options)
        flops, (q, k, v) = attention_flops(q.shape, k.shape, v.shape) / (2 if is_causal else 1), map(cast, (q, k, v))
        return KernelAttention.apply(q, k, v, attn_mask, flops, recorder)

    with patch.object(F, "scaled_dot_product_attention", attention):
        yield


class KernelAttention(FusedAttention):
    """As FusedAttention, by an operation that the policies of checkpointing know."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, flops: float, recorder: Recorder
    ) -> Tensor:
        ctx.flops, ctx.recorder = flops, recorder
        merged = q.new_empty(q.shape[0], q.shape[2], q.shape[1], v.shape[-1]).transpose(1, 2)
        recorder.attention = flops
        y, sums = KERNEL(merged, k, v, 0.0, False)
        if mask is not None and mask.dtype == torch.bool:
            mask = torch.empty_like(mask, dtype=q.dtype)
        ctx.save_for_backward(q, k, v, y, sums, mask)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        work = ctx.recorder.segments[-1].work
        work.attention_flops += BACKWARD_ATTENTION * ctx.flops
        work.operations += 1
        return *FusedAttention.backward(ctx, *grads), None, None
