"""Beam search: the most probable continuations."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zoo.inference.generation.sampling import Sampling, penalized
from zoo.inference.generation.stopping import StoppingCriteria

if TYPE_CHECKING:
    from zoo.inference.generation.prompt import Prompt

NEVER = -1e9  # the score of candidates that must not be chosen; finite, so that sums are not NaN


@dataclass
class Beams:
    """k texts of each prompt: their tokens [B, k, T] so far, and scores [B, k], the sums of log-probabilities."""

    tokens: Tensor
    scores: Tensor

    def take(self, index: Tensor) -> "Beams":
        """Select beams by index [B, k']."""
        return Beams(picked(self.tokens, index), self.scores.gather(1, index))


def picked(x: Tensor, index: Tensor) -> Tensor:
    """Select rows: x [B, k, T], index [B, k'] -> [B, k', T]."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))


def search(
    prompt: "Prompt", sampling: Sampling, stopping: StoppingCriteria, fill: int, options: tuple[int, int, float]
) -> Tensor:
    """[B * copies, new], the best `copies` of `beams` for each prompt; options: (beams, copies, length_penalty).

    Finished texts are stored with their score divided by length ** length_penalty. The search ends when no
    unfinished text has a better current score than the worst of `beams` finished ones.
    """
    beams, copies, penalty = options
    batch, room = prompt.ids.shape[0], prompt.room
    prompt = prompt.repeated(beams)
    session, logits = prompt.read()
    seen = prompt.seen() if sampling.repetition_penalty != 1 else None
    active = Beams(prompt.ids.new_full((batch, beams, room), fill), logits.new_full((batch, beams), NEVER))
    active.scores[:, 0] = 0.0  # all beams start as the prompt: only one counts
    finished = Beams(active.tokens.clone(), torch.full_like(active.scores, NEVER))
    lengths = torch.zeros_like(active.scores, dtype=torch.long)
    improvable = torch.ones(batch, 1, dtype=torch.bool, device=logits.device)
    rows = torch.arange(batch, device=logits.device)[:, None] * beams
    num_candidates = max(2, 1 + stopping.count) * beams  # enough to continue with if the best ones all end
    for step in range(room):
        extended, origin = extend(active, logits, seen, sampling, step, num_candidates)
        ended = torch.full_like(extended.scores, step + 1 == room, dtype=torch.bool)
        if stopping and step + 1 < room:
            ended = stopping(extended.tokens[..., : step + 1].flatten(0, 1)).view_as(ended)
        finished, lengths = add_finished(finished, lengths, extended, ended, improvable, step + 1, penalty)
        best = torch.where(ended, extended.scores + NEVER, extended.scores).topk(beams).indices
        active = extended.take(best)
        active.scores = active.scores + NEVER * ended.gather(1, best)
        complete = (lengths > 0).all(1, keepdim=True)
        reachable = active.scores[:, :1] / (step + 1) ** penalty
        improvable = improvable & (~complete | (reachable > finished.scores.amin(1, keepdim=True)))
        if ended.all() or not improvable.any():
            break
        source = (rows + origin.gather(1, best)).flatten()
        token = active.tokens[..., step].reshape(-1, 1)
        session.reorder(source)
        if seen is not None:
            seen = seen[source].scatter_(1, token, True)
        logits = session.read(token)
    return finished.tokens[:, :copies, : int(lengths[:, :copies].max())].flatten(0, 1)


def extend(
    active: Beams, logits: Tensor, seen: Tensor | None, sampling: Sampling, step: int, num_candidates: int
) -> tuple[Beams, Tensor]:
    """The best `num_candidates` texts with one more token, best first, and the beam each comes from [B, w]."""
    batch, beams = active.scores.shape
    gains = penalized(logits.float().log_softmax(-1), seen, sampling.repetition_penalty)
    total = (gains.view(batch, beams, -1) + active.scores[..., None]).flatten(1)
    scores, place = total.topk(min(num_candidates, total.shape[1]))
    origin, token = place // gains.shape[-1], place % gains.shape[-1]
    tokens = picked(active.tokens, origin)
    tokens[..., step] = token
    return Beams(tokens, scores), origin


def add_finished(
    finished: Beams, lengths: Tensor, extended: Beams, ended: Tensor, improvable: Tensor, length: int, penalty: float
) -> tuple[Beams, Tensor]:
    """The finished texts [B, k] with those that end now, if they are among the k best candidates; the best k stay."""
    beams = finished.scores.shape[1]
    counts = ended & improvable
    counts[:, beams:] = False
    scores = torch.where(counts, extended.scores / length**penalty, NEVER)
    both = Beams(torch.cat([finished.tokens, extended.tokens], 1), torch.cat([finished.scores, scores], 1))
    all_lengths = torch.cat([lengths, counts * length], 1)
    best = both.scores.topk(beams).indices
    return both.take(best), all_lengths.gather(1, best)
