"""Softmax attention with soft-capped scores (Gemma 2, Gemma Team 2024)."""

from torch import Tensor

from zoo.nn.core import Core, CoreSpec, attention, masked_softmax
from zoo.nn.masks import Mask
from zoo.nn.position_biases import Bias


@attention("softcap")
class SoftcapAttention(Core):
    """softmax(cap * tanh(q k^T * scale / cap) + bias) v: no score is above `cap` (50 in Gemma 2)."""

    def __init__(self, spec: CoreSpec, cap: float = 50.0) -> None:
        super().__init__(spec)
        if not cap > 0:
            raise ValueError(f"cap={cap!r}: expected a positive number")
        self.cap = cap

    def weights(
        self, q: Tensor, k: Tensor, mask: Mask | Tensor | None = None, bias: Bias | Tensor | None = None
    ) -> Tensor:
        scores = self.cap * (self.scores(q, k) / self.cap).tanh()
        return masked_softmax(self.hide(scores, mask, bias))
