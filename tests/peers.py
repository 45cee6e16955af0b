"""Tiny models of other libraries, every parameter random, in folders on disk."""

import json
from pathlib import Path

import torch
from torch import Tensor, nn

TINY_TIMM = {"embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 7}
TINY_VIT = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "image_size": 32,
    "patch_size": 8, "num_labels": 7,
}  # fmt: skip
TINY_DINO = {name: value for name, value in TINY_VIT.items() if name != "intermediate_size"} | {"mlp_ratio": 2}


def randomize(model: nn.Module, seed: int = 0) -> nn.Module:
    """Values that no initialization has: fresh norms are 1 and biases 0, so swapped ones would pass."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=draw)
            gain = parameter.ndim == 1 and name.endswith("weight")
            parameter.copy_(1 + 0.2 * noise if gain else (0.15 if parameter.ndim > 1 else 0.2) * noise)
    return model.eval()


def timm_folder(folder: Path, name: str, **options) -> nn.Module:
    import timm
    from timm.models import save_for_hf

    model = randomize(timm.create_model(name, **TINY_TIMM | options))
    save_for_hf(model, folder, safe_serialization=True)
    return model


def transformers_folder(folder: Path, name: str, **options) -> nn.Module:
    import transformers

    cls = getattr(transformers, name)
    tiny = TINY_DINO if name.startswith("Dino") else TINY_VIT
    model = randomize(cls(cls.config_class(**tiny | options)))
    model.save_pretrained(folder)
    return model


def answer(model: nn.Module, pixels: Tensor) -> Tensor:
    """Logits, else the last hidden states."""
    with torch.no_grad():
        output = model(pixels)
    if isinstance(output, Tensor):
        return output
    return output.logits if hasattr(output, "logits") else output.last_hidden_state


def error(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return ((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1)).item()


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> None:
    """Assert that finite tensors of one shape are equal up to a relative tolerance."""
    assert a.shape == b.shape and a.isfinite().all()
    assert ((a - b).abs().max() / b.abs().max().clamp(min=1)).item() <= tolerance


def pixels(size=(32, 32), channels=3, rows=2, seed=1, dtype=torch.float32) -> Tensor:
    return torch.randn(rows, channels, *size, generator=torch.Generator().manual_seed(seed)).to(dtype)


def edit_json(file: Path, **changes) -> None:
    """Change keys of a JSON file; `...` as a value removes the key."""
    values = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({name: value for name, value in values.items() if value is not ...}))
