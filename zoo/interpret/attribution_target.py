"""Which number of a model's output is explained: the score of a class, of a token at a position, or a similarity."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import index
from typing import Any

import torch
from torch import Tensor

from zoo.inference.probabilities import activated
from zoo.interpret.answer_spans import answer_spans
from zoo.interpret.scored_inputs import ScoredInputs, tokenizer_of
from zoo.interpret.token_texts import token_texts
from zoo.models.contrast.model import ContrastiveOutput
from zoo.models.encoder_decoder import EncoderDecoder


@dataclass(frozen=True, eq=False)
class Target:
    """The classes [B] of outputs [B, C], or at `positions` [B] of outputs [B, N, C]; both None for similarities.

    Of an answer they are its tokens and their places [B, A], and the score is the sum over these; -1 stands behind
    shorter answers. With head="qa" they are the two outputs, for the first and the last token, at these tokens, which
    are chosen `among` [B, N]. labels: their names.
    """

    classes: Tensor | None
    positions: Tensor | None
    labels: list[str]
    among: Tensor | None = None

    def scores(self, output: Any, rows: Tensor) -> Tensor:
        """The scores [R] (logits, or similarities times their scale) in the output of some rows [R]."""
        if self.classes is None:
            scores: Tensor = output.logit_scale * similarities(output)
            return scores if output.logit_bias is None else scores + output.logit_bias
        classes, found = self.classes[rows], self.of_rows(output, rows)
        chosen = found.gather(-1, classes.clamp(min=0)[..., None])[..., 0]
        return chosen if classes.ndim == 1 else chosen.masked_fill(classes < 0, 0.0).sum(1)

    def probabilities(self, model: Any, output: Any, rows: Tensor, there: Tensor | None = None) -> Tensor:
        """The probabilities [R], float32: the values of a regression, and cosine similarities, as they are.

        Of an answer of several tokens it is the geometric mean of theirs; with head="qa" that of the first token times
        that of the last. there [R, N]: the tokens that the model reads, None for all.
        """
        if self.classes is None:
            return similarities(output).float()
        classes = self.classes[rows]
        if self.among is not None:
            among = self.among[rows] if there is None else self.among[rows] & there
            logs = output.float().masked_fill(~among[..., None], -torch.inf).log_softmax(1)
            return self.of_rows(logs, rows).gather(-1, classes[..., None]).sum((1, 2)).exp()
        found = self.of_rows(output, rows).float()
        if classes.ndim == 1:
            found = activated(model, found) if model.config.head == "classify" else found.softmax(-1)
            return found.gather(1, classes[:, None])[:, 0]
        logs = found.log_softmax(-1).gather(-1, classes.clamp(min=0)[..., None])[..., 0]
        return (logs * self.weights(rows)).sum(1).exp()

    def weights(self, rows: Tensor) -> Tensor:
        """The equal shares [R, A] of the tokens of an answer, or of the only one."""
        assert self.classes is not None
        real = (self.classes[rows].view(len(rows), -1) >= 0).float()
        return real / real.sum(1, keepdim=True)

    def of_rows(self, output: Tensor, rows: Tensor) -> Tensor:
        """The outputs [R, C] of the classes, or [R, A, C] of an answer."""
        if self.positions is None:
            return output
        positions = self.positions[rows]
        line = torch.arange(len(output), device=output.device)
        return output[line if positions.ndim == 1 else line[:, None], positions]


def similarities(output: ContrastiveOutput) -> Tensor:
    """The cosine similarity [R] of the two inputs of each row."""
    one, other = (output.features(name) for name in output.present)
    return (one * other).sum(-1)


def find_target(inputs: ScoredInputs, target: Any, batch_size: int) -> Target:
    """The target of each row.

    Args:
        inputs: The inputs.
        target: A class by its number or name, or (position, class) for outputs at every token, where a position may be
            negative; with head="qa" an answer by its text or (first, last) token; a list of these, one for each row.
            None: the class, token or answer with the highest score, after the last token of a language model, and at
            the mask of a masked one.
        batch_size: Rows that are computed at once.

    Raises: ValueError for a target that the model does not have.
    """
    several = isinstance(target, list) or (isinstance(target, Tensor) and target.ndim > 0)
    given = list(target) if several else [target] * inputs.rows
    if len(given) != inputs.rows:
        raise ValueError(f"{len(given)} targets for {inputs.rows} rows: expected one for each")
    every = torch.arange(inputs.rows, device=inputs.model.device)
    found = [target_of_rows(inputs, rows, [given[row] for row in rows.tolist()]) for rows in every.split(batch_size)]
    classes = [one.classes for one in found if one.classes is not None]
    positions = [one.positions for one in found if one.positions is not None]
    among = [one.among for one in found if one.among is not None]
    return Target(
        torch.cat(classes) if classes else None,
        torch.cat(positions) if positions else None,
        [label for one in found for label in one.labels],
        torch.cat(among) if among else None,
    )


def target_of_rows(inputs: ScoredInputs, rows: Tensor, given: Sequence[Any]) -> Target:
    """The target of some rows [R], for what was given for each of them."""
    with torch.no_grad():
        output = inputs.run(rows)
    if isinstance(output, ContrastiveOutput):
        if any(one is not None for one in given):
            raise ValueError(
                f"target={given[0]!r}: the score of a contrastive model is the similarity of its inputs; omit it"
            )
        first, second = output.present
        return Target(None, None, [f"similarity of {first} and {second}"] * len(rows))
    head = inputs.model.config.head
    if head == "qa":
        spans, among, names = answer_spans(inputs, rows, given, output)
        return Target(torch.arange(2, device=rows.device).expand_as(spans), spans, names, among)
    if not isinstance(output, Tensor) or head in (None, "pool") or output.ndim not in (2, 3):
        raise ValueError(f"the model has head={head!r}: expected scores of classes or tokens (head='classify', "
                         "'token', 'qa', 'ctc', 'lm' or 'masked_lm') or a contrastive model")  # fmt: skip
    pairs = [one if isinstance(one, tuple) and len(one) == 2 else (None, one) for one in given]
    positions = None
    if output.ndim == 3:
        places = [position_of(inputs, head, row, pair[0], output) for row, pair in zip(rows.tolist(), pairs)]
        positions = torch.stack(places)
        output = output[torch.arange(len(rows), device=rows.device), positions]
    elif any(pair[0] is not None for pair in pairs):
        raise ValueError(f"target={given[0]!r}: the model has one output for each input, so its target is a class")
    if output.shape[1] == 1:
        pairs = [(None, 0 if one is None else one) for _, one in pairs]
    elif head == "classify" and inputs.model.config.resolved_problem_type == "regression" and (None, None) in pairs:
        raise ValueError(f"a regression of {output.shape[1]} values needs target=, the number of one")
    classes = [class_of(inputs.model, one, scores) for (_, one), scores in zip(pairs, output)]
    return Target(rows.new_tensor(classes), positions, [name_of(inputs.model, number) for number in classes])


def position_of(inputs: ScoredInputs, head: str, row: int, position: Any, output: Tensor) -> Tensor:
    """The position of the output that is explained, as a tensor of one number."""
    tokens = list(inputs.parts.values())[-1]
    if position is not None:
        if type(position) is not int or not -output.shape[1] <= position < output.shape[1]:
            raise ValueError(f"target: position {position!r} is out of range: row {row} has {output.shape[1]} outputs")
        found = torch.tensor(position % output.shape[1], device=output.device)
        if tokens.keep.shape[1] == output.shape[1] and not bool(tokens.keep[row, found]):
            raise ValueError(f"target: position {position} of row {row} is padding")
        return found
    if head == "lm":
        return tokens.keep[row].nonzero()[-1, 0]
    tokenizer = tokenizer_of(inputs.model)
    mask = None if tokenizer is None or head != "masked_lm" else tokenizer.id("mask")
    if mask is None:
        raise ValueError(f"a model with head={head!r} has outputs at every token: expected target=(position, class)")
    places = (inputs.batch[tokens.key][row] == mask).nonzero()
    if len(places) != 1:
        raise ValueError(f"row {row} has {len(places)} mask tokens: expected one, or target=(position, token)")
    return places[0, 0]


def class_of(model: Any, target: Any, scores: Tensor) -> int:
    """The number of a class or token. Raises ValueError if it is out of range or not known."""
    if target is None:
        return int(scores.argmax())
    if isinstance(target, str):
        if model.config.head in ("lm", "masked_lm", "ctc"):
            return token_of(model, target)
        if target not in (model.labels or []):
            names = ", ".join(map(repr, (model.labels or [])[:8])) or "none, so give its number"
            raise ValueError(f"target={target!r} is not a class of the model: its names are {names}")
        return int(model.labels.index(target))
    try:
        number = index(target)
    except TypeError:
        number = -1
    if isinstance(target, bool) or not 0 <= number < len(scores):
        raise ValueError(f"target={target!r} is out of range: expected a class from 0 to {len(scores) - 1}")
    return number


def token_of(model: Any, text: str) -> int:
    """The only token of a text. Raises ValueError for several."""
    processor = tokenizer_of(model)
    if processor is None:
        raise ValueError(f"target={text!r}: the model has no tokenizer; give the number of a token")
    if (whole := processor.backend.token_to_id(text)) is not None:
        return int(whole)
    source = processor.for_targets() if isinstance(model, EncoderDecoder) else processor
    ids: Sequence[int] = source.backend.encode(text, add_special_tokens=False).ids
    if len(ids) != 1:
        raise ValueError(f"target={text!r} has {len(ids)} tokens: expected one, of which the score is explained")
    return ids[0]


def name_of(model: Any, number: int) -> str:
    """The name of a class or the text of a token."""
    if model.config.head in ("lm", "masked_lm"):
        processor = tokenizer_of(model)
        return str(number) if processor is None else token_texts(processor, [number])[0]
    return str(number) if model.labels is None or number >= len(model.labels) else model.labels[number]
