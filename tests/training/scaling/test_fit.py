"""Fits of scaling laws to synthetic runs whose law is known."""

import math

import numpy as np
import pytest

from zoo.training.scaling.fit import Fit, fit_law, nonnegative_least_squares
from zoo.training.scaling.laws import LAWS, Array
from zoo.training.scaling.runs import ScalingError

SIZES, TOKENS = [1e4, 2.5e4, 6e4, 1.2e5, 2e5], [5e5, 1e6, 2e6, 4e6]
N, D = (each.ravel() for each in np.meshgrid(SIZES, TOKENS))
TRUE = {"chinchilla": {"E": 0.9, "A": 8.0, "B": 60.0, "alpha": 0.3, "beta": 0.35},
        "kaplan": {"N_c": 2e5, "D_c": 1e6, "alpha_N": 0.1, "alpha_D": 0.2}}  # fmt: skip


def loss_of(law: str, n: Array | float, d: Array | float) -> Array:
    """The formula of the paper, written again."""
    p = TRUE[law]
    if law == "chinchilla":
        return np.asarray(p["E"] + p["A"] / n ** p["alpha"] + p["B"] / d ** p["beta"])
    return np.asarray(((p["N_c"] / n) ** (p["alpha_N"] / p["alpha_D"]) + p["D_c"] / d) ** p["alpha_D"])


def noisy(law: str, noise: float, seed: int = 0) -> Array:
    return loss_of(law, N, D) * np.exp(noise * np.random.default_rng(seed).standard_normal(len(N)))


@pytest.mark.parametrize("law", LAWS)
def test_exact_losses_give_the_law(law: str) -> None:
    fit = fit_law(LAWS[law], N, D, loss_of(law, N, D), samples=5)
    assert fit.parameters == pytest.approx(TRUE[law], rel=2e-2) and fit.spread < 1e-4 and not fit.at_bounds
    assert fit.predict(1e6, 2e7) == pytest.approx(float(loss_of(law, 1e6, 2e7)), rel=1e-3)
    low, high = fit.prediction_interval(1e6, 2e7)
    assert high - low < 1e-2 * low


@pytest.mark.parametrize("law", LAWS)
def test_noise_widens_the_intervals_around_the_law(law: str) -> None:
    fits = [fit_law(LAWS[law], N, D, noisy(law, noise, seed=2), samples=25, level=0.99) for noise in (0.002, 0.02)]
    for name, value in TRUE[law].items():
        low, high = fits[1].intervals[name]
        assert low <= value <= high, name
    exponent = LAWS[law].exponents[0]
    widths = [np.ptp(fit.intervals[exponent]) for fit in fits]
    assert widths[0] < widths[1] and fits[0].spread < 0.004 < fits[1].spread < 0.04
    low, high = fits[0].prediction_interval(4e5, 4e6)
    assert low < float(loss_of(law, 4e5, 4e6)) < high and high / low < 1.1


def test_one_run_that_went_wrong_moves_the_fit_little() -> None:
    losses = loss_of("chinchilla", N, D)
    losses[3] *= 1.3
    fit = fit_law(LAWS["chinchilla"], N, D, losses, samples=1)
    assert fit.predict(4e5, 4e6) == pytest.approx(float(loss_of("chinchilla", 4e5, 4e6)), rel=0.01)
    assert abs(fit.residuals[3] - math.log(1.3)) < 0.01


@pytest.mark.parametrize("law", LAWS)
def test_the_best_size_of_a_budget(law: str) -> None:
    fit = fit_law(LAWS[law], N, D, loss_of(law, N, D), samples=3)
    best = fit.optimum(1e13)
    assert 6 * best.parameters * best.tokens == pytest.approx(1e13)
    sizes = best.parameters * np.linspace(0.5, 2, 301)
    losses = fit.curve(sizes, 1e13 / 6 / sizes)
    assert best.loss <= losses.min() + 1e-9 and abs(losses.argmin() - 100) <= 2
    low, high = best.parameters_interval
    assert low <= best.parameters * 1.02 and best.parameters <= high * 1.02


def test_runs_of_equal_budgets() -> None:
    """IsoFLOP: no two runs have the same tokens."""
    n, c = (each.ravel() for each in np.meshgrid(SIZES, [3e10, 1e11, 3e11, 1e12]))
    d = c / 6 / n
    fit = fit_law(LAWS["chinchilla"], n, d, loss_of("chinchilla", n, d), samples=2)
    assert fit.parameters == pytest.approx(TRUE["chinchilla"], rel=2e-2)


def test_a_loss_that_does_not_depend_on_the_size() -> None:
    fit = fit_law(LAWS["chinchilla"], N, D, 1 + 60 / D**0.35, samples=2)
    with pytest.raises(ScalingError, match="does not depend on both size and tokens"):
        Fit(fit.law, fit.exponents, np.array([1.0, 0.0, 1.0]), 1.0, 1.0, fit.residuals, fit.samples).optimum(1e12)


LOSS = loss_of("chinchilla", N, D)


@pytest.mark.parametrize(("n", "d", "loss", "message"), [
    (N[:5], D[:5], LOSS[:5], "5 runs are too few for the 5 parameters of L = E"),
    (np.full(20, 1e4), D, LOSS, "1 different sizes, expected at least 3"),
    (N, np.full(20, 1e6), LOSS, "1 different numbers of tokens, expected at least 3"),
    (N, D, np.full(20, 2.0), "all 20 runs have the loss 2: it depends on neither"),
    (N, D, np.where(np.arange(20) == 4, np.nan, LOSS), "run 5: .*loss nan: a run that diverged; leave this run out"),
    (N, D, np.where(np.arange(20) == 4, -1, LOSS), "run 5: .*loss -1: expected numbers above 0"),
    (N, 20 * N, LOSS, "size and tokens are proportional in all runs"),
    (N, D[:-1], LOSS, "as many sizes, tokens and losses"),
])  # fmt: skip
def test_runs_that_determine_no_law(n: Array, d: Array, loss: Array, message: str) -> None:
    with pytest.raises(ScalingError, match=message):
        fit_law(LAWS["chinchilla"], n, d, loss)


def test_arguments_out_of_range() -> None:
    with pytest.raises(ScalingError, match=r"level=1\.5"):
        fit_law(LAWS["kaplan"], N, D, LOSS, level=1.5)
    fit = fit_law(LAWS["kaplan"], N, D, LOSS, samples=1)
    with pytest.raises(ScalingError, match="budget=0"):
        fit.optimum(0)
    with pytest.raises(ScalingError, match="parameters=0, tokens=10: expected numbers above 0"):
        fit.predict(0, 10)


def test_nonnegative_least_squares_as_scipy_solves_it() -> None:
    optimize = pytest.importorskip("scipy.optimize")
    random = np.random.default_rng(0)
    x, y, w = random.standard_normal((30, 8, 3)), random.standard_normal((30, 8)), random.uniform(0.5, 2, (30, 8))
    found = nonnegative_least_squares(x, y, w)
    for row in range(30):
        root = np.sqrt(w[row])
        np.testing.assert_allclose(found[row], optimize.nnls(x[row] * root[:, None], y[row] * root)[0], atol=1e-6)
    assert (found == 0).any() and (found > 0).all(1).any()
