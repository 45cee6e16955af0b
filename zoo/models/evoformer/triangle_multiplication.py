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
        self.dim = 2 if incoming else 1
        self.norm = nn.LayerNorm(width, eps)
        self.a, self.a_gate = nn.Linear(width, hidden), Gate(width, hidden)
        self.b, self.b_gate = nn.Linear(width, hidden), Gate(width, hidden)
        self.out_norm = nn.LayerNorm(hidden, eps)
        self.out = ZeroLinear(hidden, width)
        self.gate = Gate(width, width)

    def turned(self, x: Tensor) -> Tensor:
        """x with rows and columns in each other's place for incoming edges, which so become outgoing ones."""
        return x.transpose(1, 2) if self.incoming else x

    def project(self, x: Tensor, keep: Tensor | None, *, own: bool) -> Tensor:
        """One factor of the products [B, C, R, N], of normalized pairs [B, R, N, C]. own: that of the pairs which are
        updated, a of outgoing edges and b of incoming ones; otherwise the other."""
        linear, gate = (self.a, self.a_gate) if own != self.incoming else (self.b, self.b_gate)
        y = linear(x) * gate(x).sigmoid()
        return (y if keep is None else y * keep[..., None]).permute(0, 3, 1, 2)

    def prepare(self, x: Tensor, *inputs: Any, chunks: Chunks) -> Any:
        keep = None if inputs[0] is None else self.turned(inputs[0])

        def of_rows(part: Tensor, where: slice) -> Tensor:
            return self.project(self.norm(part), None if keep is None else at(keep, where, 1), own=False)

        return chunks.map(of_rows, self.turned(x), 1, 2), keep

    def update(self, x: Tensor, where: slice, shared: Any) -> Tensor:
        others, keep = shared
        x = self.norm(self.turned(x))
        own = self.project(x, None if keep is None else at(keep, where, 1), own=True)
        y = (own @ others.mT).permute(0, 2, 3, 1)  # B R N C
        return self.turned(self.out(self.out_norm(y)) * self.gate(x).sigmoid())
