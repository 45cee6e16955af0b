"""The logit lens: what a model would say if it ended after an earlier block.

scores = zoo.logit_lens(model, **model.preprocess("The capital of France is"))
scores["blocks.5"].argmax(-1)                               # [B, N], the likeliest tokens after block 5
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from zoo.interpret.hooks import check_model, eager_mode, replaced_method, unwrap
from zoo.interpret.select_layers import Layers, find_places, shorten
from zoo.models.coca.config import CoCaOutput
from zoo.models.contrast.model import ContrastiveOutput
from zoo.models.dalle.model import TextAndImageLogits
from zoo.models.eval_mode import eval_mode
from zoo.nn.stack import Stack


class TopTokens(NamedTuple):
    """The likeliest tokens or classes [..., k], the best first, and their probabilities."""

    ids: Tensor
    probabilities: Tensor


def logit_lens(model: nn.Module, layers: Layers = "*", *, top: int | None = None, **batch: Any) -> dict[str, Any]:
    """The scores that a model would give if it ended after a block: {name of a block: scores}.

    The residual stream after the block goes through the final norm and everything that follows it. The scores are

    - [B, N, V] of the tokens of a text decoder, masked language model or encoder-decoder, and of MaskGIT's image;
    - [B, C] of a classifier, whose pooling and head follow;
    - {"text": [B, N, V], "image": [B, n, V]} of DALL-E, with the vocabulary that each of its two output layers has;
    - [A, B] of a contrastive model with two inputs, for a block of either tower: the scaled similarity of its A items
      with the B items of the other tower, as both towers end. Of CoCa this holds for the blocks of its encoder and of
      its text tower, and those of its decoder give the scores of the caption [B, N, V].

    The scores of the last block are the model's own. Earlier blocks have not been trained for this: their scores show
    what the output layer can read from the residual stream, not all that is in it.

    layers: blocks of the stack that runs last (the decoder of an encoder-decoder, the text of a model of images and
    text) or of the towers of a contrastive model, as in `zoo.capture`. top: return `TopTokens` of that many tokens,
    classes or items instead of all scores, which take N x V numbers a layer. batch: the inputs of the model.

    The model is called in evaluation mode, without gradients: once, and then its embedding and head for each layer.
    Source: nostalgebraist 2020, "interpreting GPT: the logit lens".
    Raises ValueError for a model without a head, or whose output is not scores, for a contrastive model without two
    inputs, and for layers that do not exist.
    """
    check_model(model)
    if top is not None and (isinstance(top, bool) or not isinstance(top, int) or top < 1):
        raise ValueError(f"top={top!r}: expected a positive number of tokens, or None for all scores")
    inner = unwrap(model)
    stacks = {name: part for name, part in inner.named_modules() if isinstance(part, Stack)}
    found = find_places(inner, layers, "residual").found
    runs = Runs()
    with eager_mode(), eval_mode(model), torch.no_grad():
        output = with_stacks(model, stacks, runs.record, batch)
        check_output(inner, output)
        targets = runs.targets(stacks, inner, isinstance(output, ContrastiveOutput))
        blocks = {id(part): (name, number) for name, stack in targets.items() for number, part in enumerate(stack)}
        places = {path: blocks[id(part)] for path, part in found if id(part) in blocks}
        if not places:
            names = [f"{name}.{i}".removeprefix(".") for name, stack in targets.items() for i in range(len(stack))]
            raise ValueError(
                f"layers={layers!r} are blocks of another stack than the one that runs last: choose among "
                f"{shorten(names)}"
            )
        scores: dict[str, Any] = {}
        for path, (name, number) in places.items():
            is_last = number == len(targets[name]) - 1
            y = output if is_last else with_stacks(model, stacks, runs.replay(targets[name], number), batch)
            read = scores_of(y, name)
            scores[path] = read if top is None else top_tokens(read, top)
    return scores


def check_output(model: nn.Module, output: Any) -> None:
    """Raise ValueError for an output that has no scores."""
    name, head = type(model).__name__, getattr(getattr(model, "config", None), "head", None)
    if isinstance(output, ContrastiveOutput):
        if len(output.present) != 2:
            raise ValueError(
                f"the lens of {name} is the similarity of two inputs, given {' and '.join(output.present)}: give a "
                "batch of two, such as images with the texts to compare them with"
            )
    elif not isinstance(output, Tensor | TextAndImageLogits) or not has_head(model):
        raise ValueError(
            f"{name} has no output layer that gives scores of tokens or classes: the logit lens needs a head, such as "
            "zoo.load(folder, head='lm')"
        )
    elif head == "pool":
        raise ValueError(
            f"{name} with head='pool' gives an embedding, which has no scores: load it with another head, such as "
            "head='masked_lm', or as a tower of zoo.contrast"
        )


def has_head(model: nn.Module) -> bool:
    return any(getattr(part, "head", None) is not None for part in (model, getattr(model, "text", None)))


def scores_of(output: Any, stack: str) -> Any:
    """What the lens reads of an output, for a block of the stack of this name."""
    if isinstance(output, TextAndImageLogits):
        return dict(vars(output))
    if not isinstance(output, ContrastiveOutput):
        return output
    tower = stack.partition(".")[0]
    if isinstance(output, CoCaOutput) and tower == "decoder":
        return output.caption_logits
    of = "image" if tower == "encoder" else tower
    (to,) = (name for name in output.present if name != of)
    return output.logits(of, to)


def top_tokens(scores: Any, count: int) -> Any:
    """The likeliest entries of scores [..., V], or of each of several vocabularies in a dict."""
    if isinstance(scores, dict):
        return {name: top_tokens(each, count) for name, each in scores.items()}
    found = scores.float().softmax(-1).topk(min(count, scores.shape[-1]), -1)
    return TopTokens(found.indices, found.values)


def with_stacks(
    model: nn.Module, stacks: dict[str, Stack], forward: Callable[[Stack], Callable[..., Any]], batch: dict[str, Any]
) -> Any:
    """The output of a model whose stacks compute `forward(stack)(inner, ...)`."""
    with ExitStack() as contexts:
        for stack in stacks.values():
            contexts.enter_context(replaced_method(stack, "forward", forward(stack)))
        return model(**batch)


@dataclass
class Runs:
    """What the stacks of a model returned in one forward pass: the hidden states, and the outputs of their blocks."""

    found: list[tuple[Stack, Tensor, list[Tensor], Tensor | None]] = field(default_factory=list)

    def record(self, stack: Stack) -> Callable[..., Any]:
        """A forward that also notes what the blocks return."""

        def forward(inner: Callable[..., Any], *args: Any, layers: Sequence[int] | None = None, **options: Any) -> Any:
            y, outputs = inner(*args, layers=range(len(stack)), **options)
            self.found.append((stack, y, outputs, options.get("keep")))
            return y if layers is None else (y, [outputs[i] for i in layers])

        return forward

    def targets(self, stacks: dict[str, Stack], model: nn.Module, every: bool) -> dict[str, Stack]:
        """The stack that ran last, by its name; every: all that ran."""
        if not self.found:
            raise ValueError(f"{type(model).__name__} ran no stack of blocks of zoo.nn")
        ran = [stack for stack, *_ in self.found]
        chosen = ran if every else ran[-1:]
        return {name: part for name, part in stacks.items() if any(part is stack for stack in chosen)}

    def replay(self, target: Stack, number: int) -> Callable[[Stack], Callable[..., Any]]:
        """A forward that returns what was noted, for `target` as if it ended after block `number`."""
        rest = iter(self.found)

        def forward(inner: Callable[..., Any], *args: Any, layers: Sequence[int] | None = None, **options: Any) -> Any:
            stack, y, outputs, keep = next(rest)
            if stack is target:
                y = outputs[number] if stack.norm is None else stack.norm(outputs[number])
                y = y if keep is None else y * keep[..., None]
            return y if layers is None else (y, [outputs[i] for i in layers])

        return lambda stack: forward
