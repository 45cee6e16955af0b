"""Parabolas through runs of one budget, the second approach of Hoffmann et al. 2022 (https://arxiv.org/abs/2203.15556,
section 3.2), to be compared with the laws that are fitted to all runs.

A parabola of the loss over log N needs no law, but knows its own budget alone, and its minimum is biased where the
sizes are unevenly spaced around it or far from it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from zoo.training.scaling.runs import ScalingRun

SAME_BUDGET = 1.05  # runs whose FLOPs differ by no more than this factor: steps are whole numbers
LEAST_SIZES = 4  # one more than a parabola has coefficients


@dataclass(frozen=True)
class Parabola:
    """The parabola of one budget: loss = c0 + c1 x + c2 x^2, x = log(N / center).

    Attributes:
        budget: Training FLOPs, the geometric mean of those of its runs.
        runs: Number of its runs.
        center: Geometric mean of their sizes.
        coefficients: (c0, c1, c2).
        range: (smallest, largest) number of parameters of the runs.
    """

    budget: float
    runs: int
    center: float
    coefficients: tuple[float, float, float]
    range: tuple[float, float]

    @property
    def parameters(self) -> float:
        """The size at its minimum; NaN if it has none."""
        _, slope, bend = self.coefficients
        if bend <= 0:
            return math.nan
        log = -slope / (2 * bend)
        return self.center * math.exp(log) if abs(log) < 50 else math.nan

    @property
    def inside(self) -> bool:
        """Whether the minimum lies between its smallest and its largest size."""
        low, high = self.range
        return low <= self.parameters <= high

    def loss(self, parameters: float) -> float:
        """The loss of a size."""
        x = math.log(parameters / self.center)
        c0, c1, c2 = self.coefficients
        return c0 + c1 * x + c2 * x * x


def parabolas(runs: Sequence[ScalingRun]) -> list[Parabola]:
    """One for each budget that at least `LEAST_SIZES` sizes were trained with, the smallest budget first."""
    groups: list[list[ScalingRun]] = []
    for run in sorted(runs, key=lambda run: run.flops):
        if groups and run.flops <= SAME_BUDGET * groups[-1][0].flops:
            groups[-1].append(run)
        else:
            groups.append([run])
    return [_through(group) for group in groups if len({run.parameters for run in group}) >= LEAST_SIZES]


def _through(runs: Sequence[ScalingRun]) -> Parabola:
    logs = np.log([float(run.parameters) for run in runs])
    center = float(logs.mean())
    c2, c1, c0 = np.polyfit(logs - center, [run.loss for run in runs], 2).tolist()
    budget = math.exp(float(np.mean(np.log([run.flops for run in runs]))))
    sizes = [float(run.parameters) for run in runs]
    return Parabola(budget, len(runs), math.exp(center), (c0, c1, c2), (min(sizes), max(sizes)))
