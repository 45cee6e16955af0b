"""AdamW and its parameter groups: weight decay, layer-wise learning rate decay, frozen parameters.

Groups are derived from module types and from the parameter names `blocks.N...` that all families share.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from zoo.utils.errors import did_you_mean

_BLOCK = re.compile(r"^(.*?)(?:^|(?<=\.))blocks\.(\d+)\.")
_ABOVE = re.compile(r"(?:^|\.)(?:head|blocks\.norm|fc_norm)(?:\.|$|_)|^norm\.")


def freeze(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Freeze parameters by name, prefix or glob; returns their names.

        freeze(model, ["patches", "blocks.0", "blocks.*.norm1.*"])

    Raises: ValueError for a pattern that matches no parameter, and if nothing is left to train.
    """
    parameters = dict(model.named_parameters())
    frozen = set()
    for pattern in patterns:
        matches = {n for n in parameters if n == pattern or n.startswith(pattern + ".") or fnmatchcase(n, pattern)}
        if not matches:
            prefixes = {n.rsplit(".", cut)[0] for n in parameters for cut in range(n.count(".") + 1)}
            raise ValueError(f"freeze: {pattern!r} matches no parameter{did_you_mean(pattern, sorted(prefixes))}")
        frozen |= matches
    if parameters and len(frozen) == len(parameters):
        raise ValueError(f"freeze={list(patterns)} leaves nothing to train")
    for name in frozen:
        parameters[name].requires_grad_(False)
    return sorted(frozen)


def param_groups(model: nn.Module, lr: float, weight_decay: float, layer_decay: float = 1.0,
                 scales: Mapping[str, float] | None = None) -> list[dict[str, Any]]:  # fmt: skip
    """Parameter groups of the trainable parameters, each with its `lr`, `weight_decay` and `name`.

    Weight matrices of linear and convolutional layers, and other matrices inside blocks, are decayed; norms, biases,
    layer scales, embeddings, tokens and positions are not, nor those that a module names in `no_weight_decay`. With
    `layer_decay` < 1 the learning rate falls by that factor from the head to the last block, from each block to the one
    below it, and from the first block to the stem.

    Args:
        scales: Factors of the learning rate by parameter, such as `mup_rates(model, base_width)`; others have 1. The
            weight decay is divided by them, so that a step still takes the same fraction of a weight away: with a
            constant weight decay the best one would depend on the width (Wang and Aitchison 2024).

    Source: layer-wise decay as in Bao et al. 2022 (BEiT), https://arxiv.org/abs/2106.08254, appendix; weight decay
    https://arxiv.org/abs/2405.13698.
    Raises: ValueError if no parameter is trainable, or for `layer_decay` without numbered blocks.
    """
    entries = [(name, value, owner) for name, value, owner in owned(model) if value.requires_grad]
    if not entries:
        raise ValueError(f"{type(model).__name__} has no trainable parameter")
    depths = _depths(name for name, _ in model.named_parameters())
    if layer_decay != 1.0 and not depths:
        raise ValueError(f"layer_decay={layer_decay}: {type(model).__name__} has no parameters named blocks.N...")
    groups: dict[tuple[int, bool, float], dict[str, Any]] = {}
    for name, value, owner in entries:
        below = _levels_below_head(name, depths) if layer_decay != 1.0 else 0
        decays = _decays(name, value, owner)
        scale = (scales or {}).get(name, 1.0)
        group = groups.setdefault((below, decays, -scale), {
            "name": f"{'decay' if decays else 'plain'}-{below}" + (f"-{scale:.4g}" if scale != 1 else ""), "params": [],
            "lr": lr * layer_decay**below * scale, "weight_decay": weight_decay / scale if decays else 0.0,
        })  # fmt: skip
        group["params"].append(value)
    return [groups[key] for key in sorted(groups)]


def adamw(
    groups: list[dict[str, Any]],
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    fused: bool = True,
    decoupled: bool = True,
) -> torch.optim.Adam:
    """AdamW with the fused kernel, which is faster than the default on CPUs too. Each group has its own `lr`.

    Use fused=False under fp16, where gradients have to be unscaled before they are clipped. decoupled=False adds the
    weight decay to the gradient, as Adam does (Loshchilov and Hutter 2019 compare both).
    """
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    optimizer = kind(groups, betas=betas, eps=eps, fused=fused)
    optimizer.register_load_state_dict_post_hook(shape_scalars)
    return optimizer


def shape_scalars(optimizer: torch.optim.Optimizer) -> None:
    """Give the state of scalar parameters their shape: FSDP2 has stored it as vectors of one value."""
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if parameter.ndim == 0 and value.shape == (1,):
                state[key] = value.reshape(())


def owned(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, nn.Module]]:
    """(name, parameter, module that owns it) for every parameter, each once."""
    seen = set()
    for prefix, module in model.named_modules():
        for name, value in module.named_parameters(prefix, recurse=False):
            if value not in seen:
                seen.add(value)
                yield name, value, module


def _decays(name: str, value: Tensor, owner: nn.Module) -> bool:
    if value.ndim < 2 or isinstance(owner, nn.Embedding):
        return False
    if name.rpartition(".")[2] in getattr(owner, "no_weight_decay", ()):
        return False
    return isinstance(owner, nn.Linear | nn.modules.conv._ConvNd) or _BLOCK.match(name) is not None


def _depths(names: Iterable[str]) -> dict[str, int]:
    """Number of blocks of each stack, by name prefix: `{"": 12}` or `{"encoder.": 6, "decoder.": 6}`."""
    depths: dict[str, int] = {}
    for found in filter(None, map(_BLOCK.match, names)):
        depths[found[1]] = max(depths.get(found[1], 0), int(found[2]) + 1)
    return depths


def _levels_below_head(name: str, depths: dict[str, int]) -> int:
    """0 for the head and the final norm, 1 for the last block, depth + 1 for the stem."""
    found = _BLOCK.match(name)
    if found:
        return depths[found[1]] - int(found[2])
    if _ABOVE.search(name):
        return 0
    stack = max((prefix for prefix in depths if name.startswith(prefix)), key=len, default=None)
    return (max(depths.values()) if stack is None else depths[stack]) + 1
