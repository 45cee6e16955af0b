"""LoRA adapters through `peft`, injected in place: the model keeps its class."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from zoo.models.towers import TowersModel

TARGETS = ("q", "v")


def add_lora(model: nn.Module, rank: int = 8, *, alpha: float = 16.0, dropout: float = 0.0,
             targets: Sequence[str] = TARGETS, seed: int = 0) -> None:  # fmt: skip
    """Add LoRA adapters to the linear layers named in `targets`; freeze all other parameters except the head.

    targets: names of layers, "q", or those within a part of the model, "text.q", "connector.up".

    In a model of several towers (a bridge such as LLaVA, CLIP) what joins them is trained whole, as a head is, and
    names without a part are those of towers that are not locked. With targets of its own, "connector.up", a part that
    joins towers is frozen like the rest.

    Source: Hu et al. 2021, https://arxiv.org/abs/2106.09685.
    Raises: ValueError if `peft` is not installed, or no linear layer has such a name.
    """
    found = adapted_layers(model, targets)
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ModuleNotFoundError:
        raise ValueError(f"lora.rank={rank} needs peft: pip install 'attention-zoo[lora]'") from None
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=found)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model)
    trained = (
        "head.",
        *(f"{part}." for part in joining_parts(model) if not any(f"{n}.".startswith(f"{part}.") for n in found)),
    )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name or f"{name}.".startswith(trained))


def adapted_layers(model: nn.Module, targets: Sequence[str]) -> list[str]:
    """The full names of the linear layers that `targets` name. Raises ValueError for a target that no layer has."""
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    locked = getattr(model, "locked", {})
    apart = tuple(f"{part}." for part in (*joining_parts(model), *locked))
    found: dict[str, None] = {}
    for target in targets:
        part, _, last = target.rpartition(".")
        named = [name for name in linear if name.rpartition(".")[2] == last]
        own = (
            [n for n in named if n.startswith(f"{part}.")]
            if part
            else [n for n in named if not f"{n}.".startswith(apart)]
        )
        if not own:
            inside = [name for name in linear if name.startswith(f"{part}.")] if part else linear
            names = ", ".join(sorted({name.rpartition(".")[2] for name in inside}))
            where = f"{part!r} has {names or 'none'}" if part else f"the model has {names}"
            towers = f" ({', '.join(locked)} is locked: name it, such as {next(iter(locked))}.{last})" if locked else ""
            raise ValueError(f"lora.targets: no linear layer is named {target!r}; {where}{towers}")
        found |= dict.fromkeys(own)
    return list(found)


def joining_parts(model: nn.Module) -> list[str]:
    """The names of what a model of several towers has beside them; none of other models."""
    if not isinstance(model, TowersModel):
        return []
    own = [*(name for name, _ in model.named_children()), *(name for name, _ in model.named_parameters(recurse=False))]
    return [name for name in own if name not in model.modalities]


def lora_scale(model: nn.Module) -> float | None:
    """The factor of the adapters' products, alpha / rank, which is not among the weights; None without adapters."""
    scales = (module.scaling for module in model.modules() if hasattr(module, "lora_A") and hasattr(module, "scaling"))
    return next((float(factor) for scaling in scales for factor in scaling.values()), None)  # type: ignore[operator]


def without_adapters(model: nn.Module) -> nn.Module:
    """A model with the same tensors but for its LoRA adapters, which are not merged; itself if it has none."""
    if not any(".lora_" in name for name, _ in model.named_parameters()):
        return model
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    plain = copy.deepcopy(model, shared)
    _replace_adapted(plain, merge=False)
    return plain


def merge_lora(model: nn.Module) -> nn.Module:
    """Merge LoRA adapters into the layers they belong to, in place; the result is a plain model."""
    if not any(".lora_" in name for name, _ in model.named_parameters()):
        return model
    _replace_adapted(model, merge=True)
    return model


def _replace_adapted(model: nn.Module, *, merge: bool) -> None:
    from peft.tuners.tuners_utils import BaseTunerLayer

    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, BaseTunerLayer):
                if merge:
                    child.merge()
                setattr(parent, name, child.get_base_layer())
