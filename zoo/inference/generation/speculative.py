"""Speculative decoding (Leviathan et al. 2023): a draft proposes tokens, the model checks several at a time.

A proposal x is accepted with probability min(1, p(x) / q(x)), p the model's and q the draft's distribution; at the
first that is not, the token comes from max(p - q, 0) instead. What comes out is distributed as if the model had drawn
it alone; greedy choices are the case where all probability is on one token. Rows accept different numbers of tokens:
what a row rejected stays in the memory as padding, which nobody sees and no position counts.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zoo.inference.generation.sampling import draw_from
from zoo.nn.kv_cache import State

if TYPE_CHECKING:
    from zoo.inference.generation.prompt import DecodingSession, GenerationTask, Prompt

AHEAD = 4  # tokens that the draft proposes at a time


def speculate(task: "GenerationTask", draft: "Prompt") -> Tensor:
    """[rows, new], as `roll` gives it."""
    prompt, sampling = task.prompt, task.sampling
    if task.stream.streamer is not None and prompt.rows > 1:
        raise ValueError(f"streamer= with draft= shows one row, {prompt.rows} were asked for")
    model, scores = prompt.read()
    helper, _ = draft.repeated(prompt.copies).read()
    for reader in (model, helper):
        refuse_sums(reader)
    rows, room = prompt.rows, prompt.room
    tokens = prompt.ids.new_full((rows, room), task.fill)
    count = torch.zeros(rows, dtype=torch.long, device=tokens.device)  # new tokens of each row
    over = torch.zeros(rows, dtype=torch.bool, device=tokens.device)
    seen = prompt.seen() if sampling.repetition_penalty != 1 else None
    new, accepted, read = sampling.choose(scores, seen, task.draw)[:, None], torch.zeros_like(count), 0
    while True:
        over = write(tokens, count, over, new, accepted, task)
        if over.all():
            return tokens[:, : int(count.max())]
        for reader in (model, helper):
            retain(reader, ~over, accepted, read)
        if seen is not None:
            mark(seen, new, accepted)
        ahead = min(AHEAD, int((room - count)[~over].min()) - 1)
        new, accepted = one_round(task, model, helper, new.gather(1, accepted[:, None]), seen, ahead)
        read = ahead + 1


def refuse_sums(reader: "DecodingSession") -> None:
    for layer in reader.state:
        if type(layer.mixer).crop is State.crop:
            raise ValueError(
                f"{type(layer.mixer).__name__} keeps a sum over all tokens and cannot forget rejected ones: draft= "
                "takes kinds of attention that keep keys and values"
            )


def one_round(
    task: "GenerationTask",
    model: "DecodingSession",
    helper: "DecodingSession",
    last: Tensor,
    seen: Tensor | None,
    ahead: int,
) -> tuple[Tensor, Tensor]:
    """Tokens [rows, ahead + 1], of which each row takes the first accepted + 1; and accepted [rows]."""
    sampling, rows = task.sampling, len(last)
    proposals, guesses, known = [last], [], [seen]
    for _ in range(ahead):
        q = sampling.probabilities(helper.read(proposals[-1]), known[-1])
        guesses.append(q)
        proposals.append(draw_from(q, task.draw)[:, None])
        known.append(None if seen is None else known[-1].scatter(1, proposals[-1], True))  # type: ignore[union-attr]
    helper.read(proposals[-1])  # so that both have read the same
    ids = torch.cat(proposals, 1)
    scores = model.read(ids, every=True)
    truths = [sampling.probabilities(scores[:, i], known[i]) for i in range(ahead + 1)]
    going = torch.ones(rows, dtype=torch.bool, device=ids.device)
    accepted = torch.zeros(rows, dtype=torch.long, device=ids.device)
    final = truths[0]
    for i, (p, q) in enumerate(zip(truths, guesses, strict=False)):
        token = ids[:, i + 1 : i + 2]
        chance = torch.rand(rows, generator=task.draw, device=ids.device)
        agreed = chance * q.gather(1, token)[:, 0] < p.gather(1, token)[:, 0]
        refused = going & ~agreed
        rest = (p - q).clamp(min=0)
        final = torch.where(refused[:, None], torch.where(rest.sum(1, keepdim=True) > 0, rest, p), final)
        going = going & agreed
        accepted += going
        final = torch.where(going[:, None], truths[i + 1], final)
    chosen = draw_from(final, task.draw)
    new = torch.cat([ids[:, 1:], ids[:, :1]], 1)
    return new.scatter(1, accepted[:, None], chosen[:, None]), accepted


def write(tokens: Tensor, count: Tensor, over: Tensor, new: Tensor, accepted: Tensor, task: "GenerationTask") -> Tensor:
    """Put the first accepted + 1 of `new` behind what each open row has; -> which rows are over now."""
    for i in range(new.shape[1]):
        taken = ~over & (i <= accepted)
        if not taken.any():
            break
        row = taken.nonzero()[:, 0]
        tokens[row, count[row]] = new[row, i]
        count += taken
        task.stream.put(new[:, i])
        ended = count >= tokens.shape[1]
        if task.ends:
            for r in row.tolist():
                ended[r] |= bool(task.ends(tokens[r : r + 1, : int(count[r])])[0])
        over = over | (taken & ended)
    return over


def mark(seen: Tensor, new: Tensor, accepted: Tensor) -> None:
    """Rows have now seen the first accepted + 1 of `new`."""
    for i in range(new.shape[1]):
        here = (i <= accepted)[:, None]
        seen |= torch.zeros_like(seen).scatter(1, new[:, i : i + 1], True) & here


def retain(reader: "DecodingSession", going: Tensor, accepted: Tensor, read: int) -> None:
    """Of the last `read` columns forget those that no row accepted; the others become padding where rejected.

    From here on all columns of rows that are over are padding, so that they take no more positions.
    """
    start = reader.state.length - read
    kept = min(read, int(torch.where(going, accepted, 0).max()) + 1)
    if kept < read:
        reader.state.crop(start + kept)
    if reader.keep is None and bool(going.all()) and bool((accepted + 1 >= kept).all()):
        return
    before = going.new_ones(len(going), start) if reader.keep is None else reader.keep[:, :start]
    real = (torch.arange(kept, device=going.device) <= accepted[:, None]) & going[:, None]
    reader.keep = torch.cat([before, real, going[:, None].expand(-1, AHEAD + 1)], 1)
