"""Attention maps weighted by gradients: which attention raises a score of the outputs.

    maps = gradient_maps(model, lambda logits: logits[0, 3, token], layers="decoder.*.cross", **batch)
    maps["decoder.blocks.0.cross"].mean(1)                     # [B, N, M]

Attention weights alone say how values are mixed, also those that the rest of the model ignores or that speak against
the score.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from zoo.interpret.hooks import eager_mode, replaced_method, unwrap
from zoo.interpret.select_layers import Layers, find_layers
from zoo.models.eval_mode import eval_mode
from zoo.nn.core import Core
from zoo.nn.sdpa import repeat_kv


def gradient_maps(
    model: nn.Module, score: Callable[[Any], Tensor], *, layers: Layers = "*", **batch: Any
) -> dict[str, Tensor]:
    """The attention weights times their gradients, where these are positive: {name: [B, H, N, M]}.

    score: a function of the model's output that returns one number, such as the logit of a class or of a token.
    layers: as in `zoo.capture`. batch: the inputs of the model, without padding.

    The model is called in evaluation mode, with explicit attention weights instead of fused kernels.
    Source: Chefer et al. 2021, equation 5 before the mean over heads, https://arxiv.org/abs/2103.15679.
    Raises ValueError for layers without attention weights, and for a score that is not one number.
    """
    weights: dict[str, Tensor] = {}
    with ExitStack() as stack:
        stack.enter_context(eager_mode())
        for name, attention in find_layers(unwrap(model), layers).found:
            stack.enter_context(explicit_weights(attention.core, name, weights))
        with eval_mode(model), torch.inference_mode(False), torch.enable_grad():
            total = score(model(**batch))
            if not isinstance(total, Tensor) or total.numel() != 1:
                raise ValueError(f"score gave {getattr(total, 'shape', type(total).__name__)}: expected one number")
            found = torch.autograd.grad(total, list(weights.values()), allow_unused=True)
    return {
        name: torch.zeros_like(w) if gradient is None else (w * gradient).relu().detach()
        for (name, w), gradient in zip(weights.items(), found, strict=True)
    }


def explicit_weights(core: Core, name: str, weights: dict[str, Tensor]) -> AbstractContextManager[None]:
    """Context in which a core, in this thread, multiplies its attention weights with the values, and keeps the weights
    under `name`."""

    def forward(
        inner: Any, q: Tensor, k: Tensor, v: Tensor, mask: Any = None, bias: Any = None, *gates: Tensor, **extra: Any
    ) -> Tensor:
        if name in weights:
            raise ValueError(f"{name} runs several times in one call: pass a batch without padding, in one piece")
        if extra:
            raise ValueError(f"{name} has global tokens, whose weights multiply values of their own: expected a method "
                             "without gradients of attention, or layers without global tokens")  # fmt: skip
        found = core.maps(q, k, mask, bias, *gates).to(v.dtype)
        weights[name] = found if found.requires_grad else found.requires_grad_()
        return found @ repeat_kv(v, q.shape[1])

    return replaced_method(core, "forward", forward)
