"""Scores of the units of an input from gradients: integrated gradients, input x gradient, and the methods of captum.

Integrated gradients are computed here because the number of points is doubled until the scores add up, which captum
leaves to its caller, and because the default method should need no further package. With enough points the scores are
those of captum.
"""

import inspect
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.interpret.attribution_target import Target
from zoo.interpret.replacements import replacement_values
from zoo.interpret.scored_inputs import ScoredInputs

FIRST_STEPS, MAX_STEPS = 32, 512
CAPTUM = "captum."


@dataclass(frozen=True, eq=False)
class Completeness:
    """Whether integrated gradients add up: the sum of the scores of each row is what the output changes by.

    difference [B]: the score of the input minus that of the baseline. total [B]: the sum of the scores. error [B]:
    |total - difference| relative to the sum of the absolute scores. steps [B]: points of the path. tolerance: the
    error that was allowed.
    """

    difference: Tensor
    total: Tensor
    error: Tensor
    steps: Tensor
    tolerance: float

    @property
    def is_met(self) -> bool:
        return bool((self.error <= self.tolerance).all())

    def __str__(self) -> str:
        met = "met" if self.is_met else "not met"
        return (f"completeness {met}: largest error {float(self.error.max()):.2g} of the scores (tolerance "
                f"{self.tolerance:g}) with up to {int(self.steps.max())} steps")  # fmt: skip


def gradients(
    inputs: ScoredInputs, target: Target, rows: Tensor, values: Mapping[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """(scores [R], {part: gradients of their sum with respect to `values`}, zeros at padding), float32.

    Raises: ValueError if the output has no gradient.
    """
    leaves = {name: x.detach().clone().requires_grad_() for name, x in values.items()}
    with torch.enable_grad():
        scores = target.scores(inputs.run(rows, leaves), rows)
        if not scores.requires_grad:
            raise ValueError(f"the output of {type(inputs.model).__name__} has no gradient with respect to its "
                             "input, as with quantized weights: expected the model before quantization, or "
                             "method='attention' or 'rollout'")  # fmt: skip
        found = torch.autograd.grad(scores.sum(), list(leaves.values()), allow_unused=True)
    slopes = {name: torch.zeros_like(values[name]) if slope is None else slope.detach().float()
              for name, slope in zip(leaves, found)}  # fmt: skip
    kept = {name: inputs.parts[name].per_number(inputs.parts[name].keep[rows]) for name in slopes}
    return scores.detach().float(), {name: slope * kept[name] for name, slope in slopes.items()}


def input_x_gradient(inputs: ScoredInputs, target: Target, batch_size: int) -> dict[str, Tensor]:
    """{part: scores [B, n]}: the values times their gradients, summed over each unit (Shrikumar et al. 2017)."""
    values = inputs.values()
    found: dict[str, list[Tensor]] = {name: [] for name in values}
    for rows in torch.arange(inputs.rows, device=inputs.model.device).split(batch_size):
        own = {name: x[rows] for name, x in values.items()}
        for name, slope in gradients(inputs, target, rows, own)[1].items():
            found[name].append(inputs.parts[name].per_unit(slope * own[name]))
    return {name: torch.cat(scores) for name, scores in found.items()}


def integrated_gradients(
    inputs: ScoredInputs,
    target: Target,
    baseline: Mapping[str, str],
    batch_size: int,
    tolerance: float,
    max_steps: int = MAX_STEPS,
) -> tuple[dict[str, Tensor], Completeness]:
    """{part: scores [B, n]}: gradients along the line from a baseline to the input (Sundararajan et al. 2017).

    The path is integrated by Gauss-Legendre quadrature, with twice the points for the rows whose scores do not add up,
    until they do or there are max_steps points.

    baseline: {part: what replaces its values}, see `replacement_values`.
    """
    values = inputs.values()
    starts = {name: replacement_values(inputs, inputs.parts[name], x, baseline[name]) for name, x in values.items()}
    every = torch.arange(inputs.rows, device=inputs.model.device)
    ends = [evaluate(inputs, target, every, each, batch_size) for each in (values, starts)]
    difference = ends[0] - ends[1]
    scores = {name: x.new_zeros(inputs.parts[name].keep.shape) for name, x in values.items()}
    error = torch.full_like(difference, torch.inf)
    steps, used, left = FIRST_STEPS, torch.zeros_like(every), every
    while len(left) and steps <= max_steps:
        for name, slopes in path_means(inputs, target, left, values, starts, steps, batch_size).items():
            part = inputs.parts[name]
            scores[name][left] = part.per_unit(slopes * (values[name][left] - starts[name][left])) * part.keep[left]
        total = torch.stack([x.sum(1) for x in scores.values()]).sum(0)
        size = torch.stack([x.abs().sum(1) for x in scores.values()]).sum(0)
        error[left] = ((total - difference).abs() / size.clamp(min=torch.finfo(size.dtype).tiny))[left]
        used[left] = steps
        left, steps = every[error > tolerance], 2 * steps
    if missed := int((~(error <= tolerance)).sum()):  # NaN, too
        warnings.warn(
            f"integrated gradients of {missed} of {inputs.rows} rows miss the change of the output by up to "
            f"{float(error.max()):.2g} of the scores (tolerance {tolerance:g}) with {int(used.max())} steps: compute "
            "in float32, or choose another baseline=",
            stacklevel=3,
        )
    total = torch.stack([x.sum(1) for x in scores.values()]).sum(0)
    return scores, Completeness(difference.cpu(), total.cpu(), error.cpu(), used.cpu(), tolerance)


def evaluate(inputs: ScoredInputs, target: Target, rows: Tensor, values: Mapping[str, Tensor], size: int) -> Tensor:
    """The scores [R] of rows with other values, float32."""
    with torch.no_grad():
        parts = [target.scores(inputs.run(some, {name: x[some] for name, x in values.items()}), some).float()
                 for some in rows.split(size)]  # fmt: skip
    return torch.cat(parts)


def path_means(
    inputs: ScoredInputs,
    target: Target,
    rows: Tensor,
    values: Mapping[str, Tensor],
    starts: Mapping[str, Tensor],
    steps: int,
    batch_size: int,
) -> dict[str, Tensor]:
    """{part: mean gradient of some rows over the line from `starts` to `values`}, `batch_size` points at once."""
    from numpy.polynomial.legendre import leggauss

    nodes, weights = (torch.as_tensor(x, dtype=torch.float64, device=rows.device) for x in leggauss(steps))
    # The square of a variable from 0 to 1, as models change the most near the baseline, where norms magnify.
    root = (nodes + 1) / 2
    nodes, weights = (root**2).float(), (weights * root).float()
    means = {name: torch.zeros_like(x[rows]) for name, x in values.items()}
    points = torch.arange(len(rows) * steps, device=rows.device)
    for some in points.split(batch_size):
        place, step = some // steps, some % steps
        own = rows[place]
        along = {}
        for name, x in values.items():
            far = nodes[step].view(-1, *[1] * (x.ndim - 1))
            along[name] = starts[name][own] + far * (x[own] - starts[name][own])
        for name, slope in gradients(inputs, target, own, along)[1].items():
            means[name].index_add_(0, place, slope * weights[step].view(-1, *[1] * (slope.ndim - 1)))
    return means


def by_captum(
    inputs: ScoredInputs, target: Target, name: str, baseline: Mapping[str, str], options: Mapping[str, Any]
) -> dict[str, Tensor]:
    """{part: scores [B, n]} by a class of `captum.attr` with `attribute(inputs, ...)`, such as "GradientShap".

    Raises: ImportError without captum, ValueError for a class that it does not have.
    """
    try:
        from captum import attr
    except ImportError as error:
        raise ImportError("methods of captum need a package: pip install 'attention-zoo[captum]'") from error
    method: Any = getattr(attr, name, None)
    if not (isinstance(method, type) and hasattr(method, "attribute")):
        raise ValueError(f"method='{CAPTUM}{name}': captum.attr has no class of this name with attribute()")
    values = inputs.values()
    starts = {part: replacement_values(inputs, inputs.parts[part], x, baseline[part]) for part, x in values.items()}
    found: dict[str, list[Tensor]] = {part: [] for part in values}
    for row in range(inputs.rows):  # captum repeats rows in different orders, so each is explained alone

        def score(*given: Tensor, row: int = row) -> Tensor:
            rows = torch.full((len(given[0]),), row, device=given[0].device)
            return target.scores(inputs.run(rows, dict(zip(values, given))), rows)

        more = dict(options)
        if "baselines" in inspect.signature(method.attribute).parameters and "baselines" not in more:
            more["baselines"] = tuple(x[row : row + 1] for x in starts.values())
        given = tuple(x[row : row + 1].clone().requires_grad_() for x in values.values())
        explain: Any = method(score).attribute
        for part, scores in zip(values, explain(given, **more)):
            found[part].append(inputs.parts[part].per_unit(scores.detach()) * inputs.parts[part].keep[row])
    return {part: torch.cat(scores) for part, scores in found.items()}
