"""Beam search: the most probable continuations."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.inference.generation.graph_decoding import reading_by_graphs
from zoo.inference.generation.sampling import penalized

if TYPE_CHECKING:
    from zoo.inference.generation.prompt import DecodingSession, GenerationTask

NEVER = -1e9  # the score of candidates that must not be chosen; finite, so that sums are not NaN


@dataclass(frozen=True)
class BeamOptions:
    """num_return_sequences: how many texts of each prompt are returned. early_stopping: see `generate`."""

    num_beams: int
    num_return_sequences: int
    length_penalty: float
    early_stopping: bool


@dataclass
class Beams:
    """k texts of each prompt: their tokens [B, k, T] so far, and scores [B, k], the sums of log-probabilities.

    log_probs: the log-probability of each token [B, k, T], if they are recorded.
    """

    tokens: Tensor
    scores: Tensor
    log_probs: Tensor | None = None

    def take(self, index: Tensor) -> "Beams":
        """Select beams by index [B, k']."""
        log_probs = None if self.log_probs is None else picked(self.log_probs, index)
        return Beams(picked(self.tokens, index), self.scores.gather(1, index), log_probs)


def picked(x: Tensor, index: Tensor) -> Tensor:
    """Select rows: x [B, k, T], index [B, k'] -> [B, k', T]."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))


def search(task: "GenerationTask", options: BeamOptions) -> tuple[Tensor, Tensor | None, Tensor]:
    """The best `copies` of `beams` texts for each prompt: (tokens [B * copies, new], with output_scores their
    log-probabilities, scores of the texts [B * copies]).

    Finished texts are stored with their score divided by length ** length_penalty. The search ends when no
    unfinished text has a better current score than the worst of `beams` finished ones.
    """
    check_beams(options.num_beams, task.prompt.model.config)
    session, logits = task.prompt.repeated(options.num_beams).read()
    with reading_by_graphs(session, logits, task.prompt.room, alone=task.alone):
        return search_from(task, options, session, logits)


def search_from(
    task: "GenerationTask", options: BeamOptions, session: "DecodingSession", logits: Tensor
) -> tuple[Tensor, Tensor | None, Tensor]:
    """`search` after the prompts: the session has read them, and logits are the scores of the first new tokens."""
    beams, copies, penalty = options.num_beams, options.num_return_sequences, options.length_penalty
    stopping, prompt = task.stopping, task.prompt.repeated(beams)
    batch, room = prompt.ids.shape[0], prompt.room
    seen = prompt.seen() if task.sampling.repetition_penalty != 1 else None
    active = Beams(prompt.ids.new_full((batch, beams, room), task.fill), logits.new_full((batch, beams), NEVER).float())
    if task.output_scores:
        active.log_probs = active.scores.new_zeros(active.tokens.shape)
    active.scores[:, 0] = 0.0  # all beams start as the prompt: only one counts
    finished = Beams(active.tokens.clone(), torch.full_like(active.scores, NEVER), active.log_probs)
    lengths = torch.zeros_like(active.scores, dtype=torch.long)
    improvable = torch.ones(batch, 1, dtype=torch.bool, device=logits.device)
    rows = torch.arange(batch, device=logits.device)[:, None] * beams
    num_candidates = max(2, 1 + stopping.count) * beams  # enough to continue with if the best ones all end
    for step in range(room):
        extended, origin = extend(active, logits, seen, task, step, num_candidates)
        if task.processors:
            improvable = improvable & check_candidates(task, extended, lengths, step)
        ended = torch.full_like(extended.scores, step + 1 == room, dtype=torch.bool)
        if stopping and step + 1 < room:
            ended = stopping(extended.tokens[..., : step + 1].flatten(0, 1)).view_as(ended)
        finished, lengths = add_finished(finished, lengths, extended, ended, improvable, step + 1, penalty)
        best = torch.where(ended, extended.scores + NEVER, extended.scores).topk(beams).indices
        active = extended.take(best)
        active.scores = active.scores + NEVER * ended.gather(1, best)
        complete = (lengths > 0).all(1, keepdim=True)
        reachable = active.scores[:, :1] / (step + 1) ** penalty
        better = reachable > finished.scores.amin(1, keepdim=True)
        improvable = improvable & (~complete | (better & (not options.early_stopping)))
        if ended.all() or not improvable.any():
            break
        source = (rows + origin.gather(1, best)).flatten()
        token = active.tokens[..., step].reshape(-1, 1)
        session.reorder(source)
        if seen is not None:
            seen = seen[source].scatter_(1, token, True)
        logits = session.read(token)
    if (lengths[:, :copies] == 0).any():
        raise ValueError(f"{' and '.join(task.processors.names())} allow fewer than num_return_sequences={copies} "
                         "texts: ask for fewer, or use more beams")  # fmt: skip
    length = int(lengths[:, :copies].max())
    log_probs = None if finished.log_probs is None else finished.log_probs[:, :copies, :length].flatten(0, 1)
    return finished.tokens[:, :copies, :length].flatten(0, 1), log_probs, finished.scores[:, :copies].flatten()


def check_beams(beams: int, config: Any) -> None:
    """Raises ValueError for more beams than the model has first tokens. config: that of the model."""
    part = config.part_of("decoder_input_ids") if hasattr(config, "part_of") else config
    vocabulary = getattr(part, "vocab_size", beams)
    if beams > vocabulary:
        raise ValueError(f"num_beams={beams}: expected at most {vocabulary}, the size of the vocabulary")


def extend(
    active: Beams, logits: Tensor, seen: Tensor | None, task: "GenerationTask", step: int, num_candidates: int
) -> tuple[Beams, Tensor]:
    """The best `num_candidates` texts with one more token, best first, and the beam each comes from [B, w]."""
    batch, beams = active.scores.shape
    gains = penalized(logits.float().log_softmax(-1), seen, task.sampling.repetition_penalty)
    if task.processors:
        gains = task.processors(active.tokens[..., :step].flatten(0, 1), gains)
    total = (gains.view(batch, beams, -1) + active.scores[..., None]).flatten(1)
    scores, place = total.topk(min(num_candidates, total.shape[1]))
    origin, token = place // gains.shape[-1], place % gains.shape[-1]
    tokens = picked(active.tokens, origin)
    tokens[..., step] = token
    log_probs = None if active.log_probs is None else picked(active.log_probs, origin)
    if log_probs is not None:
        log_probs[..., step] = gains.view(batch, -1).gather(1, place)
    return Beams(tokens, scores, log_probs), origin


def check_candidates(task: "GenerationTask", extended: Beams, lengths: Tensor, step: int) -> Tensor:
    """Whether each prompt has a text that may be continued [B, 1]. What continues an ended text gets the score -inf.

    Raises ValueError for a prompt without any text.
    """
    extended.scores = extended.scores.masked_fill(extended.scores <= NEVER / 2, -torch.inf)
    possible = extended.scores[:, :1] > -torch.inf
    if len(dead := (~possible & (lengths[:, :1] == 0)).nonzero()):
        raise task.processors.dead_end(int(dead[0, 0]), step)
    return possible


def add_finished(
    finished: Beams, lengths: Tensor, extended: Beams, ended: Tensor, improvable: Tensor, length: int, penalty: float
) -> tuple[Beams, Tensor]:
    """The finished texts [B, k] with those that end now, if they are among the k best candidates; the best k stay."""
    beams = finished.scores.shape[1]
    counts = ended & improvable
    counts[:, beams:] = False
    scores = torch.where(counts, extended.scores / length**penalty, NEVER)
    both = Beams(torch.cat([finished.tokens, extended.tokens], 1), torch.cat([finished.scores, scores], 1))
    if finished.log_probs is not None and extended.log_probs is not None:
        both.log_probs = torch.cat([finished.log_probs, extended.log_probs], 1)
    all_lengths = torch.cat([lengths, counts * length], 1)
    best = both.scores.topk(beams).indices
    return both.take(best), all_lengths.gather(1, best)
