"""Scaling laws: forms of the loss as a function of model size N and training tokens D.

    kaplan       L = ((N_c / N)^(alpha_N / alpha_D) + D_c / D)^alpha_D      Kaplan et al. 2020, equation 1.5
    chinchilla   L = E + A / N^alpha + B / D^beta                           Hoffmann et al. 2022, equation 2

For given exponents both are linear in what remains, up to a power: L = (X c)^s with nonnegative coefficients c. So a
fit searches two exponents alone, see `fit.py`. N and D enter relative to the geometric means of the runs, which keeps
the columns of X of one size.

Sources: https://arxiv.org/abs/2001.08361, https://arxiv.org/abs/2203.15556.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]


class Law(ABC):
    """A form of the loss, with two exponents that are searched and nonnegative coefficients that are solved.

    Attributes:
        name, equation: Name and formula, for messages.
        exponents: Names of the exponents.
        bounds: (lowest, highest) value of each exponent in the search.
        coefficients: Number of coefficients.
    """

    name: ClassVar[str]
    equation: ClassVar[str]
    exponents: ClassVar[tuple[str, str]]
    bounds: ClassVar[tuple[tuple[float, float], tuple[float, float]]]
    coefficients: ClassVar[int]

    @property
    def free(self) -> int:
        """Number of free parameters."""
        return len(self.exponents) + self.coefficients

    @abstractmethod
    def columns(self, exponents: Array, n: Array, d: Array) -> Array:
        """X [..., R, C] of exponents [..., 2] and R runs with relative sizes n and tokens d [R]."""

    @abstractmethod
    def power(self, exponents: Array) -> Array:
        """s [...] of exponents [..., 2]."""

    @abstractmethod
    def named(self, exponents: Array, coefficients: Array, n0: float, d0: float) -> dict[str, float]:
        """The parameters as in the paper, of exponents [2] and coefficients [C] of runs relative to n0, d0."""

    @abstractmethod
    def optimal_size(self, exponents: Array, coefficients: Array, product: float) -> float:
        """The relative size n with the lowest loss among those with n * d = product; NaN if there is no lowest one."""

    def loss(self, exponents: Array, coefficients: Array, n: Array, d: Array) -> Array:
        """Losses [..., R] of exponents [..., 2] and coefficients [..., C]."""
        linear = np.einsum("...rc,...c->...r", self.columns(exponents, n, d), coefficients)
        return np.asarray(np.power(linear, self.power(exponents)[..., None]))


class Chinchilla(Law):
    """L(N, D) = E + A / N^alpha + B / D^beta: loss of ideal text, of a finite model, of finite training."""

    name = "chinchilla"
    equation = "L = E + A / N^alpha + B / D^beta"
    exponents = ("alpha", "beta")
    bounds = ((0.02, 2.0), (0.02, 2.0))
    coefficients = 3

    def columns(self, exponents: Array, n: Array, d: Array) -> Array:
        """As in Law: 1, n^-alpha, d^-beta."""
        terms = n ** -exponents[..., :1], d ** -exponents[..., 1:]
        return np.stack([np.ones_like(terms[0]), *terms], -1)

    def power(self, exponents: Array) -> Array:
        """As in Law: 1."""
        return np.ones(exponents.shape[:-1])

    def named(self, exponents: Array, coefficients: Array, n0: float, d0: float) -> dict[str, float]:
        """As in Law."""
        (alpha, beta), (e, a, b) = exponents.tolist(), coefficients.tolist()
        return {"E": e, "A": a * n0**alpha, "B": b * d0**beta, "alpha": alpha, "beta": beta}

    def optimal_size(self, exponents: Array, coefficients: Array, product: float) -> float:
        """As in Law; Hoffmann et al., equation 4."""
        (alpha, beta), (_, a, b) = exponents.tolist(), coefficients.tolist()
        if a <= 0 or b <= 0:
            return math.nan
        return float((alpha * a / (beta * b)) ** (1 / (alpha + beta)) * product ** (beta / (alpha + beta)))


class Kaplan(Law):
    """L(N, D) = ((N_c / N)^(alpha_N / alpha_D) + D_c / D)^alpha_D: a loss that falls to zero."""

    name = "kaplan"
    equation = "L = ((N_c / N)^(alpha_N / alpha_D) + D_c / D)^alpha_D"
    exponents = ("alpha_N", "alpha_D")
    bounds = ((0.02, 1.5), (0.02, 1.5))
    coefficients = 2

    def columns(self, exponents: Array, n: Array, d: Array) -> Array:
        """As in Law: n^-(alpha_N / alpha_D), 1 / d."""
        power = -(exponents[..., :1] / exponents[..., 1:]) * np.log(n)
        size = np.exp(np.clip(power, -100, 100))  # squares stay finite; no such exponents fit
        return np.stack([size, np.broadcast_to(1 / d, size.shape)], -1)

    def power(self, exponents: Array) -> Array:
        """As in Law: alpha_D."""
        return exponents[..., 1]

    def named(self, exponents: Array, coefficients: Array, n0: float, d0: float) -> dict[str, float]:
        """As in Law."""
        (alpha_n, alpha_d), (a, b) = exponents.tolist(), coefficients.tolist()
        return {"N_c": a ** (alpha_d / alpha_n) * n0, "D_c": b * d0, "alpha_N": alpha_n, "alpha_D": alpha_d}

    def optimal_size(self, exponents: Array, coefficients: Array, product: float) -> float:
        """As in Law: where the derivative of a n^-g + b n / product is zero."""
        (alpha_n, alpha_d), (a, b) = exponents.tolist(), coefficients.tolist()
        g = alpha_n / alpha_d
        return math.nan if a <= 0 or b <= 0 else float((a * g * product / b) ** (1 / (1 + g)))


LAWS: Mapping[str, Law] = {law.name: law for law in (Chinchilla(), Kaplan())}
