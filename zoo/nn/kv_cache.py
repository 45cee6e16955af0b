"""Caches for decoding: keys and values, the running sum of linear attention, or the state of a recurrence."""

import weakref
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.nn.masks import (
    CAUSAL,
    And,
    AnyMask,
    Causal,
    Mask,
    MaskView,
    NoMask,
    Or,
    Strided,
    Window,
    Window2D,
    as_mask,
)
from zoo.nn.position_biases import AnyBias, Bias, BiasView, as_bias
from zoo.nn.sparse.block_patterns import CausalWindow2D, WindowPartition


class State:
    """Base class of the cache of one layer; `length` is the number of cached tokens, `content` what it has of them."""

    length: int = 0
    content: str = "a sum over all tokens"

    def can_crop(self, length: int) -> bool:
        """Whether `crop(length)` is possible."""
        return False

    def crop(self, length: int) -> None:
        """Keep the first `length` tokens only (speculative decoding drops rejected ones)."""
        raise ValueError(f"{type(self).__name__} is {self.content} and cannot be cropped to {length} tokens")

    def reorder(self, index: Tensor) -> None:
        """Replace row i by row index[i] (beam search). index: [B] or longer."""
        raise NotImplementedError


class KVCache(State):
    """Cache of keys and values [B, G, capacity, P], written in place.

    Tokens are appended at `length` and attend to a slice; the buffer doubles when it is full.
    """

    def __init__(self, batch: int, heads: int, capacity: int, dim: int, like: Tensor) -> None:
        self.k, self.v = (like.new_zeros(batch, heads, capacity, dim) for _ in range(2))

    def extend(self, k: Tensor, v: Tensor, mask: AnyMask, bias: AnyBias) -> tuple[Tensor, Tensor, AnyMask, AnyBias]:
        """Append k, v [B, G, N, P]; returns the keys and values that the new tokens attend to, and mask and bias for
        these."""
        return *self.append(k, v), mask, bias

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append k, v [B, G, N, P]; returns all keys and values so far."""
        new = k.shape[2]
        if k.dtype != self.k.dtype:  # autocast computes them in another dtype than that of the weights
            self.k, self.v = self.k.to(k.dtype), self.v.to(v.dtype)
        end = self.length + new
        if end > self.k.shape[2]:
            self.grow(max(end, 2 * self.k.shape[2]))
        self.k.narrow(2, self.length, new).copy_(k)
        self.v.narrow(2, self.length, new).copy_(v)
        self.length = end
        return self.k.narrow(2, 0, end), self.v.narrow(2, 0, end)

    def grow(self, capacity: int) -> None:
        """Enlarge the buffers to `capacity` tokens."""
        self.k, self.v = (F.pad(t, (0, 0, 0, capacity - t.shape[2])) for t in (self.k, self.v))

    def can_crop(self, length: int) -> bool:
        return length <= self.length

    def crop(self, length: int) -> None:
        if length > self.length:
            raise ValueError(f"cannot crop a cache of {self.length} tokens to {length}")
        self.length = length

    def reorder(self, index: Tensor) -> None:
        self.k, self.v = self.k.index_select(0, index), self.v.index_select(0, index)

    def tokens(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys and values that are kept [B, G, n, P], and the column of each [1 or B, n] in its row, -1 for none; None
        for the first n columns."""
        return self.k[:, :, : self.length], self.v[:, :, : self.length], None


class StaticKVCache(KVCache):
    """Cache of keys and values for CUDA graphs and compiled decoding: no shape and no address ever changes.

    Each row writes its next token at its own position, and attends to the whole buffer under the mask
    `key <= position`. So the rows of a padded prompt are stored without their padding, and a step is the same whether
    there was any. positions: a tensor [B, 1], shared by all layers; what runs the step advances it.
    """

    def __init__(self, batch: int, heads: int, capacity: int, dim: int, like: Tensor, positions: Tensor) -> None:
        buffer = like.new_zeros(batch, capacity, 2 * heads, dim)  # a token's heads side by side, as fused kernels like
        self.keys_and_values = buffer.transpose(1, 2)
        self.k, self.v = self.keys_and_values.split(heads, 1)
        self.positions = positions

    def extend(self, k: Tensor, v: Tensor, mask: AnyMask, bias: AnyBias) -> tuple[Tensor, Tensor, AnyMask, AnyBias]:
        return *self.append(k, v), *self.visible(as_mask(mask), as_bias(bias))

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write k, v [B, G, 1, P] at the positions of the rows; returns the buffers."""
        index = self.positions[:, None, :, None].expand(k.shape)
        self.k.scatter_(2, index, k)
        self.v.scatter_(2, index, v)
        return self.k, self.v

    def append_joined(self, keys_and_values: Tensor) -> tuple[Tensor, Tensor]:
        """`append` for keys and values in one tensor [B, 2G, 1, P]."""
        self.keys_and_values.scatter_(
            2, self.positions[:, None, :, None].expand(keys_and_values.shape), keys_and_values
        )
        return self.k, self.v

    def visible(self, mask: Mask, bias: Bias | None) -> tuple[Mask, Bias | None]:
        """Mask and bias for the new tokens over the buffers, whose later part is masked."""
        bias = None if bias is None else BiasView(bias, self.positions, None, None)
        cache = mask.cache if isinstance(mask, MaskView) and not torch.compiler.is_compiling() else {}
        view = cache.get("static")  # the layers of a forward share it, and what is evaluated in it
        if view is None:
            cache["static"] = view = StaticMaskView.of(mask, self.positions)
        return view, bias

    def load(self, cache: KVCache, order: Tensor | None) -> None:
        """Take over the tokens of a cache; order [B, N]: the tokens of each row, those to keep first."""
        self.keys_and_values.zero_()  # what an earlier text left may not be finite, which no mask hides in a product
        *kept, columns = cache.tokens()
        for own, tokens in zip((self.k, self.v), kept, strict=True):
            if columns is not None:
                places = columns if order is None else order.argsort(1).gather(1, columns.clamp(min=0))
                places = places.masked_fill(columns < 0, own.shape[2] - 1)  # written before it is read
                own.scatter_(2, places[:, None, :, None].expand(tokens.shape), tokens)
                continue
            if order is not None:
                tokens = tokens.gather(2, order[:, None, :, None].expand(tokens.shape))
            own[:, :, : tokens.shape[2]] = tokens

    def can_crop(self, length: int) -> bool:
        return True

    def crop(self, length: int) -> None:
        self.positions.clamp_(max=length)

    def reorder(self, index: Tensor) -> None:
        self.keys_and_values.copy_(self.keys_and_values.index_select(0, index))


@dataclass(frozen=True, eq=False)
class StaticMaskView(MaskView):
    """A mask over the buffers of `StaticKVCache`, evaluated without waiting for the device."""

    @classmethod
    def of(cls, mask: Mask, positions: Tensor) -> "StaticMaskView":
        """positions [B, 1]: of the new tokens."""
        if isinstance(mask, MaskView):
            if mask.q is not None or mask.keep is not None:
                raise ValueError("the rows of a static cache have no padding: omit keep= and attention_mask=")
            mask = mask.inner
        return cls(mask & CAUSAL, positions)

    def evaluate(self, queries: int, keys: int, device: Any) -> tuple[Tensor, Tensor | None]:
        key = (self.inner, queries, keys)
        if torch.compiler.is_compiling() or key not in self.cache:
            allowed = self.dense(queries, keys, device)
            fully_masked = None if sees_itself(self.inner) else ~allowed.any(-1, keepdim=True)
            found = allowed if fully_masked is None else allowed | fully_masked, fully_masked
            if torch.compiler.is_compiling():
                return found
            self.cache[key] = found
        return self.cache[key]


def sees_itself(mask: Mask) -> bool:
    """Whether each token attends to itself under the mask, as far as is known without reading tensors."""
    if isinstance(mask, Or):
        return sees_itself(mask.left) or sees_itself(mask.right)
    if isinstance(mask, And):
        return sees_itself(mask.left) and sees_itself(mask.right)
    window = isinstance(mask, Window) and mask.left >= 0 and mask.right >= 0
    return window or isinstance(mask, NoMask | Causal | Strided | Window2D | WindowPartition | CausalWindow2D)


class LinearAttentionState(State):
    """Cache of linear attention, of constant size: the running sum of features times values.

    The features are divided by exp(top), where `top` [B, H, 1, F] is the running maximum of each feature's exponent;
    `sum` is [B, H, F, P + 1].
    """

    def __init__(self, batch: int, heads: int, features: int, dim: int, like: Tensor) -> None:
        dtype = torch.promote_types(like.dtype, torch.float32)
        self.top = torch.full((batch, heads, 1, features), -1e30, dtype=dtype, device=like.device)
        self.sum = torch.zeros(batch, heads, features, dim + 1, dtype=dtype, device=like.device)

    def reorder(self, index: Tensor) -> None:
        self.top, self.sum = self.top.index_select(0, index), self.sum.index_select(0, index)


class RecurrentState(State):
    """Cache of a recurrence, of constant size: `tensors` [B, ...] by name, which the mixer replaces at each call."""

    content = "the state of a recurrence"

    def __init__(self, **tensors: Tensor) -> None:
        self.tensors = tensors

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def update(self, **tensors: Tensor) -> None:
        """Replace these tensors. A slice is copied, as it would keep all tokens of a prompt in memory."""
        self.tensors |= {name: own_memory(t) for name, t in tensors.items()}

    def rows(self, index: Tensor) -> "RecurrentState":
        """A copy of the rows `index`."""
        return RecurrentState(**{name: t.index_select(0, index) for name, t in self.tensors.items()})

    def write(self, index: Tensor, other: "RecurrentState") -> None:
        """Replace the rows `index` by those of another state."""
        for name, t in self.tensors.items():
            self.tensors[name] = t.to(other[name].dtype).index_copy(0, index, other[name])

    def reorder(self, index: Tensor) -> None:
        self.tensors = self.rows(index).tensors


def own_memory(t: Tensor) -> Tensor:
    """The tensor, copied if it is a small part of a larger one."""
    if torch.compiler.is_compiling() or t.untyped_storage().nbytes() <= 2 * t.nbytes:
        return t
    return t.clone(memory_format=torch.contiguous_format)


class LayerState:
    """Cache of one block: that of its mixer, the projected keys and values of the encoder outputs, and the state of an
    MLP that reads the token before."""

    def __init__(self, mixer: State, mlp: RecurrentState | None = None) -> None:
        self.mixer, self.mlp = mixer, mlp
        self.memory: tuple[Tensor, Tensor] | None = None

    def reorder(self, index: Tensor) -> None:
        self.mixer.reorder(index)
        if self.mlp is not None:
            self.mlp.reorder(index)
        if self.memory is not None:
            self.memory = (self.memory[0].index_select(0, index), self.memory[1].index_select(0, index))


class StackState(list[LayerState]):
    """Cache of a stack: one `LayerState` per block. Counts the tokens, also for a mixer that does not.

    is_static: of static caches, whose positions are advanced by what runs a step. stack: the stack that made it, which
    no other one may continue; None if it is not known, as in a copy. rows: the number of its rows, if it is known.
    features [F, D]: of images, which take the places of image tokens among the tokens that are read next.
    """

    length: int = 0
    is_static: bool = False
    stack: weakref.ref[Any] | None = None
    rows: int | None = None
    features: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "stack"}  # copies may be of a file

    def check(self, stack: Any, rows: int) -> None:
        """Raise ValueError unless `stack` made this cache, for as many rows."""
        if len(self) != len(stack) or (self.stack is not None and self.stack() is not stack):
            raise ValueError(
                f"the state is of another model: it has the tokens of that model in its {len(self)} layers. "
                "Make a new one by new_state of this model, and decode the text from its start"
            )
        if self.rows is not None and self.rows != rows:
            raise ValueError(
                f"the state has {self.rows} rows and the new tokens have {rows}: expected as many; "
                f"new_state({rows}) makes an empty one, and state.reorder(index) chooses rows"
            )

    def can_crop(self, length: int) -> bool:
        """Whether `crop(length)` is possible in all layers."""
        return all(layer.mixer.can_crop(length) for layer in self)

    def advance(self, tokens: int) -> None:
        """Count new tokens."""
        if self.is_static:
            return
        self.length += tokens
        for layer in self:
            layer.mixer.length = self.length

    def crop(self, length: int) -> None:
        for layer in self:
            layer.mixer.crop(length)
        self.length = length

    def reorder(self, index: Tensor) -> None:
        self.rows = len(index)
        for layer in self:
            layer.reorder(index)


class EncoderDecoderState(StackState):
    """Cache of a decoder that attends to an encoder's states `memory` [B, N, D]; memory_mask [B, N]: True at real ones.

    Several rows may decode the same text (beams, samples): after `repeat(copies)` each text has that many rows in a
    row, and its cross-attention keys and values are still kept once.
    """

    def __init__(self, layers: StackState, memory: Tensor, memory_mask: Tensor | None) -> None:
        super().__init__(layers)
        self.stack, self.rows = layers.stack, layers.rows
        self.memory, self.memory_mask, self.copies = memory, memory_mask, 1

    def repeat(self, copies: int) -> None:
        """Replace each row by `copies` rows."""
        index = torch.arange(len(self.memory) * self.copies, device=self.memory.device).repeat_interleave(copies)
        for layer in self:
            layer.mixer.reorder(index)
        self.rows, self.copies = len(index), self.copies * copies

    def reorder(self, index: Tensor) -> None:
        texts, self.rows = index // self.copies, len(index)
        if len(index) == len(self.memory) * self.copies and torch.equal(texts, self.row_texts(index)):
            for layer in self:
                layer.mixer.reorder(index)
            return
        for layer in self:
            layer.mixer.reorder(index)
            if layer.memory is not None:
                layer.memory = layer.memory[0].index_select(0, texts), layer.memory[1].index_select(0, texts)
        self.memory = self.memory.index_select(0, texts)
        self.memory_mask = None if self.memory_mask is None else self.memory_mask.index_select(0, texts)
        self.copies = 1

    def row_texts(self, like: Tensor) -> Tensor:
        """The number of the text of each row."""
        return torch.arange(len(self.memory) * self.copies, device=like.device) // self.copies


S = TypeVar("S", bound=StackState)


def check_state(state: Any, kind: type[S]) -> S:
    """The state of a decoder. Raises ValueError for what is none, and for one of another kind of model."""
    if not isinstance(state, kind):
        raise ValueError(
            f"state: expected a {kind.__name__}, which new_state of this model makes, given a {type(state).__name__}"
        )
    return state
