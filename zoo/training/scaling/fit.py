"""Fit a scaling law to runs by variable projection, with bootstrap intervals over the runs.

The objective is the Huber loss of log(predicted loss) - log(loss), as in Hoffmann et al. 2022, section 3.3. For each
pair of exponents the coefficients are solved: nonnegative least squares, weighted again until the Huber loss is met.
Exponents are searched on a grid over their whole range, then on smaller grids around the best pair. No starting point
has to be chosen, and the search has two dimensions, not five (variable projection: Golub and Pereyra 1973).
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zoo.training.scaling.laws import Array, Law
from zoo.training.scaling.runs import ScalingError

# Of the fit, and of each bootstrap sample, whose last digits matter less.
_GRIDS = (25, 11)  # exponents of the first grid, in each direction
_ZOOM_GRID = 5  # of the smaller ones
_ZOOMS = (12, 9)  # each has half the extent of the one before
_REWEIGHTED = (
    5,
    10,
)  # solutions of the coefficients for each pair of exponents, in the first grid and the smaller ones
_DISTINCT = 3  # sizes, and numbers of tokens, that a fit needs at least


Values = Sequence[float] | Array


@dataclass(frozen=True)
class Optimum:
    """The size and the tokens with the lowest loss for a budget.

    Attributes:
        budget: Training FLOPs, 6 N D.
        parameters, tokens, loss: The optimum.
        parameters_interval, tokens_interval: (low, high) over the bootstrap.
    """

    budget: float
    parameters: float
    tokens: float
    loss: float
    parameters_interval: tuple[float, float]
    tokens_interval: tuple[float, float]


@dataclass(frozen=True)
class Fit:
    """A fitted scaling law.

    Attributes:
        law: Its form.
        exponents: The exponents [2].
        coefficients: The coefficients [C] of relative sizes and tokens.
        n0, d0: Parameters and tokens that these are relative to.
        residuals: log(loss) - log(predicted loss) of each run.
        samples: Exponents [S, 2] and coefficients [S, C] of fits to bootstrap samples of the runs.
        level: Probability of the intervals.
    """

    law: Law
    exponents: Array
    coefficients: Array
    n0: float
    d0: float
    residuals: Array
    samples: tuple[Array, Array]
    level: float = 0.95

    @property
    def parameters(self) -> dict[str, float]:
        """The parameters of the law, as its paper writes them."""
        return self.law.named(self.exponents, self.coefficients, self.n0, self.d0)

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """(low, high) of each parameter, percentiles over the bootstrap."""
        rows = [self.law.named(e, c, self.n0, self.d0) for e, c in zip(*self.samples, strict=True)]
        return {name: self._interval([row[name] for row in rows]) for name in self.parameters}

    @property
    def spread(self) -> float:
        """Standard deviation of the relative residuals, corrected for the free parameters."""
        degrees = max(1, len(self.residuals) - self.law.free)
        return float(np.sqrt((self.residuals**2).sum() / degrees))

    @property
    def at_bounds(self) -> list[str]:
        """Exponents that ended at a bound of their range: the runs do not determine them."""
        pairs = zip(self.law.exponents, self.exponents.tolist(), self.law.bounds, strict=True)
        return [name for name, value, (low, high) in pairs if min(value / low, high / value) < 1.01]

    def predict(self, parameters: float, tokens: float) -> float:
        """The loss of a model of so many parameters after so many tokens."""
        return float(self._loss(self.exponents, self.coefficients, parameters, tokens))

    def prediction_interval(self, parameters: float, tokens: float) -> tuple[float, float]:
        """(low, high) of the loss of one run: over the bootstrap, each with a random residual of the fit.

        Raises: ScalingError for sizes or tokens that are not above 0.
        """
        losses = self._loss(*self.samples, parameters, tokens)
        scale = self.spread / max(float(np.sqrt((self.residuals**2).mean())), 1e-300)
        noise = np.random.default_rng(0).choice(self.residuals, len(losses)) * min(scale, 1e6)
        return self._interval(losses * np.exp(noise))

    def optimum(self, budget: float) -> Optimum:
        """The best size and tokens for training FLOPs of 6 N D = budget.

        Raises: ScalingError for a budget that is not above 0, or if the loss does not depend on size or tokens.
        """
        if not (budget > 0 and math.isfinite(budget)):
            raise ScalingError(f"budget={budget}: expected training FLOPs above 0, e.g. 1e15")
        product = budget / (6 * self.n0 * self.d0)
        best = self.law.optimal_size(self.exponents, self.coefficients, product) * self.n0
        if math.isnan(best):
            raise ScalingError("the fitted loss does not depend on both size and tokens, so that no size is the best: "
                               "use a wider range of sizes and tokens")  # fmt: skip
        sizes = [self.law.optimal_size(e, c, product) * self.n0 for e, c in zip(*self.samples, strict=True)]
        low, high = self._interval([size for size in sizes if not math.isnan(size)])
        return Optimum(budget, best, budget / 6 / best, self.predict(best, budget / 6 / best), (low, high),
                       (budget / 6 / high, budget / 6 / low))  # fmt: skip

    def curve(self, parameters: Array, tokens: Array) -> Array:
        """Losses [R] of sizes and tokens [R]."""
        return self.law.loss(self.exponents, self.coefficients, parameters / self.n0, tokens / self.d0)

    def to_json(self) -> dict[str, Any]:
        """The fit as plain values."""
        return {"law": self.law.name, "equation": self.law.equation, "parameters": self.parameters,
                "intervals": self.intervals, "level": self.level, "spread": self.spread,
                "samples": len(self.samples[0]), "at_bounds": self.at_bounds}  # fmt: skip

    def _loss(self, exponents: Array, coefficients: Array, parameters: float, tokens: float) -> Array:
        if not (parameters > 0 and tokens > 0):
            raise ScalingError(f"parameters={parameters}, tokens={tokens}: expected numbers above 0")
        at = np.array([parameters / self.n0]), np.array([tokens / self.d0])
        return self.law.loss(exponents, coefficients, *at)[..., 0]

    def _interval(self, values: Sequence[float] | Array) -> tuple[float, float]:
        low, high = np.quantile(np.asarray(values), [(1 - self.level) / 2, (1 + self.level) / 2])
        return float(low), float(high)


def fit_law(law: Law, parameters: Values, tokens: Values, losses: Values, *,
            names: Sequence[str] = (), samples: int = 200, level: float = 0.95, delta: float = 1e-3,
            seed: int = 0) -> Fit:  # fmt: skip
    """Fit a scaling law to runs.

    Args:
        law: The form of the loss, of `LAWS`.
        parameters, tokens, losses: Of each run: size N, training tokens D, and loss in nats per token.
        names: Names of the runs, for messages.
        samples: Bootstrap samples of the runs, for intervals.
        level: Probability of the intervals, e.g. 0.95.
        delta: Relative residual at which the Huber loss goes from squares to absolute values.
        seed: Seed of the bootstrap.

    Raises: ScalingError for runs that do not determine the law; the message says what is missing.
    """
    n, d, loss = (np.asarray(values, dtype=np.float64) for values in (parameters, tokens, losses))
    _check(law, n, d, loss, names)
    if not 0 < level < 1 or not delta > 0 or samples < 1:
        raise ScalingError(f"level={level}, delta={delta}, samples={samples}: expected a level between 0 and 1, delta "
                           f"above 0, and at least one sample")  # fmt: skip
    n0, d0 = float(np.exp(np.log(n).mean())), float(np.exp(np.log(d).mean()))
    problem = _Problem(law, n / n0, d / d0, np.log(loss), delta)
    exponents, coefficients = problem.search(np.ones((1, len(n))), 0)
    residuals = problem.target - np.log(law.loss(exponents, coefficients, problem.n, problem.d))[0]
    counts = _bootstrap(n, d, samples, law, np.random.default_rng(seed))
    found = problem.search(counts, 1)
    return Fit(law, exponents[0], coefficients[0], n0, d0, residuals, found, level)


def _check(law: Law, n: Array, d: Array, loss: Array, names: Sequence[str]) -> None:
    if not (n.ndim == 1 and n.shape == d.shape == loss.shape):
        raise ScalingError(f"expected as many sizes, tokens and losses, got {n.shape}, {d.shape}, {loss.shape}")
    for row, run in enumerate(zip(n.tolist(), d.tolist(), loss.tolist(), strict=True)):
        if not all(math.isfinite(value) and value > 0 for value in run):
            where = names[row] if names else f"run {row + 1}"
            why = "a run that diverged" if not math.isfinite(run[2]) else "expected numbers above 0"
            raise ScalingError(f"{where}: parameters {run[0]:g}, tokens {run[1]:g}, loss {run[2]:g}: {why}; "
                               f"leave this run out, or repeat it with a lower learning rate")  # fmt: skip
    check_design(law, n, d)
    if np.ptp(loss) <= 1e-9 * loss.mean():
        raise ScalingError(f"all {len(n)} runs have the loss {loss[0]:g}: it depends on neither size nor tokens")


def check_design(law: Law, parameters: Values, tokens: Values) -> None:
    """Raise ScalingError if runs of these sizes and tokens cannot determine a law, whatever their losses are."""
    n, d = (np.asarray(values, dtype=np.float64) for values in (parameters, tokens))
    if len(n) <= law.free:
        raise ScalingError(f"{len(n)} runs are too few for the {law.free} parameters of {law.equation}: expected at "
                           f"least {law.free + 1}")  # fmt: skip
    for what, values in (("sizes", n), ("numbers of tokens", d)):
        if (count := len(np.unique(values))) < _DISTINCT:
            raise ScalingError(f"the runs have {count} different {what}, expected at least {_DISTINCT}: their "
                               f"influence on the loss cannot be separated")  # fmt: skip
    if abs(np.corrcoef(np.log(n), np.log(d))[0, 1]) > 0.9999:
        raise ScalingError("size and tokens are proportional in all runs, so that their influence cannot be separated: "
                           "train some sizes at several numbers of tokens")  # fmt: skip


def _bootstrap(n: Array, d: Array, samples: int, law: Law, random: np.random.Generator) -> Array:
    """How often each run is in each sample, [samples, R]; samples that do not determine the law are replaced by others.

    Raises: ScalingError if nearly all samples do not.
    """
    found: list[Array] = []
    for _ in range(100 * samples):
        counts = np.bincount(random.integers(len(n), size=len(n)), minlength=len(n)).astype(np.float64)
        chosen = counts > 0
        distinct = min(len(np.unique(values[chosen])) for values in (n, d))
        if distinct >= _DISTINCT and chosen.sum() >= law.free:
            found.append(counts)
        if len(found) == samples:
            return np.stack(found)
    raise ScalingError(f"{len(n)} runs are too few for a bootstrap: nearly all samples of them have fewer than "
                       f"{_DISTINCT} sizes or numbers of tokens; add runs")  # fmt: skip


@dataclass(frozen=True)
class _Problem:
    """The runs of a fit: relative sizes and tokens, logarithms of the losses [R], delta of the Huber loss."""

    law: Law
    n: Array
    d: Array
    target: Array
    delta: float

    def search(self, weights: Array, effort: int) -> tuple[Array, Array]:
        """(exponents [S, 2], coefficients [S, C]) with the lowest objective for each row of weights [S, R].

        effort: 0 for the search of the fit, 1 for the shorter one of bootstrap samples.
        """
        grid = _GRIDS[effort]
        low, high = (np.log([bound[i] for bound in self.law.bounds]) for i in (0, 1))
        first = np.stack(np.meshgrid(*(np.linspace(low[i], high[i], grid) for i in (0, 1)), indexing="ij"), -1)
        first = first.reshape(-1, 2)
        value, _ = self.project(np.exp(first), weights[:, None], _REWEIGHTED[0])
        center = first[value.argmin(1)]
        steps = np.array(list(itertools.product(np.linspace(-1, 1, _ZOOM_GRID), repeat=2)))
        extent = (high - low) / (grid - 1)
        rows = np.arange(len(weights))
        coefficients = np.empty((len(weights), self.law.coefficients))
        for _ in range(_ZOOMS[effort]):
            tried = np.clip(center[:, None] + steps * extent, low, high)
            value, solved = self.project(np.exp(tried), weights[:, None], _REWEIGHTED[1])
            best = value.argmin(1)
            center, coefficients, extent = tried[rows, best], solved[rows, best], extent * 0.5
        return np.exp(center), coefficients

    def project(self, exponents: Array, weights: Array, reweighted: int) -> tuple[Array, Array]:
        """(objective [...], coefficients [..., C]) for exponents [..., 2] and weights of the runs [..., R]."""
        columns, power = self.law.columns(exponents, self.n, self.d), self.law.power(exponents)[..., None]
        start = self.target / power
        at, huber = start, np.ones(1)  # log(X c) where it is linearized
        for _ in range(reweighted):
            # log L(c) is about s (X c / exp(at) - 1 + at): a least-squares problem in c.
            scaled = columns * (power * np.exp(-at))[..., None]
            coefficients = nonnegative_least_squares(scaled, self.target + power * (1 - at), weights * huber)
            found = np.log(np.maximum(np.einsum("...rc,...c->...r", columns, coefficients), 1e-300))
            error = np.abs(power * found - self.target)
            at = np.clip(found, start - 1 / power, start + 1 / power)  # of a loss within a factor e of that of the run
            huber = np.minimum(1.0, self.delta / np.maximum(error, 1e-12))
        loss = np.where(error <= self.delta, 0.5 * error**2, self.delta * (error - 0.5 * self.delta))
        return (weights * loss).sum(-1), coefficients


def nonnegative_least_squares(x: Array, y: Array, weights: Array) -> Array:
    """Coefficients c >= 0 [..., C] with the lowest weighted sum of squares of x c - y, over all batches at once.

    x: [..., R, C] with few columns, y: [..., R], weights: [..., R]. Every set of positive coefficients is solved, and
    the best of those without a negative one is taken.
    """
    weighted = x * weights[..., None]
    gram, right = np.einsum("...rc,...rk->...ck", weighted, x), np.einsum("...rc,...r->...c", weighted, y)
    count, diagonal = x.shape[-1], np.diagonal(gram, axis1=-2, axis2=-1)
    best, lowest = np.zeros(right.shape), np.zeros(right.shape[:-1])  # all zero
    for size in range(1, count + 1):
        for chosen in itertools.combinations(range(count), size):
            rows = np.array(chosen)
            ridge = 1e-12 * diagonal[..., rows].sum(-1)[..., None, None] + 1e-300  # columns may be the same
            part = gram[..., rows[:, None], rows] + ridge * np.eye(size)
            solved = np.linalg.solve(part, right[..., rows, None])[..., 0]
            value = -(solved * right[..., rows]).sum(-1)  # the sum of squares, up to a constant
            better = (solved >= 0).all(-1) & (value < lowest)
            lowest = np.where(better, value, lowest)
            full = np.zeros(right.shape)
            full[..., rows] = solved
            best = np.where(better[..., None], full, best)
    return best
