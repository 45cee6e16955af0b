"""The cost of a model: parameters, FLOPs and memory, counted on the meta device in seconds for models of any size.

Models whose computation depends on values of their inputs, such as the edges of graphs, are counted on the CPU.
"""

import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from zoo.models.base import Model
from zoo.models.example_batch import example_batch
from zoo.models.registry import build, family, find_variant, with_overrides
from zoo.nn import kernels

FUSED_FLOPS: list[int] = []  # of `FusedAttention`, which no counter sees


@dataclass(frozen=True)
class Measures:
    """The cost of a model at one batch size.

    flops: of the matrix products, convolutions and attention in one forward pass; a multiply-add counts as two.
    weight_bytes: of parameters and buffers. inference_bytes: estimated peak of a forward pass without gradients
    (weights and activations). training_bytes: of a training step with AdamW (weights, gradients, two moments,
    activations). Both assume fused attention where the model has it, without the overhead of libraries and allocators.
    """

    batch: int
    parameters: int
    trainable: int
    flops: int
    weight_bytes: int
    inference_bytes: int
    training_bytes: int


def measure(model: Model | str, batch: int = 1, *, length: int | None = None, **overrides: Any) -> Measures:
    """The cost of a model, or of the named variant with `overrides` of its config. No weights are created,
    except for models that read values of their inputs, such as graphs.

    length: tokens per row for text models; the default is 128, or the maximum length if it is smaller. The dtype,
    activation checkpointing and frozen parameters of a given model are taken into account.
    """
    if batch < 1 or (length is not None and length < 1):
        raise ValueError(f"batch={batch}, length={length}: expected at least 1")
    copy = meta_copy(model, overrides)
    if copy.reads_values:
        copy = with_zeros(copy)
    inputs = empty_batch(copy, batch, length)
    weights = sum(t.nbytes for t in [*copy.parameters(), *copy.buffers()])
    trainable = sum(p.nbytes for p in copy.parameters() if p.requires_grad)
    copy.eval()
    existing = [*copy.parameters(), *copy.buffers(), *inputs.values()]
    with without_gradients(copy), fused(), counted_flops() as flops, PeakMemory(existing) as inference:
        copy(**inputs)
    copy.train()
    with fused(), PeakMemory(existing) as training:
        step(copy, inputs)
    return Measures(
        batch=batch,
        parameters=sum(p.numel() for p in copy.parameters()),
        trainable=sum(p.numel() for p in copy.parameters() if p.requires_grad),
        flops=flops[0],
        weight_bytes=weights,
        inference_bytes=weights + inference.peak,
        training_bytes=weights + 2 * trainable + max(training.peak, trainable),
    )


def meta_copy(model: Model | str, overrides: dict[str, Any]) -> Model:
    """The same model on the meta device, which has shapes but no data."""
    if isinstance(model, str):
        found = find_variant(model)
        return build(found, with_overrides(found, found.config(**found.variants[model]), overrides), "meta")
    if overrides:
        raise ValueError(
            f"{', '.join(overrides)} cannot override the config of a model that is made already: pass its name instead"
        )
    if not isinstance(model, Model):
        raise ValueError(f"expected a zoo.Model or the name of one, given {type(model).__name__}")
    copy = build(family(model.family), model.config, "meta").to(model.dtype)
    originals = dict(model.named_parameters())
    for name, parameter in copy.named_parameters():
        parameter.requires_grad_(originals[name].requires_grad if name in originals else True)
    copy.set_checkpointing(any(getattr(module, "checkpointing", False) for module in model.modules()))
    copy.drop_padding = model.drop_padding
    return copy


def with_zeros(model: Model) -> Model:
    """A model of the meta device on the CPU, with zeros as weights."""
    model = model.to_empty(device="cpu")
    for tensor in [*model.parameters(), *model.buffers()]:
        tensor.data.zero_()
    return model


# Inputs [B, N, ...] with a row for each token.
OF_TOKENS = ("input_ids", "global_attention_mask", "token_type_ids", "image_attention_mask")


def empty_batch(model: Model, batch: int, length: int | None = None) -> dict[str, Tensor]:
    """A batch of model inputs on the meta device, or with values where the model reads them."""
    inputs = {}
    example = example_batch(model)
    if model.reads_values and length is None:
        values = model.rows_like(example, batch)
        return {name: x.to(model.dtype) if x.is_floating_point() else x for name, x in values.items()}
    for name, x in example.items():
        rest = list(x.shape[1:])
        if name == "image_sizes":  # numbers that the model computes shapes from
            inputs[name] = x[:1].repeat(batch, 1)
            continue
        if name in OF_TOKENS:
            rest[0] = length or min(128, model.config.part_of("input_ids").max_length)
        dtype = model.dtype if x.is_floating_point() else x.dtype
        inputs[name] = torch.empty(batch, *rest, dtype=dtype, device="meta")
    if length is not None and "input_ids" not in inputs:
        raise ValueError(
            f"length={length}: {type(model).__name__} takes no text, only {', '.join(inputs)}: omit length"
        )
    return inputs


def step(model: Model, inputs: dict[str, Tensor]) -> None:
    """One forward and backward pass."""
    output: Any = model(**inputs)
    tree = vars(output) if not isinstance(output, Tensor) and hasattr(output, "__dict__") else output
    results = [t for t in tree_leaves(tree) if isinstance(t, Tensor) and t.requires_grad]
    if results:
        torch.autograd.backward(results, [torch.empty_like(t) for t in results])


def attention_flops(q: Sequence[int], k: Sequence[int], v: Sequence[int], *_: Any, **__: Any) -> int:
    """FLOPs of attention of these shapes, as torch counts them: of all pairs, masked or not."""
    return 2 * q[0] * q[1] * q[2] * k[2] * (q[3] + v[3])


@contextmanager
def counted_flops() -> Iterator[list[int]]:
    """Context whose list has, after it, the FLOPs of products, convolutions and attention, also of fused kernels."""
    found: list[int] = []
    kernel = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_flops}
    FUSED_FLOPS.clear()
    with FlopCounterMode(display=False, custom_mapping=kernel) as counter:
        yield found
    found.append(counter.get_total_flops() + sum(FUSED_FLOPS))


@contextmanager
def without_gradients(model: Model) -> Iterator[None]:
    """Like torch.no_grad, where a view of a parameter still requires a gradient, which the counter of FLOPs hooks."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        with torch.no_grad():
            yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def state_bytes(state: Any) -> int:
    """The memory of a cache for decoding, in bytes: all tensors that it holds."""
    storages: dict[int, int] = {}
    seen: set[int] = set()

    def visit(part: Any) -> None:
        if isinstance(part, Tensor):
            storages[part.untyped_storage()._cdata] = part.untyped_storage().nbytes()
        elif id(part) not in seen:
            seen.add(id(part))
            parts = part.values() if isinstance(part, dict) else part if isinstance(part, list | tuple) else ()
            for each in [*parts, *getattr(part, "__dict__", {}).values()]:
                visit(each)

    visit(state)
    return sum(storages.values())


# --- what meta tensors lack -------------------------------------------------------------------------------------------


class ScalarsAreTrue(TorchDispatchMode):
    """Reads every boolean of a meta tensor as True, and every number as 1, so that checks of data do not fail."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return True if args[0].dtype == torch.bool else 1
        return func(*args, **(kwargs or {}))


class PeakMemory(ScalarsAreTrue):
    """Tracks the memory of tensors created inside the context and its peak, in bytes.

    existing: tensors created before; views of them do not count.
    """

    def __init__(self, existing: Iterable[Tensor]) -> None:
        super().__init__()
        self.current = self.peak = 0
        self.known = {t.untyped_storage()._cdata for t in existing}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = super().__torch_dispatch__(func, types, args, kwargs)
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self.add(tensor.untyped_storage())
        return result

    def add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self.known:
            self.known.add(key)
            self.current += size
            self.note_peak()
            weakref.finalize(storage, self.free, key, size)

    def note_peak(self) -> None:
        """Called after the memory has grown."""
        self.peak = max(self.peak, self.current)

    def free(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.current -= size


@contextmanager
def fused() -> Iterator[None]:
    """Make attention on meta tensors skip what it skips on a CPU, and torch's store no scores, as fused kernels do, in
    the backward pass as well."""
    original = F.scaled_dot_product_attention

    def attention(
        q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, *args: Any, **kwargs: Any
    ) -> Tensor:
        trainable_bias = attn_mask is not None and attn_mask.requires_grad  # not supported by fused kernels
        if not q.is_meta or trainable_bias:
            return original(q, k, v, attn_mask, *args, **kwargs)
        return FusedAttention.apply(q, k, v, attn_mask)

    autocast = torch.autocast

    def autocast_of(device_type: str, *args: Any, **kwargs: Any) -> Any:  # torch has none for the meta device
        return nullcontext() if device_type == "meta" else autocast(device_type, *args, **kwargs)

    like_cpu = {torch.device("meta"): kernels.capabilities(torch.device("cpu"))}
    with (
        patch.object(F, "scaled_dot_product_attention", attention),
        patch.object(torch, "autocast", autocast_of),
        patch.dict(kernels.RECORDS, like_cpu),
    ):
        yield


class FusedAttention(torch.autograd.Function):
    """Shapes only: the backward pass needs q, k, v, the output, one number per row, and the mask as numbers."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        # heads are merged without a copy
        y = q.new_empty(q.shape[0], q.shape[2], q.shape[1], v.shape[-1]).transpose(1, 2)
        if mask is not None and mask.dtype == torch.bool:  # kernels add a mask to the scores
            mask = torch.empty_like(mask, dtype=q.dtype)
        ctx.save_for_backward(q, k, v, y, q.new_empty(q.shape[:3], dtype=torch.float32), mask)
        FUSED_FLOPS.append(attention_flops(q.shape, k.shape, v.shape))
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        q, k, v, *_ = ctx.saved_tensors
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v), None
