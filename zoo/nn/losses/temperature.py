"""The learned temperature of contrastive models: its parameters, initial values, limits, and how to read it.

A model has the parameter `logit_scale`, the logarithm of the inverse temperature, and for the SigLIP loss `logit_bias`.
Scores are exp(logit_scale) times the cosine similarity, plus the bias.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

CLIP_TEMPERATURE = 0.07  # initial value; Radford et al. 2021, section 2.5, https://arxiv.org/abs/2103.00020
SIGLIP_TEMPERATURE, SIGLIP_BIAS = 0.1, -10.0  # initial values; Zhai et al. 2023, https://arxiv.org/abs/2303.15343
MAX_SCALE = 100.0  # upper limit in training, as in CLIP; also the scale of a model without a temperature


@torch.no_grad()
def initialize_temperature(logit_scale: Tensor, logit_bias: Tensor | None) -> None:
    """Fill the parameters with the published initial values: those of CLIP, or with a bias those of SigLIP."""
    nn.init.constant_(logit_scale, -math.log(CLIP_TEMPERATURE if logit_bias is None else SIGLIP_TEMPERATURE))
    if logit_bias is not None:
        nn.init.constant_(logit_bias, SIGLIP_BIAS)


@torch.no_grad()
def clamp_temperature(model: nn.Module) -> None:
    """Limit the scale of a model to 1 ... 100 in place, as in CLIP; nothing without `logit_scale`."""
    if isinstance(scale := getattr(model, "logit_scale", None), Tensor):
        scale.clamp_(0.0, math.log(MAX_SCALE))


def temperature(model: Any) -> tuple[float, float | None]:
    """(scale, bias) of a model; the scale is the inverse temperature, 100 for a model without `logit_scale`."""
    scale, bias = getattr(model, "logit_scale", None), getattr(model, "logit_bias", None)
    return (
        float(scale.detach().exp()) if isinstance(scale, Tensor) else MAX_SCALE,
        float(bias.detach()) if isinstance(bias, Tensor) else None,
    )
