"""Which tokens of a text are the answer, for the attribution of models with head="qa"."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.inference.question_answering import MAX_ANSWER_TOKENS, best_spans
from zoo.interpret.scored_inputs import Part, ScoredInputs, tokenizer_of


def answer_spans(
    inputs: ScoredInputs, rows: Tensor, given: Sequence[Any], output: Tensor
) -> tuple[Tensor, Tensor, list[str]]:
    """(first and last token [R, 2], the tokens among which these are chosen bool [R, N], texts) of answers.

    The tokens are those of the context, the words behind the last separator, and the first of the row, which stands for
    no answer, as in `zoo.predict`.

    given: for each row an answer by its text or by (first, last) token; None: the most probable one. output: logits of
    each token as first and as last one [R, N, 2].

    Raises: ValueError for an answer that the context does not have.
    """
    part = list(inputs.parts.values())[-1]
    spans, among, names = [], torch.zeros(output.shape[:2], dtype=torch.bool, device=output.device), []
    for place, (row, answer) in enumerate(zip(rows.tolist(), given, strict=True)):
        context = context_of(part, row)
        if answer is None:
            _, first, last = best_spans(output[place].double().cpu(), context, 1, MAX_ANSWER_TOKENS)[0]
        else:
            first, last = span_of(inputs, part, row, answer, context)
        among[place, context] = True
        among[place, part.keep[row].long().argmax()] = True
        spans.append((first, last))
        names.append(answer if isinstance(answer, str) else text_of(inputs, part, row, first, last))
    return rows.new_tensor(spans), among, names


def context_of(part: Part, row: int) -> Tensor:
    """The numbers [K] of the tokens behind the last separator. Raises ValueError if there are none."""
    free = part.free[row].cpu()
    if not bool(free.any()):
        raise ValueError(f"row {row} has no words: expected a pair (question, context)")
    last = int(free.nonzero()[-1])
    before = (~free[:last]).nonzero()
    return torch.arange(int(before[-1]) + 1 if len(before) else 0, last + 1)


def span_of(inputs: ScoredInputs, part: Part, row: int, answer: Any, context: Tensor) -> tuple[int, int]:
    """The first and last token of an answer in the context. Raises ValueError if it is not there."""
    low, high = int(context[0]), int(context[-1])
    if isinstance(answer, tuple) and len(answer) == 2 and all(type(x) is int for x in answer):
        if not low <= answer[0] <= answer[1] <= high:
            raise ValueError(f"target={answer}: expected (first, last) token of an answer in the context of row {row}, "
                             f"from {low} to {high}")  # fmt: skip
        return answer
    tokenizer = tokenizer_of(inputs.model)
    if not isinstance(answer, str) or tokenizer is None:
        hint = "" if tokenizer is not None else "; the model has no tokenizer for a text"
        raise ValueError(f"target={answer!r}: expected an answer as it stands in the context, or (first, last) "
                         f"token{hint}")  # fmt: skip
    ids = inputs.batch[part.key][row].tolist()
    for text in (answer, f" {answer}"):  # byte-pair tokens begin with the blank before a word
        own: list[int] = tokenizer.backend.encode(text, add_special_tokens=False).ids
        for first in range(low, high - len(own) + 2):
            if own and ids[first : first + len(own)] == own:
                return first, first + len(own) - 1
    raise ValueError(f"target={answer!r} is not among the words of the context of row {row}: expected words as they "
                     "stand there, or (first, last) token")  # fmt: skip


def text_of(inputs: ScoredInputs, part: Part, row: int, first: int, last: int) -> str:
    """The text of tokens, or their numbers without a tokenizer."""
    tokenizer = tokenizer_of(inputs.model)
    if tokenizer is None:
        return f"tokens {first} to {last}"
    return tokenizer.decode(inputs.batch[part.key][row, first : last + 1].tolist()).strip()
