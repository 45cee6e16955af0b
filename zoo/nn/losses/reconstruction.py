"""Losses of reconstructed images, one value per image, and the pixel mapping of the logit-Laplace distribution."""

import torch
import torch.nn.functional as F
from torch import Tensor

LAPLACE_EPS = 0.1  # of Ramesh et al. 2021
# (x - mean) / std maps pixels of 0 to 1 to eps to 1 - eps, (1 - 2 eps) x + eps, the range of the distribution.
LAPLACE_MEAN, LAPLACE_STD = -LAPLACE_EPS / (1 - 2 * LAPLACE_EPS), 1 / (1 - 2 * LAPLACE_EPS)


def reconstruction_loss(kind: str, output: Tensor, pixels: Tensor) -> Tensor:
    """Mean loss over the values of each image, [B], computed in float32 or higher precision.

    Args:
        kind: `mse`, `l1`, `smooth_l1` or `laplace`, see `logit_laplace`.
        output: Of a decoder, [B, C, H, W]; for `laplace` [B, 2 C, H, W].
        pixels: The images, [B, C, H, W].
    """
    output, pixels = (x.float() if x.dtype in (torch.float16, torch.bfloat16) else x for x in (output, pixels))
    if kind == "laplace":
        losses = logit_laplace(output, pixels)
    else:
        losses = {"mse": F.mse_loss, "l1": F.l1_loss, "smooth_l1": F.smooth_l1_loss}[kind](
            output, pixels, reduction="none"
        )
    return losses.flatten(1).mean(1)


def logit_laplace(output: Tensor, pixels: Tensor) -> Tensor:
    """Negative log-likelihood of each value under a logit-Laplace distribution, [B, C, H, W].

    The logit of a value is Laplace-distributed, so that all values lie between 0 and 1 (Ramesh et al. 2021, appendix
    A.3).

    Args:
        output: [B, 2 C, H, W]: the location mu and the logarithm of the scale b.
        pixels: [B, C, H, W], between 0 and 1; images are mapped to 0.1 to 0.9, see `LAPLACE_MEAN`.
    """
    mu, log_scale = output.chunk(2, 1)
    x = pixels.clamp(1e-4, 1 - 1e-4)  # images of another range would be infinitely unlikely
    distance = (torch.logit(x) - mu).abs() * torch.exp(-log_scale)
    return distance + log_scale + torch.log(2 * x * (1 - x))


def kl_to_uniform(logits: Tensor) -> Tensor:
    """Kullback-Leibler divergence of categorical distributions from the uniform one, summed over each row, [B].

    Args:
        logits: [B, K, ...] of K categories.
    """
    log_p = (logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits).log_softmax(1)
    uniform = torch.log(torch.full((), logits.shape[1], dtype=log_p.dtype, device=log_p.device))
    return (log_p.exp() * (log_p + uniform)).flatten(1).sum(1)
