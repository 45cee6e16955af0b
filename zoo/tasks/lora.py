"""LoRA adapters through `peft`, injected in place: the model keeps its class."""

from collections.abc import Sequence

import torch
from torch import nn

TARGETS = ("q", "v")


def add_lora(model: nn.Module, rank: int = 8, *, alpha: float = 16.0, dropout: float = 0.0,
             targets: Sequence[str] = TARGETS, seed: int = 0) -> None:  # fmt: skip
    """Add LoRA adapters to the linear layers named in `targets`; freeze all other parameters except the head.

    Source: Hu et al. 2021, https://arxiv.org/abs/2106.09685.
    Raises: ValueError if `peft` is not installed, or no linear layer has such a name.
    """
    names = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    if missing := sorted(set(targets) - names):
        raise ValueError(
            f"lora.targets: no linear layer is named {missing[0]!r}; the model has {', '.join(sorted(names))}"
        )
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ModuleNotFoundError:
        raise ValueError(f"lora.rank={rank} needs peft: pip install 'attention-zoo[lora]'") from None
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(targets))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name or name.startswith("head."))


def lora_scale(model: nn.Module) -> float | None:
    """The factor of the adapters' products, alpha / rank, which is not among the weights; None without adapters."""
    scales = (module.scaling for module in model.modules() if hasattr(module, "lora_A") and hasattr(module, "scaling"))
    return next((float(factor) for scaling in scales for factor in scaling.values()), None)  # type: ignore[operator]


def merge_lora(model: nn.Module) -> nn.Module:
    """Merge LoRA adapters into the layers they belong to, in place; the result is a plain model."""
    if not any(".lora_" in name for name, _ in model.named_parameters()):
        return model
    from peft.tuners.tuners_utils import BaseTunerLayer

    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, BaseTunerLayer):
                child.merge()
                setattr(parent, name, child.get_base_layer())
    return model
