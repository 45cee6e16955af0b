"""Vector quantization: each vector becomes the nearest one of a codebook (van den Oord et al. 2017)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch import distributed as dist

from zoo.nn.init import Initializer, normal_
from zoo.nn.losses.products import HALF
from zoo.utils.distributed import in_group


class CodeStatistics(NamedTuple):
    """What an update of a codebook by moving averages needs of a batch; those of its parts are added up.

    counts: [K], number of vectors of each code. sums: [K, D], their sum. errors: [K], their squared distances to it.
    """

    counts: Tensor
    sums: Tensor
    errors: Tensor

    def plus(self, other: "CodeStatistics | None") -> "CodeStatistics":
        """The statistics of both parts of a batch."""
        return self if other is None else CodeStatistics(*(a + b for a, b in zip(self, other, strict=True)))


class VectorQuantizer(nn.Module):
    """Vectors [B, D, h, w] -> the ids [B, h, w] of the nearest codes of a codebook of K vectors.

    ema_decay: the codebook is a moving average of the vectors of each code, updated by `update` (van den Oord et al.
    2017, appendix A); 0: it is a parameter, learned by its gradient.
    """

    weight: Tensor
    counts: Tensor
    sums: Tensor

    def __init__(self, vocab_size: int, width: int, ema_decay: float) -> None:
        super().__init__()
        self.ema_decay = ema_decay
        if not ema_decay:
            self.weight = nn.Parameter(torch.empty(vocab_size, width))
            return
        self.register_buffer("weight", torch.empty(vocab_size, width))
        self.register_buffer("counts", torch.empty(vocab_size))
        self.register_buffer("sums", torch.empty(vocab_size, width))

    def initialize(self, generator_for: Initializer) -> None:
        """Random codes of the size of the vectors of an untrained encoder."""
        normal_(self.weight, 0.1, generator_for("weight"))
        if self.ema_decay:
            nn.init.zeros_(self.counts)
            nn.init.zeros_(self.sums)

    def forward(self, vectors: Tensor) -> Tensor:
        """The ids [B, h, w] of the codes with the smallest squared distance to each of the vectors [B, D, h, w]."""
        rows, codes = (x.float() if x.dtype in HALF else x for x in (vectors.movedim(1, -1), self.weight))
        with torch.autocast(vectors.device.type, enabled=False):  # distances are small differences of large numbers
            return (codes.square().sum(1) - 2 * rows @ codes.mT).argmin(-1)

    @torch.no_grad()
    def statistics(self, vectors: Tensor, ids: Tensor) -> CodeStatistics:
        """Of vectors [B, D, h, w] and their ids [B, h, w], in the precision of the codebook."""
        rows, flat = vectors.detach().movedim(1, -1).flatten(0, -2).to(self.weight.dtype), ids.flatten()
        zeros = torch.zeros_like(self.weight)
        errors = (rows - self.weight[flat]).square().sum(1)
        return CodeStatistics(
            zeros[:, 0].index_add(0, flat, torch.ones_like(errors)),
            zeros.index_add(0, flat, rows),
            zeros[:, 0].index_add(0, flat, errors),
        )

    @torch.no_grad()
    def update(
        self,
        statistics: CodeStatistics,
        *,
        dead_codes: float = 0.05,
        generator: torch.Generator | None = None,
        group: dist.ProcessGroup | None = None,
    ) -> int:
        """Move the codes toward the mean of their vectors, and give dead codes a new place; returns their number.

        The statistics of all processes of `group` are added up, so that each has the codebook of one process with the
        whole batch, to rounding.

        Args:
            statistics: Of the whole batch of an optimizer step.
            dead_codes: A code is dead if its average count falls below this fraction of that of all codes. It moves
                next to the code with the greatest error, whose vectors the two then share (codes are split likewise by
                Linde, Buzo and Gray 1980). 0 leaves dead codes alone.
            generator: Of the random directions of dead codes, on the CPU; the same one in each process.
            group: Default: all processes, if torch.distributed is initialized.
        """
        if not self.ema_decay:
            raise ValueError("the codebook is learned by its gradient (ema_decay=0): it has no update of its own")
        if in_group() and dist.get_world_size(group) > 1:
            statistics = CodeStatistics(*(x.clone() for x in statistics))
            for x in statistics:
                dist.all_reduce(x, group=group)
        keep = self.ema_decay
        self.counts.mul_(keep).add_(statistics.counts, alpha=1 - keep)
        self.sums.mul_(keep).add_(statistics.sums, alpha=1 - keep)
        moved = self._split(statistics, dead_codes, generator) if dead_codes else 0
        counts = self.counts[:, None]
        self.weight.copy_(torch.where(counts > 0, self.sums / counts.clamp(min=1e-12), self.weight))
        return moved

    def _split(self, statistics: CodeStatistics, dead_codes: float, generator: torch.Generator | None) -> int:
        """Move dead codes beside those with the greatest error, each of which takes one of them."""
        dead = (self.counts < dead_codes * self.counts.mean()).nonzero()[:, 0]
        errors = torch.where(statistics.counts > 1, statistics.errors, 0.0).index_fill(0, dead, 0.0)
        wide = errors.argsort(descending=True, stable=True)[: min(len(dead), int((errors > 0).sum()))]
        dead = dead[: len(wide)]
        if not len(dead):
            return 0
        spread = (statistics.errors / statistics.counts.clamp(min=1) / self.weight.shape[1]).sqrt()[wide]
        # As long as the spread along one direction. With that of all directions, the new code would be farther than the
        # old one from nearly all vectors, and die again.
        noise = torch.randn(len(dead), self.weight.shape[1], generator=generator).to(self.weight)
        noise /= self.weight.shape[1] ** 0.5
        self.counts[wide] /= 2
        self.sums[wide] /= 2
        self.counts[dead] = self.counts[wide]
        self.sums[dead] = self.sums[wide] + self.counts[wide, None] * spread[:, None] * noise
        return len(dead)
