"""The parts of a model that `zoo.optimize` can compute in several ways, and the modules that do so.

A `Part` is data: the candidates that give its numbers, in order of preference, and where the chosen one goes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from zoo.inference.packed_linear import KERNELS, GatedLinear, Rows
from zoo.models.encoder_decoder import EncoderDecoder
from zoo.nn.attention import Attention, is_plain_linear
from zoo.nn.block import Block
from zoo.nn.frontends.image import PatchEmbedding
from zoo.nn.frontends.waveform import ConvLayer, ConvPositions, WaveformEmbedding
from zoo.nn.mlp import MLP

PLAIN = "plain"  # the candidate that is the model as created
JOINED = "joined"  # several products as one
# Numbers of rows that are measured: one token; or a few rows that are decoded together, a short input, and a batch.
ROW_COUNTS: dict[Rows, tuple[int, ...]] = {"one": (1,), "many": (8, 64, 512)}
GPU_ROWS = 4096  # of "many" on a GPU, where small batches are bound by the number of kernels and larger ones are alike
MOST_WEIGHTS = 1 << 22  # larger layers, such as the output layer of a language model, are measured by their first rows

Build = Callable[[float], nn.Module]


@dataclass(frozen=True)
class Part:
    """A part of a model that several candidates compute, with the same numbers.

    key: what it computes, such as "linear 768 -> 3072, gelu, float32"; parts with the same key are measured once.
    candidates: name -> function that builds it; its argument is the share of the output features to build, below 1 to
    measure a slice of a large layer. example: number of rows -> input. install: puts a built module into the model.
    """

    key: str
    candidates: dict[str, Build]
    example: Callable[[int], Tensor]
    row_counts: tuple[int, ...]
    install: Callable[[nn.Module], None]
    weights: int

    @property
    def kind(self) -> str:
        """The first word of the key: "linear", "gated", "attention", "patches" or "frames"."""
        return self.key.partition(" ")[0]

    @property
    def share(self) -> float:
        """The share of the output features that is measured."""
        return min(1.0, MOST_WEIGHTS / max(1, self.weights))


def parts_of(model: nn.Module, rows: Rows) -> tuple[list[Part], list[str]]:
    """The parts of a model, and the names of its linear layers that cannot be replaced."""
    parts: list[Part] = []
    inside: set[nn.Module] = set()  # linear layers that belong to a larger part
    of_source = model.source_modules() if rows == "one" and isinstance(model, EncoderDecoder) else set()

    def rows_of(module: nn.Module) -> Rows:
        return "many" if module in of_source else rows  # an encoder reads all tokens of its text at once

    for module in list(model.modules()):
        if isinstance(module, Block) and type(module.mixer) is Attention:  # cross-attention has two inputs
            projections = [module.mixer.q, module.mixer.k, module.mixer.v]
            own_forward = "forward" in vars(module.mixer)  # which may call the projections
            if all(map(is_plain_linear, projections)) and not own_forward and not inside.intersection(projections):
                parts.append(attention_part(module.mixer, rows_of(module)))
                inside |= set(projections)
        elif type(module) is MLP:
            first = module.up if module.gate is None else module.gate
            own_forward = "forward" in vars(module)
            if module.gate is not None and is_joinable(module.gate, module.up) and not own_forward:
                parts.append(gated_part(module, rows_of(module)))
                inside |= {module.gate, module.up}
            elif is_plain_linear(first):
                parts.append(linear_part(first, partial(set_first, module), rows_of(module), module.act_name))
                inside.add(first)
        elif isinstance(module, PatchEmbedding) and is_plain_patch_projection(module.proj):
            parts.append(patches_part(module, rows))
        elif isinstance(module, WaveformEmbedding):
            for i, layer in enumerate(module.layers):
                if isinstance(layer, ConvLayer) and isinstance(layer.norm, nn.LayerNorm) and is_plain_layer(layer):
                    parts.append(frames_part(layer, partial(module.layers.__setitem__, i), rows))
    unoptimized = []
    for name, module in list(model.named_modules()):
        for key, child in list(module.named_children()):
            if is_plain_linear(child) and child not in inside:
                parts.append(linear_part(child, partial(setattr, module, key), rows_of(child)))
            elif isinstance(child, nn.Linear) and not is_plain_linear(child):
                unoptimized.append(f"{name}.{key}" if name else key)
    if of_source:  # layers of the same size are chosen for one row and for many
        many = row_counts(next(model.parameters()), "many")
        parts = [replace(part, key=f"{part.key}, of the source") if part.row_counts == many else part for part in parts]
    return parts, unoptimized


def is_called_plainly(module: nn.Module) -> bool:
    """Whether calling the module only calls its class's `forward`: it has no hooks and is not compiled."""
    hooks = module._forward_hooks or module._forward_pre_hooks or _has_any_global_hook()
    return not hooks and module._compiled_call_impl is None and "forward" not in vars(module)


def kernels(weight: Tensor, act: str | None, rows: Rows) -> Iterator[str]:
    """The names of the kernels that can compute with a weight here."""
    return (name for name, kernel in KERNELS.items() if kernel.supports(weight, act, rows))


def row_counts(weight: Tensor, rows: Rows) -> tuple[int, ...]:
    """The numbers of rows for which the candidates of a layer are measured."""
    return (GPU_ROWS,) if weight.is_cuda and rows == "many" else ROW_COUNTS[rows]


def named(what: str, weight: Tensor) -> str:
    """The key of a part: what it computes and its dtype."""
    return f"{what}, {str(weight.dtype).removeprefix('torch.')}"


def example_rows(like: Tensor, *shape: int) -> Tensor:
    """Random inputs of the dtype and device of a weight, without a change to the global random state."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), device="cpu").to(like)


def first_rows(linear: nn.Linear, share: float, multiple: int = 1) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a share of the output features, a multiple of `multiple`."""
    count = max(1, int(linear.out_features * share) // multiple) * multiple
    return linear.weight[:count], None if linear.bias is None else linear.bias[:count]


# --- Linear layers --------------------------------------------------------------------------------------------------


def linear_part(linear: nn.Module, install: Callable[[nn.Module], None], rows: Rows, act: str | None = None) -> Part:
    """A linear layer, with the activation that follows it."""
    assert isinstance(linear, nn.Linear)

    def build(kernel: str, share: float) -> nn.Module:
        return KERNELS[kernel](*first_rows(linear, share), act)

    return Part(
        named(f"linear {linear.in_features} -> {linear.out_features}" + (f", {act}" if act else ""), linear.weight),
        {name: partial(build, name) for name in kernels(linear.weight, act, rows)},
        lambda count: example_rows(linear.weight, 1, count, linear.in_features),
        row_counts(linear.weight, rows),
        install,
        linear.weight.numel(),
    )


def identity(x: Tensor) -> Tensor:
    return x


def set_first(mlp: MLP, product: nn.Module) -> None:
    """Replace the first linear layer and the activation of an MLP by one product."""
    mlp.act = identity
    setattr(mlp, "up" if mlp.gate is None else "gate", product)


# --- The first two products of a gated MLP ---------------------------------------------------------------------------


class SeparateGate(nn.Module):
    """act(gate(x)) * up(x), by two products."""

    def __init__(self, gate: nn.Module, up: nn.Module) -> None:
        super().__init__()
        self.gate, self.up = gate, up

    def forward(self, x: Tensor) -> Tensor:
        return self.gate(x) * self.up(x)


def is_joinable(gate: nn.Linear, up: nn.Linear) -> bool:
    """Whether one product may be faster: on a CPU, kernels that include the activation are."""
    alike = (gate.bias is None) == (up.bias is None)
    return up.weight.is_cuda and alike and is_plain_linear(gate) and is_plain_linear(up)


def set_gated(mlp: MLP, product: nn.Module) -> None:
    """Replace gate, activation and up by one module: the MLP is down(up(x)) then."""
    mlp.gate, mlp.act = None, identity
    mlp.up = product  # type: ignore[assignment]


def gated_part(mlp: MLP, rows: Rows) -> Part:
    """gate, up and the activation of an MLP: act(gate(x)) * up(x), by two products or by one."""
    gate, up, act = mlp.gate, mlp.up, mlp.act_name
    assert gate is not None

    def separate(share: float) -> nn.Module:
        return SeparateGate(KERNELS[PLAIN](*first_rows(gate, share), act), KERNELS[PLAIN](*first_rows(up, share), None))

    def joined(share: float) -> nn.Module:
        (weight, bias), (other, shift) = first_rows(gate, share), first_rows(up, share)
        return GatedLinear(
            torch.cat([weight, other]), None if bias is None or shift is None else torch.cat([bias, shift]), act
        )

    return Part(
        named(f"gated {up.in_features} -> 2 x {up.out_features}, {act}", up.weight),
        {PLAIN: separate, JOINED: joined},
        lambda count: example_rows(up.weight, 1, count, up.in_features),
        row_counts(up.weight, rows),
        partial(set_gated, mlp),
        gate.weight.numel() + up.weight.numel(),
    )


# --- The projections of self-attention ------------------------------------------------------------------------------


class SeparateProjections(nn.Module):
    """x [B, N, D] -> heads of q, k and v, by one product each."""

    def __init__(self, head_dim: int, q: nn.Module, k: nn.Module, v: nn.Module) -> None:
        super().__init__()
        self.q, self.k, self.v, self.head_dim = q, k, v, head_dim

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        shape = (x.shape[0], x.shape[1], -1, self.head_dim)
        return tuple(part(x).view(shape).transpose(1, 2) for part in (self.q, self.k, self.v))


class JoinedProjections(nn.Module):
    """x [B, N, D] -> heads of q, k and v, by one product. sizes: number of heads of each."""

    def __init__(self, joined: nn.Module, sizes: list[int], head_dim: int) -> None:
        super().__init__()
        self.joined, self.sizes, self.head_dim = joined, sizes, head_dim

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        heads = self.joined(x).view(x.shape[0], x.shape[1], -1, self.head_dim).transpose(1, 2)
        return heads.split(self.sizes, 1)


class FusedAttention(Attention):
    """Self-attention whose projections are one module."""

    projections: nn.Module

    def project_heads(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.projections(x)


def set_projections(attention: Attention, projections: nn.Module) -> None:
    """Replace the projections of q, k and v of an attention module."""
    fused: Any = attention
    fused.__class__ = FusedAttention
    fused.projections = projections
    del fused.q, fused.k, fused.v


def attention_part(attention: Attention, rows: Rows) -> Part:
    """The projections of q, k and v, separate or joined into one product."""
    parts, dim = (attention.q, attention.k, attention.v), attention.head_dim

    def separate(share: float) -> nn.Module:
        return SeparateProjections(dim, *(KERNELS[PLAIN](*first_rows(p, share, dim), None) for p in parts))

    def joined(kernel: str, share: float) -> nn.Module:
        weights, biases = zip(*(first_rows(p, share, dim) for p in parts), strict=True)
        bias = None
        if any(b is not None for b in biases):
            bias = torch.cat([w.new_zeros(len(w)) if b is None else b for w, b in zip(weights, biases, strict=True)])
        return JoinedProjections(KERNELS[kernel](torch.cat(weights), bias, None), [len(w) // dim for w in weights], dim)

    width = attention.q.in_features
    return Part(
        named(f"attention {width} -> {' + '.join(str(p.out_features) for p in parts)}", attention.q.weight),
        rearranged(JOINED, attention.q.weight, rows, separate, joined),
        lambda count: example_rows(attention.q.weight, 1, count, width),
        row_counts(attention.q.weight, rows),
        partial(set_projections, attention),
        sum(p.weight.numel() for p in parts),
    )


def rearranged(
    prefix: str, weight: Tensor, rows: Rows, plain: Build, build: Callable[[str, float], nn.Module]
) -> dict[str, Build]:
    """The candidates of a layer that is as created, or rearranged and then computed by a kernel.

    Their names: "plain", "joined", "joined_onednn", ... build: (kernel, share) -> module.
    """
    candidates: dict[str, Build] = {PLAIN: plain}
    for name in kernels(weight, None, rows):
        candidates[prefix if name == PLAIN else f"{prefix}_{name}"] = partial(build, name)
    return candidates


def kernel_of(candidate: str) -> str:
    """The kernel whose code a candidate runs: "onednn" of "joined_onednn" and "onednn_unfused", "plain" of "joined"."""
    return next((name for name in KERNELS if name in candidate), PLAIN)


# --- Convolutions ---------------------------------------------------------------------------------------------------


class LinearPatches(nn.Module):
    """A convolution with stride = kernel size, as one product per patch: [B, C, H, W] -> [B, D, h, w]."""

    def __init__(self, conv: nn.Conv2d, kernel: str) -> None:
        super().__init__()
        self.size: tuple[int, int] = (conv.kernel_size[0], conv.kernel_size[1])
        self.product = KERNELS[kernel](conv.weight.flatten(1), conv.bias, None)

    def forward(self, pixels: Tensor) -> Tensor:
        rows, columns = self.size
        height, width = pixels.shape[2] // rows * rows, pixels.shape[3] // columns * columns
        pixels = pixels[..., :height, :width]
        x = pixels.unflatten(3, (-1, columns)).unflatten(2, (-1, rows))  # B C h r w c
        x = self.product(x.permute(0, 2, 4, 1, 3, 5).flatten(3))  # B h w D
        return x.permute(0, 3, 1, 2)


def patches_part(embedding: PatchEmbedding, rows: Rows) -> Part:
    """The projection of patches of an image. Images have many patches, whatever `rows` is."""
    conv = embedding.proj
    assert isinstance(conv, nn.Conv2d)
    height, width = conv.kernel_size[0], conv.kernel_size[1]
    return Part(
        named(f"patches {conv.in_channels} x {height} x {width} -> {conv.out_channels}", conv.weight),
        rearranged("linear", conv.weight, "many", lambda _: conv, lambda name, _: LinearPatches(conv, name)),
        lambda count: example_rows(conv.weight, 1, conv.in_channels, 16 * height, count // 16 * width),
        row_counts(conv.weight, "many")[-1:],
        partial(setattr, embedding, "proj"),
        conv.weight.numel(),
    )


def is_plain_patch_projection(proj: nn.Module) -> bool:
    return type(proj) is nn.Conv2d and proj.kernel_size == proj.stride and is_called_plainly(proj)


class FrameProducts(nn.Module):
    """A convolution over time with layer norm, [B, C, T] -> [B, C', T']. The samples of a frame are contiguous and
    overlap the next frame, so one product computes all frames without a transposition between layers.
    """

    def __init__(self, layer: ConvLayer, kernel: str) -> None:
        super().__init__()
        assert layer.norm is not None
        self.kernel, self.stride = layer.conv.kernel_size[0], layer.conv.stride[0]
        self.product = KERNELS[kernel](layer.conv.weight.mT.flatten(1), layer.conv.bias, None)
        self.norm, self.act = layer.norm, layer.act

    def forward(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        x = x.mT.contiguous()  # B T C
        rows, samples, channels = x.shape
        frames = (samples - self.kernel) // self.stride + 1
        steps = (samples * channels, self.stride * channels, 1)
        return self.act(self.norm(self.product(x.as_strided((rows, frames, self.kernel * channels), steps)))).mT


def frames_part(layer: ConvLayer, install: Callable[[nn.Module], None], rows: Rows) -> Part:
    """A convolution over time. A clip has many frames, whatever `rows` is."""
    conv = layer.conv
    kernel, stride = conv.kernel_size[0], conv.stride[0]
    return Part(
        named(f"frames {conv.in_channels} x {kernel} -> {conv.out_channels}, stride {stride}", conv.weight),
        rearranged("linear", conv.weight, "many", lambda _: layer, lambda name, _: FrameProducts(layer, name)),
        # between layers, the channels of a sample are contiguous
        lambda count: example_rows(conv.weight, 1, kernel + stride * (count - 1), conv.in_channels).mT,
        row_counts(conv.weight, "many")[-1:],
        install,
        conv.weight.numel(),
    )


def is_plain_layer(layer: ConvLayer) -> bool:
    return all(map(is_called_plainly, layer.modules()))


class FoldedPositions(ConvPositions):
    """Convolutional positions with the weight norm (direction and gain) folded into one weight."""

    folded: nn.Parameter

    def weight(self) -> Tensor:
        return self.folded


def fold_positions(model: nn.Module) -> None:
    """Compute the weight norm of convolutional positions once."""
    for module in list(model.modules()):
        if type(module) is ConvPositions and is_called_plainly(module):
            weight = module.weight().detach()
            folded: Any = module
            folded.__class__ = FoldedPositions
            folded.folded = nn.Parameter(weight, requires_grad=False)
            del folded.gain, folded.direction
