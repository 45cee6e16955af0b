"""Speculative decoding (Leviathan et al. 2023): a draft proposes tokens, and the model checks several at a time.

A proposal x is accepted with probability min(1, p(x) / q(x)), where p and q are the distributions of the model and the
draft; at the first rejection, the token is sampled from max(p - q, 0) instead. The output has the distribution of
sampling from the model alone; in greedy decoding, one token has probability 1. Rows accept different numbers of tokens:
rejected tokens stay in the cache as padding, which is masked and takes no positions.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zoo.inference.generation.sampling import sample_from
from zoo.nn.kv_cache import State

if TYPE_CHECKING:
    from zoo.inference.generation.prompt import DecodingSession, GenerationTask, Prompt

NUM_PROPOSALS = 4  # tokens that the draft proposes per round


def speculate(task: "GenerationTask", draft: "Prompt") -> Tensor:
    """Generate the new tokens [rows, new], like `generate_tokens`."""
    prompt, sampling = task.prompt, task.sampling
    if task.stream.streamer is not None and prompt.rows > 1:
        raise ValueError(
            f"streamer= with draft= supports one row, given {prompt.rows}: pass one prompt, or omit one of the two"
        )
    model, scores = prompt.read()
    drafter, _ = draft.repeated(prompt.copies).read()
    for session in (model, drafter):
        check_can_crop(session)
    rows, room = prompt.rows, prompt.room
    tokens = prompt.ids.new_full((rows, room), task.fill)
    count = torch.zeros(rows, dtype=torch.long, device=tokens.device)  # new tokens of each row
    finished = torch.zeros(rows, dtype=torch.bool, device=tokens.device)
    seen = prompt.seen() if sampling.repetition_penalty != 1 else None
    new, accepted, read = sampling.choose(scores, seen, task.generator)[:, None], torch.zeros_like(count), 0
    while True:
        finished = append_tokens(tokens, count, finished, new, accepted, task)
        if finished.all():
            return tokens[:, : int(count.max())]
        for session in (model, drafter):
            retain(session, ~finished, accepted, read)
        if seen is not None:
            mark_seen(seen, new, accepted)
        num_proposals = min(NUM_PROPOSALS, int((room - count)[~finished].min()) - 1)
        new, accepted = propose_and_check(task, model, drafter, new.gather(1, accepted[:, None]), seen, num_proposals)
        read = num_proposals + 1


def check_can_crop(session: "DecodingSession") -> None:
    """Raises ValueError for kinds of attention whose cache cannot be cropped."""
    for layer in session.state:
        if type(layer.mixer).crop is State.crop:
            raise ValueError(
                f"{type(layer.mixer).__name__} is {layer.mixer.content}, from which rejected ones cannot be removed: "
                "draft= needs kinds of attention with a cache of keys and values"
            )


def propose_and_check(
    task: "GenerationTask",
    model: "DecodingSession",
    drafter: "DecodingSession",
    last: Tensor,
    seen: Tensor | None,
    num_proposals: int,
) -> tuple[Tensor, Tensor]:
    """Propose tokens and check them: tokens [rows, num_proposals + 1] and accepted [rows]; each row takes the first
    accepted + 1 tokens."""
    sampling, rows = task.sampling, len(last)
    proposals, draft_probabilities, known = [last], [], [seen]
    for _ in range(num_proposals):
        q = sampling.probabilities(drafter.read(proposals[-1]), known[-1])
        draft_probabilities.append(q)
        proposals.append(sample_from(q, task.generator)[:, None])
        known.append(None if seen is None else known[-1].scatter(1, proposals[-1], True))  # type: ignore[union-attr]
    drafter.read(proposals[-1])  # so that both have read the same tokens
    ids = torch.cat(proposals, 1)
    scores = model.read(ids, every=True)
    target_probabilities = [sampling.probabilities(scores[:, i], known[i]) for i in range(num_proposals + 1)]
    active = torch.ones(rows, dtype=torch.bool, device=ids.device)
    accepted = torch.zeros(rows, dtype=torch.long, device=ids.device)
    final = target_probabilities[0]
    for i, (p, q) in enumerate(zip(target_probabilities, draft_probabilities, strict=False)):
        token = ids[:, i + 1 : i + 2]
        uniform = torch.rand(rows, generator=task.generator, device=ids.device)
        accept = uniform * q.gather(1, token)[:, 0] < p.gather(1, token)[:, 0]
        rejected = active & ~accept
        residual = (p - q).clamp(min=0)
        final = torch.where(rejected[:, None], torch.where(residual.sum(1, keepdim=True) > 0, residual, p), final)
        active = active & accept
        accepted += active
        final = torch.where(active[:, None], target_probabilities[i + 1], final)
    chosen = sample_from(final, task.generator)
    new = torch.cat([ids[:, 1:], ids[:, :1]], 1)
    return new.scatter(1, accepted[:, None], chosen[:, None]), accepted


def append_tokens(
    tokens: Tensor, count: Tensor, finished: Tensor, new: Tensor, accepted: Tensor, task: "GenerationTask"
) -> Tensor:
    """Append the first accepted + 1 tokens of `new` to each unfinished row; returns which rows are finished."""
    for i in range(new.shape[1]):
        taken = ~finished & (i <= accepted)
        if not taken.any():
            break
        row = taken.nonzero()[:, 0]
        tokens[row, count[row]] = new[row, i]
        count += taken
        task.stream.put(new[:, i])
        ended = count >= tokens.shape[1]
        if task.stopping:
            for r in row.tolist():
                ended[r] |= bool(task.stopping(tokens[r : r + 1, : int(count[r])], r // task.prompt.copies)[0])
        finished = finished | (taken & ended)
    return finished


def mark_seen(seen: Tensor, new: Tensor, accepted: Tensor) -> None:
    """Mark the first accepted + 1 tokens of `new` as seen."""
    for i in range(new.shape[1]):
        here = (i <= accepted)[:, None]
        seen |= torch.zeros_like(seen).scatter(1, new[:, i : i + 1], True) & here


def retain(session: "DecodingSession", active: Tensor, accepted: Tensor, read: int) -> None:
    """Crop those of the last `read` columns that no row accepted; rejected tokens in the others become padding.

    All further columns of finished rows are padding, so that they take no more positions.
    """
    start = session.state.length - read
    kept = min(read, int(torch.where(active, accepted, 0).max()) + 1)
    if kept < read:
        session.state.crop(start + kept)
    if session.keep is None and bool(active.all()) and bool((accepted + 1 >= kept).all()):
        return
    before = active.new_ones(len(active), start) if session.keep is None else session.keep[:, :start]
    real = (torch.arange(kept, device=active.device) <= accepted[:, None]) & active[:, None]
    session.keep = torch.cat([before, real, active[:, None].expand(-1, NUM_PROPOSALS + 1)], 1)
