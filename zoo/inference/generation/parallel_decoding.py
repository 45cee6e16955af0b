"""Parallel decoding of masked tokens, many at a time, the surest first (Chang et al. 2022, MaskGIT, section 3.2).

In each step the model sees the tokens that are known and gives scores for all others. A token is sampled at each place;
those with the least confidence, the logarithm of their probability plus Gumbel noise, are masked again. How many are
falls like a cosine from all to none.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.inference.generation.sampling import require


@dataclass(frozen=True)
class ParallelOptions:
    """steps: forward passes of the model. temperature: of the sampled tokens; 0 takes the most probable ones.
    choice_temperature: of the noise of the confidences, which falls to 0 over the steps."""

    steps: int = 8
    temperature: float = 1.0
    choice_temperature: float = 4.5

    def __post_init__(self) -> None:
        require(isinstance(self.steps, int) and self.steps > 0, "steps", self.steps, "a whole number of at least 1")
        require(self.temperature >= 0, "temperature", self.temperature, "0 (most probable) or more")
        require(self.choice_temperature >= 0, "choice_temperature", self.choice_temperature, "0 (no noise) or more")


def masked_after(step: int, steps: int, unknown: int) -> int:
    """How many of the tokens that are unknown at first are still masked after step 1, ..., steps."""
    return math.floor(unknown * math.cos(math.pi / 2 * step / steps) + 1e-9) if step < steps else 0


def fill_in(
    scores_of: Callable[[Tensor, Tensor], Tensor],
    ids: Tensor,
    mask_token: int,
    options: ParallelOptions,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """(tokens [B, N], log-probability of the tokens that were generated [B]).

    scores_of: tokens [B, N], `mask_token` where they are not known, and places [B, M] -> scores [B, M, V] of the tokens
    there. ids [B, N]: the tokens that are known, -1 for the others, equally many in each row.
    """
    unknown = int((ids[0] < 0).sum())
    places = (ids >= 0).to(torch.uint8).argsort(dim=1, stable=True)[:, :unknown]  # of what is masked
    ids = ids.masked_fill(ids < 0, mask_token)
    total = torch.zeros(len(ids), device=ids.device)
    for step in range(1, options.steps + 1):
        token, log_prob = sampled(scores_of(ids, places).float(), options.temperature, generator)
        left = masked_after(step, options.steps, unknown)
        noise = torch.empty_like(log_prob).exponential_(generator=generator).log().neg()  # Gumbel's distribution
        confidence = log_prob + options.choice_temperature * (1 - step / options.steps) * noise
        order = confidence.argsort(dim=1, descending=True)
        known, again = order.tensor_split([places.shape[1] - left], dim=1)
        ids = ids.scatter(1, places.gather(1, known), token.gather(1, known))
        total = total + log_prob.gather(1, known).sum(1)
        if not left:
            break
        places = places.gather(1, again)
    return ids, total


def sampled(scores: Tensor, temperature: float, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """(a token for each place, its log-probability), each [B, M], of scores [B, M, V]."""
    log_probs = scores.log_softmax(-1) if temperature == 0 else (scores / temperature).log_softmax(-1)
    token = log_probs.argmax(-1) if temperature == 0 else sample_rows(log_probs.exp(), generator)
    return token, log_probs.gather(-1, token[..., None])[..., 0]


def sample_rows(probabilities: Tensor, generator: torch.Generator | None) -> Tensor:
    """Sample one token of each distribution: [B, M, V] -> [B, M].

    By one random number for each, in less time than the number for each token of `sample_from` takes.
    """
    upto = probabilities.cumsum(-1)
    point = torch.rand((*upto.shape[:-1], 1), generator=generator, device=upto.device) * upto[..., -1:]
    return torch.searchsorted(upto, point, right=True)[..., 0].clamp(max=upto.shape[-1] - 1)
