"""Caches for decoding: keys and values, or the running sum of linear attention."""

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.nn.masks import Mask, MaskView
from zoo.nn.position_biases import Bias, BiasView


class State:
    """Base class of the cache of one attention layer; `length` is the number of cached tokens."""

    length: int = 0

    def crop(self, length: int) -> None:
        """Keep the first `length` tokens only (speculative decoding drops rejected ones)."""
        raise ValueError(f"{type(self).__name__} is a sum over all tokens and cannot be cropped to {length} tokens")

    def reorder(self, index: Tensor) -> None:
        """Replace row i by row index[i] (beam search). index: [B] or longer."""
        raise NotImplementedError


class KVCache(State):
    """Cache of keys and values [B, G, capacity, P], written in place.

    Eager decoding appends at `length` and attends to a slice; the buffer doubles when it is full. With `static=True`
    (for compiled decoding) tokens are written at `position`, a tensor, and the whole buffer is attended to under the
    mask `key < position`, so that shapes and constants are the same in each step.
    """

    def __init__(self, batch: int, heads: int, capacity: int, dim: int, like: Tensor, static: bool = False) -> None:
        self.k, self.v = (like.new_zeros(batch, heads, capacity, dim) for _ in range(2))
        self._position = torch.zeros((), dtype=torch.long, device=like.device) if static else None
        self.static = static

    @property
    def position(self) -> Tensor:
        """Number of cached tokens, as a tensor."""
        if self._position is None:
            return torch.tensor(self.length, device=self.k.device)
        return self._position

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append k, v [B, G, N, P]; returns all keys and values so far."""
        new = k.shape[2]
        if k.dtype != self.k.dtype:  # autocast computes them in another dtype than that of the weights
            self.k, self.v = self.k.to(k.dtype), self.v.to(v.dtype)
        if self.static:
            place = self.position + torch.arange(new, device=k.device)
            self.k.index_copy_(2, place, k)
            self.v.index_copy_(2, place, v)
            self._position = self.position + new
            return self.k, self.v
        end = self.length + new
        if end > self.k.shape[2]:
            self.grow(max(end, 2 * self.k.shape[2]))
        self.k.narrow(2, self.length, new).copy_(k)
        self.v.narrow(2, self.length, new).copy_(v)
        self.length = end
        return self.k.narrow(2, 0, end), self.v.narrow(2, 0, end)

    def visible(self, mask: Mask, bias: Bias | None, queries: int) -> tuple[Mask, Bias | None]:
        """Mask and bias for the last `queries` tokens over a static buffer, whose unused part is masked."""
        keys = torch.arange(self.k.shape[2], device=self.k.device)[None]
        query = self.position - queries + torch.arange(queries, device=self.k.device)[None]
        bias = None if bias is None else BiasView(bias, q=query, k=keys, cache=None)
        return MaskView(mask, q=query, k=keys, keep=keys < self.position), bias

    def grow(self, capacity: int) -> None:
        """Enlarge the buffers to `capacity` tokens."""
        self.k, self.v = (F.pad(t, (0, 0, 0, capacity - t.shape[2])) for t in (self.k, self.v))

    def crop(self, length: int) -> None:
        if not self.static and length > self.length:
            raise ValueError(f"cannot crop a cache of {self.length} tokens to {length}")
        self.length = length
        self._position = torch.full_like(self.position, length) if self.static else None

    def reorder(self, index: Tensor) -> None:
        self.k, self.v = self.k.index_select(0, index), self.v.index_select(0, index)


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


class LayerState:
    """Cache of one block: that of its mixer, and the projected keys and values of the encoder outputs."""

    def __init__(self, mixer: State) -> None:
        self.mixer = mixer
        self.memory: tuple[Tensor, Tensor] | None = None

    def reorder(self, index: Tensor) -> None:
        self.mixer.reorder(index)
        if self.memory is not None:
            self.memory = (self.memory[0].index_select(0, index), self.memory[1].index_select(0, index))


class StackState(list[LayerState]):
    """Cache of a stack: one `LayerState` per block. Counts the tokens, also for a mixer that does not."""

    length: int = 0

    def advance(self, tokens: int) -> None:
        """Count new tokens. A static cache counts them by its `position`, a tensor."""
        if isinstance(self[0].mixer, KVCache) and self[0].mixer.static:
            return
        self.length += tokens
        for layer in self:
            layer.mixer.length = self.length

    def crop(self, length: int) -> None:
        for layer in self:
            layer.mixer.crop(length)
        self.length = length

    def reorder(self, index: Tensor) -> None:
        for layer in self:
            layer.reorder(index)
