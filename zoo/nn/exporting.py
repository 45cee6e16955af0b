"""Whether a model is being exported, and recurrences in a graph that is for any number of tokens."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Step = Callable[..., tuple[Tensor, Tensor]]


def is_exporting() -> bool:
    """Whether `torch.export` traces, whose graph is for any number of rows and tokens.

    `torch.compiler.is_exporting` says so within `torch.compile` as well, before torch 2.12.
    """
    return bool(torch.compiler._is_exporting_flag)


def any_length(tokens: int | torch.SymInt) -> bool:
    """Whether a graph is traced in which this number of tokens can be any, so that it cannot have a step for each
    chunk of them."""
    return isinstance(tokens, torch.SymInt) and is_exporting()


def each_token(step: Step, inputs: Sequence[Tensor], start: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """(outputs of all tokens, the state after the last) of a recurrence, one token at a time.

    step(*inputs of one token, state) -> (output of this token, state after it); tokens are along `dim` in inputs and
    outputs, where those of one token have size 1. In a graph for any length this is one operation, Scan in ONNX.
    """
    tokens = inputs[0].shape[dim]
    if not any_length(tokens):
        if tokens == 1:
            return step(*inputs, start)
        state, outputs = start, []
        for token in zip(*(x.split(1, dim) for x in inputs), strict=True):
            y, state = step(*token, state)
            outputs.append(y)
        return torch.cat(outputs, dim), state
    from torch._higher_order_ops.scan import scan

    def body(state: Tensor, token: list[Tensor]) -> tuple[Tensor, Tensor]:
        y, state = step(*(x.unsqueeze(dim) for x in token), state)
        return state.clone(), y.squeeze(dim)  # a copy, since an output of a step may not share memory with its state

    end, outputs = scan(body, start.contiguous(), [x.movedim(dim, 0) for x in inputs])
    return outputs.movedim(0, dim), end
