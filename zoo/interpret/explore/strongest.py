"""The strongest keys of each query of an attention map, in two bytes each: what a page keeps of a layer.

A map of 16 heads over 512 tokens is 17 MB in float32. Of each query the 32 strongest keys are kept, the sum of the
others, and of each key the mean weight that it receives. `zoo.capture(reduce=...)` does it layer by layer, so that one
whole map is in memory at a time.
"""

import zlib
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.interpret.attention_maps import distance, entropy

KEYS = 32  # that are kept of each query
THUMBNAIL = 16  # edge of the image of a head in the overview
LEVEL = 6  # of the compression: 9 takes three times as long for 1 % less


@dataclass(frozen=True, eq=False)
class StrongestKeys:
    """The strongest keys of each query of one layer, compressed.

    Attributes:
        data: Deflated bytes: of each head and query the K strongest keys in the order of their positions, as steps from
            one to the next (the low bytes of all, then the high bytes), their weights, then of each query the sum of
            the other weights, and of each head and key the mean weight over the queries. See `encode` for weights.
        heads, queries, keys, kept: H, N, M and K.
        scale: The largest weight or sum that can be expressed; 1 for weights that sum to 1.
        signed: Whether some weights are negative, as random features may estimate them.
        entropy: Of each head in nats; None for negative weights.
        distance: Of each head, in tokens or patches; None unless queries and keys are the same positions.
        thumbnails: uint8 [H, rows, columns], the map of each head in coarse, relative to its maximum.
    """

    data: bytes
    heads: int
    queries: int
    keys: int
    kept: int
    scale: float
    signed: bool
    entropy: list[float] | None
    distance: list[float] | None
    thumbnails: Tensor


@dataclass(frozen=True)
class Reduction:
    """Maps [B, H, N, M] of one layer -> `StrongestKeys` of the first row: the `reduce` of `zoo.capture`.

    queries, keys: the first so many positions are kept; None for all. Weights of later keys count as the rest.
    same: whether queries and keys are the same positions, so that there is a distance between them. grid, prefix: see
    `zoo.interpret.attention_maps.distance`.

    Raises: ValueError for weights that are infinite or NaN.
    """

    queries: int | None = None
    keys: int | None = None
    same: bool = False
    grid: tuple[int, int] | None = None
    prefix: int = 0

    def __call__(self, weights: Tensor) -> StrongestKeys:
        every = weights[:1, :, : self.queries].float()
        kept = every[..., : self.keys]
        if not bool(every.isfinite().all()):
            raise ValueError(
                "some attention weights are infinite or NaN, which a page cannot show: check the weights of the model, "
                "and load it with dtype=torch.float32 if it has a smaller one"
            )
        signed = bool((every < 0).any())
        columns, values = strongest(kept[0], min(KEYS, kept.shape[-1]))
        rest = (every[0].abs().sum(-1) - values.abs().sum(-1)).clamp(min=0)
        # the rest of a query is above its weights where these do not sum to 1
        scale = max(1.0, float(every.abs().max()), float(rest.max()))
        attends = (every[0] != 0).any(-1).sum(-1).clamp(min=1)
        received = kept[0].abs().sum(1) / attends[:, None]
        distances = None
        fits = self.grid is None or self.grid[0] * self.grid[1] + self.prefix == kept.shape[-1]
        if self.same and fits and kept.shape[2] == kept.shape[3] > self.prefix and not signed:
            distances = distance(kept, self.grid, self.prefix)[0].tolist()
        codes = encode(values, scale, signed)
        parts = [*steps(columns, codes != (128 if signed else 0)), codes, encode(rest, scale), encode(received, scale)]
        heads, queries, keys = kept.shape[1:]
        return StrongestKeys(
            zlib.compress(b"".join(part.cpu().numpy().tobytes() for part in parts), LEVEL),
            heads, queries, keys, values.shape[-1], scale, signed,
            None if signed else entropy(every)[0].tolist(), distances, thumbnails(kept[0]).cpu(),
        )  # fmt: skip


def strongest(weights: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(positions of the `count` keys with the largest magnitude, in their order, their weights), each [H, N, count]."""
    columns = weights.abs().topk(count, -1).indices.sort(-1).values
    return columns, weights.gather(-1, columns)


def encode(weights: Tensor, scale: float, signed: bool = False) -> Tensor:
    """Weights as uint8, in even steps of their square root, which keeps small ones apart: 255 sqrt(w / scale).

    signed: 128 is zero, and 127 steps on each side are those of negative and positive weights. The error is about
    sqrt(w scale) / 255 at most, twice that if signed.
    """
    roots = (weights.abs() / scale).sqrt()
    if signed:
        return (128 + weights.sign() * (127 * roots).round()).to(torch.uint8)
    return (255 * roots).round().to(torch.uint8)


def steps(columns: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Positions [..., K] as the steps from one kept one to the next: (low bytes, high bytes), 0 where not kept.

    kept: bool [..., K]; a key whose weight is rounded to zero takes no step.
    """
    before = torch.where(kept, columns, -1).cummax(-1).values
    previous = F.pad(before[..., :-1], (1, 0)).clamp(min=0)
    taken = torch.where(kept, columns - previous, 0)
    return (taken & 255).to(torch.uint8), (taken >> 8).to(torch.uint8)


def thumbnails(weights: Tensor) -> Tensor:
    """Maps [H, N, M] -> uint8 [H, at most 16, at most 16]: the square root of the largest weight of each field."""
    size = [min(THUMBNAIL, edge) for edge in weights.shape[1:]]
    coarse = F.adaptive_max_pool2d(weights.abs()[None], size)[0]
    most = coarse.amax((1, 2), keepdim=True).clamp(min=1e-12)
    return encode(coarse / most, 1.0)
