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
from zoo.models.eval_mode import eval_mode
from zoo.nn.stack import Stack


class TopTokens(NamedTuple):
    """The likeliest tokens or classes [..., k], the best first, and their probabilities."""

    ids: Tensor
    probabilities: Tensor


def logit_lens(model: nn.Module, layers: Layers = "*", *, top: int | None = None, **batch: Any) -> dict[str, Any]:
    """The scores that a model would give if it ended after a block: {name of a block: [B, N, V]}.

    The residual stream after the block goes through the final norm and everything that follows it: the output layer of
    a text decoder or masked language model, the pooling and the head of a classifier ([B, C] then). The scores of the
    last block are the model's own. Earlier blocks have not been trained for this: their scores show what the output
    layer can read from the residual stream, not all that is in it.

    layers: blocks of the stack that runs last (the decoder of an encoder-decoder, the text of a model of images and
    text), as in `zoo.capture`. top: return `TopTokens` of that many tokens or classes instead of all scores, which take
    N x V numbers a layer. batch: the inputs of the model.

    The model is called in evaluation mode, without gradients: once, and then its embedding and head for each layer.
    Source: nostalgebraist 2020, "interpreting GPT: the logit lens".
    Raises ValueError for a model without a head, or whose output is not a tensor, and for layers that do not exist.
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
        name, target = runs.last(stacks, model)
        if not isinstance(output, Tensor) or not has_head(inner):
            raise ValueError(
                f"{type(inner).__name__} has no output layer that gives one tensor of scores: the logit lens needs a "
                "head, such as zoo.load(folder, head='lm')"
            )
        prefix = f"{name}." if name else ""
        numbers = {path: int(path.removeprefix(prefix)) for path, part in found if part in set(target)}
        if not numbers:
            raise ValueError(
                f"layers={layers!r} are blocks of another stack than the one that runs last: choose among "
                f"{shorten([f'{prefix}{i}' for i in range(len(target))])}"
            )
        scores: dict[str, Any] = {}
        for path, number in numbers.items():
            is_last = number == len(target) - 1
            y = output if is_last else with_stacks(model, stacks, runs.replay(target, number), batch)
            scores[path] = y if top is None else top_tokens(y, top)
    return scores


def has_head(model: nn.Module) -> bool:
    return any(getattr(part, "head", None) is not None for part in (model, getattr(model, "text", None)))


def top_tokens(scores: Tensor, count: int) -> TopTokens:
    """The likeliest entries of scores [..., V]."""
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

    def last(self, stacks: dict[str, Stack], model: nn.Module) -> tuple[str, Stack]:
        """The name of the stack that ran last, and the stack."""
        if not self.found:
            raise ValueError(f"{type(model).__name__} ran no stack of blocks of zoo.nn")
        stack = self.found[-1][0]
        return next(name for name, part in stacks.items() if part is stack), stack

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
