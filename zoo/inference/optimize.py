"""`zoo.optimize`: a faster copy of a model for inference, with the same outputs.

Each optimization is applied where measurements show a gain (benchmarks/inference.py, audio.py): weights reordered once
for the kernels of oneDNN, activations fused into the product before them, one product for q, k and v, patches and
normalized audio frames as linear maps, weight norm folded, half precision.
"""

import copy
import warnings
import weakref
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from zoo.inference.packed_linear import Packing, Rows, deep_copy
from zoo.models.base import Model
from zoo.nn.attention import Attention, is_plain_linear
from zoo.nn.block import Block
from zoo.nn.frontends.image import PatchEmbedding
from zoo.nn.frontends.waveform import ConvLayer, ConvPositions, WaveformEmbedding
from zoo.nn.mlp import MLP
from zoo.utils.arguments import check_dtype


def optimize(model: Model, *, dtype: torch.dtype | None = None, rows: Rows = "many") -> Model:
    """Create an optimized copy of `model` for inference; `model` itself is not changed.

    dtype: the dtype of the computation, such as torch.bfloat16; inputs are cast to it and outputs back to float32.
    rows: "many" for batches and long sequences, "one" for a single row at a time (decoding one text). The copy cannot
    be trained or saved, and raises RuntimeError after the weights of `model` have changed. Layers that cannot be
    optimized (with hooks, adapters or shards) are called unchanged, with a warning that names them.
    """
    if rows not in ("many", "one"):
        raise ValueError(f"rows={rows!r}: expected 'many' or 'one'")
    check_dtype(dtype)
    if not isinstance(model, Model):
        raise ValueError(f"expected a zoo.Model, got a {type(model).__name__}; unwrap it first (ddp.module)")
    if isinstance(model, Optimized):
        raise ValueError("this model is optimized already: call zoo.optimize on the model it was made from")
    pack = Packing(dtype, rows)
    if dtype == torch.bfloat16 and torch.bfloat16 not in pack.types and next(model.parameters()).device.type == "cpu":
        warnings.warn(
            "this CPU has no instructions for bfloat16 (AVX-512): zoo.optimize(dtype=torch.bfloat16) computes without "
            "oneDNN and more slowly than in float32, so omit dtype=",
            stacklevel=2,
        )
    shared = {id(t): t for t in [*model.parameters(), *model.buffers()]}  # share the weights instead of copying them
    report, preprocess = model.load_report, model.preprocess
    fast = copy.deepcopy(model, shared | {id(report): report, id(preprocess): preprocess})
    fast.eval()
    unoptimized = list(replace_parts(fast, pack))
    if dtype is not None:
        cast(fast, dtype)
    for name, parameter in fast.named_parameters():
        owner, _, key = name.rpartition(".")
        setattr(fast.get_submodule(owner), key, nn.Parameter(parameter.detach(), requires_grad=False))
    methods = {name: casting_method(name) for name in dir(model) if name.startswith("encode_")}  # of multi-tower models
    fast.__class__ = type(f"Optimized{type(model).__name__}", (Optimized, type(model)), methods)
    assert isinstance(fast, Optimized)
    fast.attach(model, dtype)
    if unoptimized:
        warnings.warn(f"not optimized, because not plain nn.Linear layers: {', '.join(unoptimized)}", stacklevel=2)
    return fast


class Optimized:
    """Mixin of optimized models: casts inputs and outputs, and checks that the original weights have not changed."""

    def attach(self, model: Model, dtype: torch.dtype | None) -> None:
        """Record the weights of the original model."""
        self.source_ = weakref.ref(model)
        self.versions_ = [
            (weakref.ref(module), name, id(p), version_of(p))
            for module in model.modules()
            for name, p in module._parameters.items()
            if p is not None
        ]
        self.dtype_ = dtype
        self.call_state_ = SimpleNamespace(nested=False, decoding=False)  # setting attributes of an nn.Module is slow

    def __call__(self, *args: Any, **batch: Any) -> Any:
        return self.run_cast(super().__call__, *args, **batch)  # type: ignore[misc]

    def encode(self, *args: Any, **batch: Any) -> Any:
        return self.run_cast(super().encode, *args, **batch)  # type: ignore[misc]

    def decode(self, input_ids: Tensor, state: Any, *args: Any, **batch: Any) -> Any:
        self.call_state_.decoding = state.length > 0  # weights are checked once per text, not for every token
        try:
            return self.run_cast(super().decode, input_ids, state, *args, **batch)  # type: ignore[misc]
        finally:
            self.call_state_.decoding = False

    def run_cast(self, call: Callable[..., Any], *args: Any, **batch: Any) -> Any:
        """Run `call` in the dtype of this model; nested calls (forward calls encode) are not cast."""
        if self.call_state_.nested:
            return call(*args, **batch)
        if not self.call_state_.decoding:
            self.check_weights()
        self.call_state_.nested = True
        try:
            with torch.no_grad():
                return to_float32(call(*self.cast_inputs(args), **self.cast_inputs(batch)))
        finally:
            self.call_state_.nested = False

    def cast_inputs(self, value: Any) -> Any:
        """Cast floating point tensors, also in containers."""
        if self.dtype_ is None:
            return value
        if isinstance(value, Tensor) and value.is_floating_point():
            return value.to(self.dtype_)
        if isinstance(value, tuple | list):
            return type(value)(self.cast_inputs(v) for v in value)
        return {k: self.cast_inputs(v) for k, v in value.items()} if isinstance(value, dict) else value

    def check_weights(self) -> None:
        """Raises RuntimeError if the weights of the original model have changed."""
        if self.source_() is None:
            return
        for module, name, identity, version in self.versions_:
            owner = module()
            p = None if owner is None else owner._parameters.get(name)
            if p is not None and (id(p) != identity or version_of(p) != version):
                raise RuntimeError(
                    f"the weights of the original model have changed since zoo.optimize "
                    f"({type(owner).__name__}.{name}): call zoo.optimize again"
                )

    def train(self, mode: bool = True) -> Any:
        if mode:
            raise ValueError("an optimized model is for inference only: train the model it was made from")
        return super().train(False)  # type: ignore[misc]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """`to`, `half`, `cuda` and others: what would change the type or the device is refused."""
        like = torch.empty(0, dtype=self.dtype, device=self.device)  # type: ignore[attr-defined]
        new = fn(like)
        if (new.dtype, new.device) != (like.dtype, like.device):
            raise ValueError(
                "an optimized model stays where and as it is: move or cast the model it was made from, and optimize it "
                "again (zoo.optimize has dtype=)"
            )
        return self

    def reset_head(self, num_classes: int, seed: int = 0) -> None:
        raise ValueError("an optimized model is for inference only: reset the head of the model it was made from")

    def __copy__(self) -> Any:
        new = object.__new__(type(self))
        new.__dict__.update(vars(self))
        return new

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return deep_copy(self, memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise ValueError(
            "an optimized model cannot be pickled: pickle the model it was made from, and optimize it again"
        )

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        raise ValueError("an optimized model stores its weights in another layout: save the model it was made from")


def casting_method(name: str) -> Callable[..., Any]:
    """The method `name` of an optimized model with inputs and outputs cast, as in `encode`."""

    def method(self: Any, *args: Any, **batch: Any) -> Any:
        return self.run_cast(getattr(super(Optimized, self), name), *args, **batch)

    return method


def version_of(parameter: Tensor) -> int:
    """The number of in-place writes to a parameter; 0 for inference tensors, which do not count them."""
    return 0 if parameter.is_inference() else parameter._version


def to_float32(value: Any) -> Any:
    """Cast floating point tensors to float32, also in containers and dataclasses."""
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, tuple | list):
        return type(value)(to_float32(v) for v in value)
    if isinstance(value, dict):
        return {name: to_float32(v) for name, v in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: to_float32(getattr(value, f.name)) for f in fields(value)})
    return value


def cast(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast the remaining parameters and buffers, without changing the tensors shared with the original model."""
    for module in model.modules():
        for name, p in list(module._parameters.items()):
            if p is not None and p.is_floating_point():
                module._parameters[name] = nn.Parameter(p.detach().to(dtype), requires_grad=False)
        for name, b in list(module._buffers.items()):
            if b is not None and b.is_floating_point():
                module._buffers[name] = b.to(dtype)


class FusedAttention(Attention):
    """Self-attention with one matrix product for q, k and v."""

    joined: nn.Module
    sizes: list[int]  # heads of q, of k and of v

    def project_heads(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.split(self.joined(x)).split(self.sizes, 1)


class FusedMLP(MLP):
    """An MLP with the activation fused into the product before it."""

    def forward(self, x: Tensor) -> Tensor:
        if self.gate is not None:
            return self.down(self.gate(x) * self.up(x))
        return self.down(self.up(x))


class LinearPatches(nn.Module):
    """A convolution with stride = kernel size, as one product per patch: [B, C, H, W] -> [B, D, h, w]."""

    def __init__(self, conv: nn.Conv2d, pack: Packing) -> None:
        super().__init__()
        self.size: tuple[int, int] = (conv.kernel_size[0], conv.kernel_size[1])
        self.product = pack(conv.weight.flatten(1), conv.bias)

    def forward(self, pixels: Tensor) -> Tensor:
        rows, columns = self.size
        height, width = pixels.shape[2] // rows * rows, pixels.shape[3] // columns * columns
        pixels = pixels[..., :height, :width]
        x = pixels.unflatten(3, (-1, columns)).unflatten(2, (-1, rows))  # B C h r w c
        x = self.product(x.permute(0, 2, 4, 1, 3, 5).flatten(3))  # B h w D
        return x.permute(0, 3, 1, 2)


class FrameProducts(nn.Module):
    """A convolution over time with layer norm, [B, C, T] -> [B, C', T']. The samples of a frame are contiguous and
    overlap the next frame, so one product computes all frames without a transposition between layers.
    """

    def __init__(self, layer: ConvLayer, pack: Packing) -> None:
        super().__init__()
        assert layer.norm is not None
        self.kernel, self.stride = layer.conv.kernel_size[0], layer.conv.stride[0]
        self.product = pack(layer.conv.weight.mT.flatten(1), layer.conv.bias)
        self.norm, self.act = layer.norm, layer.act

    def forward(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        x = x.mT.contiguous()  # B T C
        rows, samples, channels = x.shape
        frames = (samples - self.kernel) // self.stride + 1
        steps = (samples * channels, self.stride * channels, 1)
        return self.act(self.norm(self.product(x.as_strided((rows, frames, self.kernel * channels), steps)))).mT


class FoldedPositions(ConvPositions):
    """Convolutional positions with the weight norm (direction and gain) folded into one weight."""

    folded: nn.Parameter

    def weight(self) -> Tensor:
        return self.folded


def replace_parts(model: Model, pack: Packing) -> Iterator[str]:
    """Replace modules in place by faster ones; yields the names of linear layers that cannot be replaced."""
    for module in list(model.modules()):
        if isinstance(module, Block) and type(module.mixer) is Attention:  # cross-attention has two inputs
            fuse_attention(module.mixer, pack)
        elif isinstance(module, MLP):
            fuse_mlp(module, pack)
        elif (
            isinstance(module, PatchEmbedding)
            and isinstance(conv := module.proj, nn.Conv2d)
            and is_plain_patch_projection(conv)
        ):
            module.proj = LinearPatches(conv, pack)
        elif isinstance(module, WaveformEmbedding):
            for i, layer in enumerate(module.layers):
                if isinstance(layer, ConvLayer) and isinstance(layer.norm, nn.LayerNorm) and has_no_hooks(layer):
                    module.layers[i] = FrameProducts(layer, pack)
        elif type(module) is ConvPositions and not module._forward_hooks:
            fold_positions(module)
    for name, module in list(model.named_modules()):
        for key, child in list(module.named_children()):
            if not isinstance(child, nn.Linear):
                continue
            if is_plain_linear(child):
                setattr(module, key, pack(child.weight, child.bias))
            else:
                yield f"{name}.{key}" if name else key


def fuse_attention(module: Attention, pack: Packing) -> None:
    """Join the projections of q, k and v."""
    parts: list[Any] = [module.q, module.k, module.v]
    if not all(map(is_plain_linear, parts)):
        return
    bias = None
    if any(p.bias is not None for p in parts):
        bias = torch.cat([p.weight.new_zeros(p.out_features) if p.bias is None else p.bias for p in parts])
    fused: Any = module
    fused.__class__ = FusedAttention
    fused.joined = pack(torch.cat([p.weight for p in parts]), bias)
    fused.sizes = [p.out_features // module.head_dim for p in parts]
    del fused.q, fused.k, fused.v


def fuse_mlp(module: MLP, pack: Packing) -> None:
    """Fuse the activation into the first product."""
    first = module.up if module.gate is None else module.gate
    if type(module) is not MLP or not is_plain_linear(first):
        return
    module.__class__ = FusedMLP
    fused: Any = pack(first.weight, first.bias, module.act_name)
    if module.gate is None:
        module.up = fused
    else:
        module.gate = fused


def fold_positions(module: ConvPositions) -> None:
    """Compute the weight norm once."""
    weight = module.weight().detach()
    folded: Any = module
    folded.__class__ = FoldedPositions
    folded.folded = nn.Parameter(weight, requires_grad=False)
    del folded.gain, folded.direction


def has_no_hooks(layer: ConvLayer) -> bool:
    return not any(part._forward_hooks or part._forward_pre_hooks for part in layer.modules())


def is_plain_patch_projection(proj: nn.Conv2d) -> bool:
    return type(proj) is nn.Conv2d and proj.kernel_size == proj.stride and not proj._forward_hooks
