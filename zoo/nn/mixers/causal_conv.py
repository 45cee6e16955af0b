"""Short causal convolutions over the tokens of a row, one filter per channel."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def causal_conv(conv: nn.Conv1d, x: Tensor, past: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Convolve x [B, N, E] with the filters of `conv`, which has one group per channel.

    past: the K - 1 inputs before x, [B, K - 1, E]; zeros if omitted. Returns the outputs [B, N, E], of which each
    depends on its own and the K - 1 inputs before, and the last K - 1 inputs.
    """
    size, n = conv.kernel_size[0], x.shape[1]
    x = F.pad(x, (0, 0, size - 1, 0)) if past is None else torch.cat([past.to(x.dtype), x], 1)
    weight = conv.weight[:, 0].to(x.dtype)  # E K
    y = x[:, :n] * weight[:, 0]
    for k in range(1, size):  # sums of shifted rows are faster than torch's convolution with a group per channel
        y = torch.addcmul(y, x[:, k : k + n], weight[:, k])
    if conv.bias is not None:
        y = y + conv.bias.to(x.dtype)
    return y, x[:, n:]


def inverse_softplus(x: Tensor) -> Tensor:
    """The value whose softplus is x > 0."""
    return x + torch.log(-torch.expm1(-x))


def time_step_bias(size: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Biases of time steps whose softplus is between `low` and `high`, uniform in the logarithm."""
    exponent = torch.empty(size).uniform_(generator=generator)
    return inverse_softplus((low * (high / low) ** exponent).clamp(min=1e-4))
