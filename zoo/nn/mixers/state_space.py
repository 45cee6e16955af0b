"""What Mamba and Mamba-2 share: projections around a selective state space, in one direction or in both."""

from typing import Any

from torch import Tensor, nn

from zoo.nn.context import Context
from zoo.nn.kv_cache import LayerState
from zoo.nn.mixers.base import Mixer, MixerConfig
from zoo.nn.mixers.directions import both_directions, both_directions_of_real
from zoo.nn.mixers.recurrences import kept_tokens


class StateSpaceMixer(Mixer):
    """A mixer that projects a token, mixes the tokens of a row, and projects the result back.

    A subclass sets `in_proj` and `out_proj`, and defines `mix`. In models that are not causal both projections, which
    do not look at other tokens, are computed once for the two directions.
    """

    in_proj: nn.Linear
    out_proj: nn.Linear

    def __init__(self, spec: MixerConfig) -> None:
        super().__init__(spec)
        self.masks_padding = not spec.causal  # causal rows arrive with their padding behind the real tokens

    def forward(self, x: Tensor, context: Context, state: LayerState | None = None) -> Tensor:
        """x [B, N, D] -> [B, N, D]."""
        rows = self.in_proj(x)
        if self.spec.causal:
            y = self.mix(rows, None if state is None else state.mixer)
        elif (keep := kept_tokens(context, x.shape[1])) is not None:
            y = both_directions_of_real(lambda rows: self.mix(rows, None), rows, keep)
        else:
            y = both_directions(lambda rows: self.mix(rows, None), rows)
        return self.out_proj(y.to(rows.dtype))

    def mix(self, rows: Tensor, state: Any) -> Tensor:
        """One direction: rows [B, N, P], as `in_proj` makes them -> [B, N, Q], as `out_proj` takes them.

        state: a RecurrentState that is brought up to date, None without one.
        """
        raise NotImplementedError
