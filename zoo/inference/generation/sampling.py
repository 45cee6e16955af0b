"""From scores of the next token to a choice: greedy, temperature, top-k, top-p, min-p, repetition penalty."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. temperature 0 takes the best one; the others narrow down what may be drawn.

    top_k: among the k best (0: all). top_p: among the fewest that hold this probability. min_p: those at least this
    part as probable as the best one. repetition_penalty: > 1 lowers the scores of tokens that a row holds already.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        demand(self.temperature >= 0, "temperature", self.temperature, "0 (greedy) or more")
        demand(isinstance(self.top_k, int) and self.top_k >= 0, "top_k", self.top_k, "a whole number, 0 for all tokens")
        demand(0 < self.top_p <= 1, "top_p", self.top_p, "more than 0, up to 1 (all tokens)")
        demand(0 <= self.min_p <= 1, "min_p", self.min_p, "0 (all tokens) to 1")
        demand(self.repetition_penalty > 0, "repetition_penalty", self.repetition_penalty, "more than 0, 1 for none")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    def choose(self, scores: Tensor, seen: Tensor | None, draw: torch.Generator | None) -> Tensor:
        """Scores [B, V] -> tokens [B]; seen [B, V] is True for tokens that a row holds."""
        if self.greedy:
            return penalized(scores, seen, self.repetition_penalty).argmax(-1)
        return draw_from(self.probabilities(scores, seen), draw)

    def probabilities(self, scores: Tensor, seen: Tensor | None) -> Tensor:
        """What `choose` draws from, [..., V]; all of it on one token when greedy."""
        scores = penalized(scores.float(), seen, self.repetition_penalty)
        if self.greedy:
            return torch.zeros_like(scores).scatter_(-1, scores.argmax(-1, keepdim=True), 1.0)
        scores = scores / self.temperature
        for narrow, value, off in (
            (keep_top_k, self.top_k, 0), (keep_top_p, self.top_p, 1.0), (keep_min_p, self.min_p, 0.0)
        ):  # fmt: skip
            scores = scores if value == off else narrow(scores, value)
        return scores.softmax(-1)


def penalized(scores: Tensor, seen: Tensor | None, penalty: float) -> Tensor:
    """Keskar et al. 2019 (CTRL): scores of tokens seen before are divided by the penalty, negative ones multiplied."""
    if seen is None or penalty == 1:
        return scores
    return scores.where(~seen, torch.where(scores < 0, scores * penalty, scores / penalty))


def keep_top_k(scores: Tensor, k: float) -> Tensor:
    k = min(int(k), scores.shape[-1])
    return scores.masked_fill(scores < scores.topk(k).values[..., -1:], -torch.inf)


def keep_top_p(scores: Tensor, p: float) -> Tensor:
    """Holtzman et al. 2020: the most probable tokens until they hold `p`, the one that reaches it included."""
    ordered, order = scores.sort(descending=True)
    probabilities = ordered.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    return scores.masked_fill((before >= p).scatter(-1, order, before >= p), -torch.inf)


def keep_min_p(scores: Tensor, p: float) -> Tensor:
    probabilities = scores.softmax(-1)
    return scores.masked_fill(probabilities < p * probabilities.amax(-1, keepdim=True), -torch.inf)


def draw_from(probabilities: Tensor, draw: torch.Generator | None) -> Tensor:
    """[B, V] -> [B]."""
    return torch.multinomial(probabilities, 1, generator=draw)[:, 0]


def demand(fine: bool, name: str, value: object, expected: str) -> None:
    if not fine:
        raise ValueError(f"{name}={value!r}: expected {expected}")
