"""The multiplicative update of pairs: each is the missing edge of all triangles with two others."""

from typing import Any

from torch import Tensor, nn

from zoo.models.evoformer.chunks import Chunks, at
from zoo.models.evoformer.part import Gate, Part, ZeroLinear


class TriangleMultiplication(Part):
    """TriangleMultiplicationOutgoing, or with incoming=True ...Incoming (Jumper et al. 2021, supplement, algorithms 11
    and 12): the pair (i, j) gets the sum over k of a(i, k) * b(j, k); incoming: of a(k, i) * b(k, j).

    forward(pair [B, N, N, C], keep [B, N, N] or None) -> [B, N, N, C].
    """

    def __init__(self, width: int, hidden: int, *, incoming: bool, eps: float, dropout: float) -> None:
        super().__init__(dropout)
        self.incoming = incoming
        self.norm = nn.LayerNorm(width, eps)
        self.a, self.a_gate = nn.Linear(width, hidden), Gate(width, hidden)
        self.b, self.b_gate = nn.Linear(width, hidden), Gate(width, hidden)
        self.out_norm = nn.LayerNorm(hidden, eps)
        self.out = ZeroLinear(hidden, width)
        self.gate = Gate(width, width)

    def prepare(self, x: Tensor, *inputs: Any, chunks: Chunks) -> Any:
        (keep,) = inputs

        def project(linear: nn.Module, gate: nn.Module) -> Tensor:
            def of_rows(part: Tensor, where: slice) -> Tensor:
                part = self.norm(part)
                y = linear(part) * gate(part)
                return (y if keep is None else y * at(keep, where, 1)[..., None]).permute(0, 3, 1, 2)

            y = chunks.map(of_rows, x, 1, 2)  # B C N N
            return y.mT if self.incoming else y

        return project(self.a, self.a_gate), project(self.b, self.b_gate)

    def update(self, x: Tensor, where: slice, shared: Any) -> Tensor:
        a, b = shared
        y = (at(a, where, 2) @ b.mT).permute(0, 2, 3, 1)  # B N N C
        return self.out(self.out_norm(y)) * self.gate(self.norm(x))
