"""Beam search: the most probable continuations, several at a time."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zoo.inference.generation.sampling import Sampling, penalized
from zoo.inference.generation.stopping import StoppingCriteria

if TYPE_CHECKING:
    from zoo.inference.generation.prompt import Prompt

NEVER = -1e9  # the score of what must not be chosen; finite, so that sums stay numbers


@dataclass
class Beams:
    """k texts of each prompt: tokens [B, k, T] so far, and scores [B, k], the sums of their log-probabilities."""

    tokens: Tensor
    scores: Tensor

    def take(self, index: Tensor) -> "Beams":
        """index: [B, k']."""
        return Beams(picked(self.tokens, index), self.scores.gather(1, index))


def picked(x: Tensor, index: Tensor) -> Tensor:
    """[B, k, T], [B, k'] -> [B, k', T]."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))


def search(
    prompt: "Prompt", sampling: Sampling, ends: StoppingCriteria, fill: int, options: tuple[int, int, float]
) -> Tensor:
    """[B * copies, new], the best `copies` of `beams` for each prompt; options: (beams, copies, length_penalty).

    A text that ends is set aside with its score divided by length ** length_penalty; the search is over when no open
    text scores better, as it stands, than the worst of `beams` finished ones.
    """
    beams, copies, penalty = options
    batch, room = prompt.ids.shape[0], prompt.room
    prompt = prompt.repeated(beams)
    reader, logits = prompt.read()
    seen = prompt.seen() if sampling.repetition_penalty != 1 else None
    open_ = Beams(prompt.ids.new_full((batch, beams, room), fill), logits.new_full((batch, beams), NEVER))
    open_.scores[:, 0] = 0.0  # at first all beams are the prompt: one of them counts
    done = Beams(open_.tokens.clone(), torch.full_like(open_.scores, NEVER))
    lengths = torch.zeros_like(open_.scores, dtype=torch.long)
    hopeful = torch.ones(batch, 1, dtype=torch.bool, device=logits.device)
    rows = torch.arange(batch, device=logits.device)[:, None] * beams
    wanted = max(2, 1 + ends.count) * beams  # enough to go on with if the best ones all end
    for step in range(room):
        grown, origin = grow(open_, logits, seen, sampling, step, wanted)
        over = torch.full_like(grown.scores, step + 1 == room, dtype=torch.bool)
        if ends and step + 1 < room:
            over = ends(grown.tokens[..., : step + 1].flatten(0, 1)).view_as(over)
        done, lengths = set_aside(done, lengths, grown, over, hopeful, step + 1, penalty)
        best = torch.where(over, grown.scores + NEVER, grown.scores).topk(beams).indices
        open_ = grown.take(best)
        open_.scores = open_.scores + NEVER * over.gather(1, best)
        full = (lengths > 0).all(1, keepdim=True)
        reachable = open_.scores[:, :1] / (step + 1) ** penalty
        hopeful = hopeful & (~full | (reachable > done.scores.amin(1, keepdim=True)))
        if over.all() or not hopeful.any():
            break
        source = (rows + origin.gather(1, best)).flatten()
        token = open_.tokens[..., step].reshape(-1, 1)
        reader.reorder(source)
        if seen is not None:
            seen = seen[source].scatter_(1, token, True)
        logits = reader.read(token)
    return done.tokens[:, :copies, : int(lengths[:, :copies].max())].flatten(0, 1)


def grow(
    open_: Beams, logits: Tensor, seen: Tensor | None, sampling: Sampling, step: int, wanted: int
) -> tuple[Beams, Tensor]:
    """The best `wanted` texts that are one token longer, best first, and which beam each of them came from [B, w]."""
    batch, beams = open_.scores.shape
    gains = penalized(logits.float().log_softmax(-1), seen, sampling.repetition_penalty)
    total = (gains.view(batch, beams, -1) + open_.scores[..., None]).flatten(1)
    scores, place = total.topk(min(wanted, total.shape[1]))
    origin, token = place // gains.shape[-1], place % gains.shape[-1]
    tokens = picked(open_.tokens, origin)
    tokens[..., step] = token
    return Beams(tokens, scores), origin


def set_aside(
    done: Beams, lengths: Tensor, grown: Beams, over: Tensor, hopeful: Tensor, length: int, penalty: float
) -> tuple[Beams, Tensor]:
    """The finished texts [B, k] with those that end now, if they are among the k best candidates; the best k stay."""
    beams = done.scores.shape[1]
    counts = over & hopeful
    counts[:, beams:] = False
    scores = torch.where(counts, grown.scores / length**penalty, NEVER)
    both = Beams(torch.cat([done.tokens, grown.tokens], 1), torch.cat([done.scores, scores], 1))
    all_lengths = torch.cat([lengths, counts * length], 1)
    best = both.scores.topk(beams).indices
    return both.take(best), all_lengths.gather(1, best)
