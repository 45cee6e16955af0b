"""Recurrent layers, torch's nn.GRU and nn.LSTM, over padded rows, and their state for decoding."""

from collections.abc import Sequence
from typing import overload

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from zoo.nn.kv_cache import State
from zoo.utils.transfer import to_device

LayerStates = tuple[Tensor, ...]  # (h,) of a GRU, (h, c) of an LSTM; each [L, B, H]


class RecurrentState(State):
    """State of recurrent layers after the last token of each row.

    layers: each [L, B, H]. extra [B, 1, C]: what the next step reads beside its token, None for nothing.
    """

    content = "the state after the last token"

    def __init__(self, layers: LayerStates, extra: Tensor | None = None) -> None:
        self.layers, self.extra = layers, extra

    def reorder(self, index: Tensor) -> None:
        self.layers = take_rows(self.layers, index)
        self.extra = None if self.extra is None else self.extra.index_select(0, index)


def call_rnn(rnn: nn.RNNBase, x: object, start: LayerStates | None) -> tuple[object, LayerStates]:
    """A GRU or LSTM, with its states as a tuple."""
    given = start if start is None or isinstance(rnn, nn.LSTM) else start[0]
    y, last = rnn(x, given)
    return y, last if isinstance(rnn, nn.LSTM) else (last,)


def run_rnn(
    rnn: nn.RNNBase,
    x: Tensor,
    keep: Tensor | None = None,
    start: LayerStates | None = None,
    *,
    lengths: Sequence[int] | None = None,
    reverse: bool = False,
) -> tuple[Tensor, LayerStates]:
    """(outputs [B, N, H], states after the last real token of each row) of a GRU or LSTM with batch_first.

    Padding, at any place, is not computed: its outputs are zeros, and each row is as it is alone. A row of padding
    only keeps its start. A bidirectional one has both directions side by side, in the outputs and the states.

    Args:
        x: [B, N, D].
        keep: [B, N], True at real tokens; None if all are.
        start: The states before the first token; None for zeros.
        lengths: Sums of the rows of `keep`, on the host, where they are known: a GPU need not be waited for.
        reverse: Read the tokens from the last to the first.
    """
    if keep is None:
        y, last = call_rnn(rnn, x.flip(1) if reverse else x, start)
        assert isinstance(y, Tensor)
        return (y.flip(1) if reverse else y), beside(last, rnn)
    tokens = x.shape[1]
    rank = torch.arange(tokens, device=x.device)
    order = torch.where(keep, -rank if reverse else rank, tokens).argsort(dim=1, stable=True)  # real tokens first
    counts = keep.sum(1).cpu() if lengths is None else torch.tensor(lengths)
    longest_first = counts.argsort(descending=True, stable=True)
    rows = to_device(longest_first.tolist(), x.device)  # torch's own sorting would wait for a GPU
    first = x.gather(1, order[:, :, None].expand_as(x)).index_select(0, rows)
    packed = pack_padded_sequence(first, counts[longest_first].clamp(min=1), batch_first=True)
    packed_y, last = call_rnn(rnn, packed, take_rows(start, rows))
    y, _ = pad_packed_sequence(packed_y, batch_first=True, total_length=tokens)  # type: ignore[arg-type]
    back = rows.argsort()
    y, last = y.index_select(0, back), take_rows(last, back)
    y = torch.zeros_like(y).scatter(1, order[:, :, None].expand_as(y), y) * keep[:, :, None]
    if not counts.all():  # torch packs at least one token of each row
        real = keep.any(1)[None, :, None]
        before = [torch.zeros_like(t) for t in last] if start is None else start
        last = select_rows(real, last, before)
    return y, beside(last, rnn)


@overload
def take_rows(states: LayerStates, index: Tensor) -> LayerStates: ...
@overload
def take_rows(states: None, index: Tensor) -> None: ...
def take_rows(states: LayerStates | None, index: Tensor) -> LayerStates | None:
    """Row i of states [L, B, H] becomes row index[i]; none if there are none."""
    return None if states is None else tuple(t.index_select(1, index) for t in states)


def select_rows(new_rows: Tensor, new: Sequence[Tensor], old: Sequence[Tensor]) -> LayerStates:
    """States [L, B, H], new ones in the rows where new_rows [1, B, 1] is True."""
    return tuple(torch.where(new_rows, a, b) for a, b in zip(new, old, strict=True))


def beside(states: LayerStates, rnn: nn.RNNBase) -> LayerStates:
    """States [2 L, B, H] of both directions as [L, B, 2 H], forward first; those of one direction as they are."""
    if not rnn.bidirectional:
        return states
    return tuple(t.unflatten(0, (-1, 2)).transpose(1, 2).flatten(2) for t in states)
