"""Caches whose shapes and addresses never change, as CUDA graphs need them: those of a decoder and of its encoder."""

from collections.abc import Mapping

import torch
from torch import Tensor

from zoo.nn.kv_cache import (
    EncoderDecoderState,
    KVCache,
    LayerState,
    LinearAttentionState,
    RecurrentState,
    StackState,
    State,
    StaticKVCache,
)
from zoo.nn.window_cache import WindowCache

SMALLEST_SOURCE = 64  # states of an encoder; then their doubles up to SOURCE_STEP, and then its multiples
SOURCE_STEP = 256


class Carried:
    """The tensors of a cache of constant size, which its layer replaces in each step: they return to their addresses.

    LinearAttentionState and RecurrentState have them as attributes or by name.
    """

    def __init__(self, cache: LinearAttentionState | RecurrentState) -> None:
        self.cache = cache
        self.own = dict(tensors_of(cache))

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from other tensors."""
        for name, own in self.own.items():
            own.copy_(tensors[name])

    def keep(self) -> None:
        """Copy what a step has computed to where the next one reads it."""
        held = held_by(self.cache)
        self.load(held)
        held.update(self.own)

    def reorder(self, index: Tensor) -> None:
        """Row i becomes row index[i]."""
        for own in self.own.values():
            own.copy_(own.index_select(0, index))


def constant_caches(state: StackState) -> list[LinearAttentionState | RecurrentState]:
    """The caches of constant size of all layers."""
    caches = [cache for layer in state for cache in (layer.mixer, layer.mlp)]
    return [cache for cache in caches if isinstance(cache, LinearAttentionState | RecurrentState)]


def held_by(cache: State) -> dict[str, Tensor]:
    """The dictionary that holds the tensors of a cache of constant size."""
    return cache.tensors if isinstance(cache, RecurrentState) else vars(cache)


def tensors_of(cache: State) -> dict[str, Tensor]:
    return {name: value for name, value in held_by(cache).items() if isinstance(value, Tensor)}


def static_state(state: StackState, positions: Tensor, capacity: int, like: Tensor) -> StackState:
    """The same kinds of caches, with fixed shapes and addresses. Raises NotImplementedError for other kinds."""
    found = StackState()
    for layer in state:
        mixer = layer.mixer
        if isinstance(mixer, KVCache) and type(mixer) in (KVCache, WindowCache):  # all tokens, a window under its mask
            batch, heads, _, dim = mixer.k.shape
            mixer = StaticKVCache(batch, heads, capacity, dim, like, positions)
        elif type(mixer) not in (LinearAttentionState, RecurrentState):
            raise NotImplementedError(f"a cache of type {type(mixer).__name__}")
        found.append(LayerState(mixer, layer.mlp))
    found.is_static = any(isinstance(layer.mixer, StaticKVCache) for layer in found)
    return found


class StaticMemory:
    """What a decoder reads of its encoder: the keys and values of each layer [R, G, M, P], and what is added to the
    scores of these M places [R, 1, 1, M], -inf at padding and behind the last one.

    copies: rows of the decoder for each of the R texts.
    """

    def __init__(self, state: EncoderDecoderState) -> None:
        self.copies = state.copies
        self.size = source_capacity(state.memory.shape[1])
        self.layers: list[tuple[Tensor, Tensor]] = []
        for layer in state:
            assert layer.memory is not None
            k, v = layer.memory
            self.layers.append((k.new_zeros(*k.shape[:2], self.size, k.shape[3]),
                                v.new_zeros(*v.shape[:2], self.size, v.shape[3])))  # fmt: skip
        like = self.layers[0][0]
        self.bias = like.new_zeros(len(like), 1, 1, self.size)

    def load(self, state: EncoderDecoderState) -> None:
        """Begin with the encoder's states of another text, as many rows and not more states than there are places."""
        states = state.memory.shape[1]
        for buffers, layer in zip(self.layers, state, strict=True):
            assert layer.memory is not None
            for buffer, tensor in zip(buffers, layer.memory, strict=True):
                buffer[:, :, :states] = tensor
                buffer[:, :, states:] = 0  # what an earlier text left may not be finite
        self.bias.fill_(-torch.inf)
        self.bias[..., :states] = 0
        if state.memory_mask is not None:
            self.bias[..., :states].masked_fill_(~state.memory_mask.bool()[:, None, None], -torch.inf)


def source_capacity(states: int) -> int:
    """The places for so many states of an encoder."""
    if states > SOURCE_STEP:
        return -(-states // SOURCE_STEP) * SOURCE_STEP
    return max(SMALLEST_SOURCE, 1 << (states - 1).bit_length())
