"""From the scores of tokens as start and end of an answer to the best answers over all windows of a context."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tokenizers import Encoding

MAX_ANSWER_TOKENS = 30


class Answer(NamedTuple):
    """An answer: the context from character `start` to `end`. Empty, at 0, if the context does not have it."""

    answer: str
    probability: float
    start: int
    end: int


def answers_of(
    context: str,
    windows: Sequence["Encoding"],
    scores: Sequence[Tensor],
    top_k: int = 5,
    *,
    handle_impossible_answer: bool = False,
    max_tokens: int = MAX_ANSWER_TOKENS,
) -> list[Answer]:
    """The `top_k` most probable answers, best first, each place of the context at most once.

    The probability of an answer is that of its start times that of its end, each over the tokens of the context in all
    windows and the first token of each, which stands for no answer. Without windows that overlap these are the numbers
    of the question answering pipeline of transformers 4.

    Args:
        context: The context.
        windows: The windows of (question, context), from `encode_windows`.
        scores: Of each window, [N, 2]: logits of a token as start and as end of the answer.
        top_k: Number of answers.
        handle_impossible_answer: Whether the empty answer, that the context does not have it, is among them.
        max_tokens: The longest answer.
    """
    masks = [torch.tensor([part == 1 for part in window.sequence_ids]) for window in windows]
    with_null = [mask.clone().index_fill_(0, torch.tensor([0]), True) for mask in masks]
    kept = torch.cat([rows.double()[mask] for rows, mask in zip(scores, with_null)])
    total = float(kept.logsumexp(0).sum())
    found: dict[tuple[int, int], float] = {}
    for window, rows, mask in zip(windows, scores, masks):
        places = mask.nonzero()[:, 0]
        for value, first, last in best_spans(rows.double(), places, 4 * top_k, max_tokens):
            span = _stripped(context, window.offsets[first][0], window.offsets[last][1])
            found[span] = max(value, found.get(span, value))
    if handle_impossible_answer:
        found[0, 0] = min(float(rows[0].double().sum()) for rows in scores)
    best_first = sorted(found, key=lambda span: (-found[span], span))[:top_k]
    probabilities = torch.tensor([found[span] - total for span in best_first], dtype=torch.float64).exp().tolist()
    return [Answer(context[a:b], p, a, b) for (a, b), p in zip(best_first, probabilities)]


def best_spans(rows: Tensor, places: Tensor, count: int, max_tokens: int) -> list[tuple[float, int, int]]:
    """The best spans of a window, [(sum of the logits, first token, last token), ...], best first.

    Args:
        rows: Logits [N, 2] as start and end.
        places: The tokens of the context, int64 [K], of which spans consist.
        count: The number of spans.
        max_tokens: The longest span.
    """
    starts, ends = rows[places].unbind(1)
    sums = starts[:, None] + ends
    spans = torch.ones_like(sums, dtype=torch.bool).triu().tril(max_tokens - 1)
    best = sums.masked_fill(~spans, -torch.inf).flatten().topk(min(count, int(spans.sum())))
    pairs = [divmod(index, len(places)) for index in best.indices.tolist()]
    return [(value, int(places[i]), int(places[j])) for value, (i, j) in zip(best.values.tolist(), pairs)]


def _stripped(context: str, start: int, end: int) -> tuple[int, int]:
    """A span without the blanks at its ends."""
    text = context[start:end]
    return start + len(text) - len(text.lstrip()), end - (len(text) - len(text.rstrip()))
