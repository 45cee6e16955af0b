"""The learned temperature: published initial values, limits, and models without one."""

import math

import pytest
import torch
from torch import nn

from zoo.nn.losses.temperature import MAX_SCALE, clamp_temperature, initialize_temperature, temperature


class Scaled(nn.Module):
    def __init__(self, bias: bool, value: float = 0.0) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(value))
        self.logit_bias = nn.Parameter(torch.tensor(0.0)) if bias else None


@pytest.mark.parametrize(("bias", "expected"), [(False, (1 / 0.07, None)), (True, (10.0, -10.0))])
def test_initial_values_are_the_published_ones(bias: bool, expected: tuple[float, float | None]) -> None:
    model = Scaled(bias)
    initialize_temperature(model.logit_scale, model.logit_bias)
    assert temperature(model) == (pytest.approx(expected[0]), expected[1])


@pytest.mark.parametrize(("value", "expected"), [(9.0, 100.0), (-1.0, 1.0), (math.log(20), 20.0)])
def test_the_scale_is_limited(value: float, expected: float) -> None:
    model = Scaled(bias=False, value=value)
    clamp_temperature(model)
    assert temperature(model)[0] == pytest.approx(expected)


def test_a_model_without_a_temperature() -> None:
    model = nn.Linear(2, 2)
    clamp_temperature(model)
    assert temperature(model) == (MAX_SCALE, None)
