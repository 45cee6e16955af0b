"""What a model costs: parameters, multiplications, memory. Counted without data: the largest model takes seconds."""

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from zoo.models.base import Model
from zoo.models.example_batch import example_batch
from zoo.models.registry import build, family, find_variant, resolve_overrides


@dataclass(frozen=True)
class Measures:
    """What one model costs at one batch size.

    flops: of the products (matrices, convolutions, attention) in one forward pass; a multiplication and an addition are
    two. Bytes: weights, and the estimated most at once for one forward without gradients (weights and activations) and
    for a training step with AdamW (weights, gradients, its two moments, activations), with fused attention where the
    model has it. What a device's libraries and its allocator take comes on top.
    """

    batch: int
    parameters: int
    trainable: int
    flops: int
    weight_bytes: int
    inference_bytes: int
    training_bytes: int


def measure(model: Model | str, batch: int = 1, *, length: int | None = None, **overrides: Any) -> Measures:
    """The cost of a model, or of the model of that name with `overrides` of its config; no weights are made or needed.

    length: tokens in each row of a text, default 128 or as many as the model takes. The dtype and the activation
    checkpointing of a given model count; which parameters are frozen, too.
    """
    if batch < 1 or (length is not None and length < 1):
        raise ValueError(f"batch={batch}, length={length}: expected at least 1")
    twin = meta_twin(model, overrides)
    inputs = empty_batch(twin, batch, length)
    weights = sum(t.nbytes for t in [*twin.parameters(), *twin.buffers()])
    learned = sum(p.nbytes for p in twin.parameters() if p.requires_grad)
    twin.eval()
    with torch.no_grad(), Decided(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        twin(**inputs)
    before = [*twin.parameters(), *twin.buffers(), *inputs.values()]
    with torch.no_grad(), fused(), Live(before) as inference:
        twin(**inputs)
    twin.train()
    with fused(), Live(before) as training:
        step(twin, inputs)
    return Measures(
        batch=batch,
        parameters=sum(p.numel() for p in twin.parameters()),
        trainable=sum(p.numel() for p in twin.parameters() if p.requires_grad),
        flops=counter.get_total_flops(),
        weight_bytes=weights,
        inference_bytes=weights + inference.most,
        training_bytes=weights + 2 * learned + max(training.most, learned),
    )


def meta_twin(model: Model | str, overrides: dict[str, Any]) -> Model:
    """The same model on the meta device: shapes, and no data."""
    if isinstance(model, str):
        found = find_variant(model)
        return build(
            found, found.config(**found.variants[model]).replace(**resolve_overrides(found, overrides)), "meta"
        )
    if overrides:
        raise ValueError(f"{', '.join(overrides)} would change a model that is made already; give its name instead")
    if not isinstance(model, Model):
        raise ValueError(f"expected a zoo.Model or the name of one, given {type(model).__name__}")
    twin = build(family(model.family), model.config, "meta").to(model.dtype)
    theirs = dict(model.named_parameters())
    for name, parameter in twin.named_parameters():
        parameter.requires_grad_(theirs[name].requires_grad if name in theirs else True)
    twin.set_checkpointing(any(getattr(module, "checkpointing", False) for module in model.modules()))
    twin.drop_padding = model.drop_padding
    return twin


def empty_batch(model: Model, batch: int, length: int | None = None) -> dict[str, Tensor]:
    """What the model takes, without data."""
    inputs = {}
    for name, x in example_batch(model).items():
        rest = list(x.shape[1:])
        if name == "input_ids":
            rest = [length or min(128, model.config.part_of(name).max_length)]
        dtype = model.dtype if x.is_floating_point() else x.dtype
        inputs[name] = torch.empty(batch, *rest, dtype=dtype, device="meta")
    if length is not None and "input_ids" not in inputs:
        raise ValueError(f"length={length}: {type(model).__name__} takes no text, but {', '.join(inputs)}")
    return inputs


def step(model: Model, inputs: dict[str, Tensor]) -> None:
    """Forward and backward."""
    output: Any = model(**inputs)
    held = vars(output) if not isinstance(output, Tensor) and hasattr(output, "__dict__") else output
    results = [t for t in tree_leaves(held) if isinstance(t, Tensor) and t.requires_grad]
    if results:
        torch.autograd.backward(results, [torch.empty_like(t) for t in results])


# --- what meta tensors cannot do by themselves --------------------------------------------------------------------


class Decided(TorchDispatchMode):
    """Questions about data are answered with yes: is nothing padded, has this mask an empty row?"""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return True if args[0].dtype == torch.bool else 1
        return func(*args, **(kwargs or {}))


class Live(Decided):
    """Adds up what tensors hold that are made inside it, and remembers the most that they held at once, in bytes.

    before: tensors that were there already; views of them take nothing.
    """

    def __init__(self, before: Iterable[Tensor]) -> None:
        super().__init__()
        self.now = self.most = 0
        self.known = {t.untyped_storage()._cdata for t in before}

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
            self.now += size
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self.free, key, size)

    def free(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


@contextmanager
def fused() -> Iterator[None]:
    """Torch's attention of meta tensors keeps no scores, as its fused kernels do not. Holds in a backward pass, too."""
    original = F.scaled_dot_product_attention

    def attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, *rest: Any, **named: Any) -> Tensor:
        learned = attn_mask is not None and attn_mask.requires_grad  # no fused kernel takes a bias that learns
        if not q.is_meta or learned:
            return original(q, k, v, attn_mask, *rest, **named)
        return FusedAttention.apply(q, k, v)

    with patch.object(F, "scaled_dot_product_attention", attention):
        yield


class FusedAttention(torch.autograd.Function):
    """Shapes only: q, k, v, the output and one number per row are what the backward pass needs."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        y = q.new_empty(q.shape[0], q.shape[2], q.shape[1], v.shape[-1]).transpose(
            1, 2
        )  # heads are merged without a copy
        ctx.save_for_backward(q, k, v, y, q.new_empty(q.shape[:3], dtype=torch.float32))
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        q, k, v, *_ = ctx.saved_tensors
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
