"""Choice of the next token: greedy, temperature, top-k, top-p, min-p, repetition penalty."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    temperature: 0 takes the most probable token, larger values sample. top_k: sample among the k most probable tokens
    (0: all). top_p: among the fewest tokens with this total probability. min_p: among tokens with at least this
    fraction of the highest probability. repetition_penalty: > 1 lowers the scores of tokens that a row already has.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        require(self.temperature >= 0, "temperature", self.temperature, "0 (greedy) or more")
        require(
            isinstance(self.top_k, int) and self.top_k >= 0, "top_k", self.top_k, "a whole number, 0 for all tokens"
        )
        require(0 < self.top_p <= 1, "top_p", self.top_p, "more than 0, up to 1 (all tokens)")
        require(0 <= self.min_p <= 1, "min_p", self.min_p, "0 (all tokens) to 1")
        require(self.repetition_penalty > 0, "repetition_penalty", self.repetition_penalty, "more than 0, 1 for none")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    def choose(self, scores: Tensor, seen: Tensor | None, generator: torch.Generator | None) -> Tensor:
        """Scores [B, V] -> tokens [B]. seen: a mask [B, V] of the tokens that each row already has."""
        if self.greedy:
            return penalized(scores, seen, self.repetition_penalty).argmax(-1)
        return sample_from(self.probabilities(scores, seen), generator)

    def probabilities(self, scores: Tensor, seen: Tensor | None) -> Tensor:
        """The distribution [..., V] that `choose` samples from; when greedy, one token has probability 1."""
        scores = self.narrowed(scores, seen)
        if self.greedy:
            return torch.zeros_like(scores).scatter_(-1, scores.argmax(-1, keepdim=True), 1.0)
        return scores.softmax(-1)

    def log_probability(self, scores: Tensor, seen: Tensor | None, token: Tensor) -> Tensor:
        """The log-probability [B] of tokens [B]: when greedy in the distribution of the scores, else in the one that
        `choose` samples from."""
        return self.narrowed(scores, seen).log_softmax(-1).gather(-1, token[:, None])[:, 0]

    def narrowed(self, scores: Tensor, seen: Tensor | None) -> Tensor:
        """The scores with the penalty, and when sampling with all that changes the distribution."""
        scores = penalized(scores.float(), seen, self.repetition_penalty)
        if self.greedy:
            return scores
        scores = scores / self.temperature
        for keep, value, disabled in (
            (keep_top_k, self.top_k, 0), (keep_top_p, self.top_p, 1.0), (keep_min_p, self.min_p, 0.0)
        ):  # fmt: skip
            scores = scores if value == disabled else keep(scores, value)
        return scores


def penalized(scores: Tensor, seen: Tensor | None, penalty: float) -> Tensor:
    """Repetition penalty (Keskar et al. 2019, CTRL): positive scores of seen tokens are divided by it, negative ones
    multiplied."""
    if seen is None or penalty == 1:
        return scores
    return scores.where(~seen, torch.where(scores < 0, scores * penalty, scores / penalty))


def keep_top_k(scores: Tensor, k: float) -> Tensor:
    """Keep the k highest scores."""
    k = min(int(k), scores.shape[-1])
    return scores.masked_fill(scores < scores.topk(k).values[..., -1:], -torch.inf)


def keep_top_p(scores: Tensor, p: float) -> Tensor:
    """Nucleus sampling (Holtzman et al. 2020): keep the most probable tokens until their total probability is p."""
    ordered, order = scores.sort(descending=True)
    probabilities = ordered.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    return scores.masked_fill((before >= p).scatter(-1, order, before >= p), -torch.inf)


def keep_min_p(scores: Tensor, p: float) -> Tensor:
    """Keep tokens with at least p times the highest probability."""
    probabilities = scores.softmax(-1)
    return scores.masked_fill(probabilities < p * probabilities.amax(-1, keepdim=True), -torch.inf)


def sample_from(probabilities: Tensor, generator: torch.Generator | None) -> Tensor:
    """Sample one token of each row: [B, V] -> [B].

    As torch.multinomial, with its random numbers, but without its checks, for which the host waits for the device.
    """
    noise = torch.empty_like(probabilities).exponential_(generator=generator)
    return (probabilities / noise).argmax(-1)


def require(valid: bool, name: str, value: object, expected: str) -> None:
    """Raises ValueError for an invalid option."""
    if not valid:
        raise ValueError(f"{name}={value!r}: expected {expected}")
