"""dalle-pytorch's DALL-E, every parameter random, in files as its training script writes them."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from peers import randomize
from torch import Tensor, nn

VAE = dict(image_size=16, num_tokens=20, codebook_dim=8, num_layers=2, hidden_dim=8)
HPARAMS = dict(
    num_text_tokens=30, text_seq_len=6, dim=32, depth=3, heads=4, dim_head=12, shift_tokens=False, rotary_emb=False,
    attn_types=["full"],
)  # fmt: skip
# What it imports and does not call here.
ABSENT = {
    "omegaconf": ("OmegaConf",), "taming": (), "taming.models": (), "taming.models.vqgan": ("VQModel", "GumbelVQ"),
    "pkg_resources": ("get_distribution",), "youtokentome": (),
}  # fmt: skip


def dalle_pytorch() -> Any:
    """The package, with stand-ins for those of its imports that are missing; skips the test without it."""
    for name in ("einops", "axial_positional_embedding", "rotary_embedding_torch"):
        pytest.importorskip(name, reason="needs dalle-pytorch: pip install dalle-pytorch")
    for name, attributes in ABSENT.items():
        if name not in sys.modules:
            try:
                __import__(name)
            except ImportError:
                module = ModuleType(name)
                for attribute in attributes:
                    setattr(module, attribute, type(attribute, (), {}))
                sys.modules[name] = module
    return pytest.importorskip("dalle_pytorch", reason="needs dalle-pytorch: pip install dalle-pytorch")


def peer(folder: Path, vae: dict[str, Any] | None = None, **changes: Any) -> nn.Module:
    """A model, which is written to `folder/dalle.pt`."""
    package = dalle_pytorch()
    vae_params, hparams = VAE | (vae or {}), HPARAMS | changes
    model = randomize(package.DALLE(vae=package.DiscreteVAE(**vae_params), **hparams))
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"hparams": hparams, "vae_params": vae_params, "epoch": 0, "weights": model.state_dict()},
               folder / "dalle.pt")  # fmt: skip
    return model


def read_back(file: Path) -> nn.Module:
    """The model of a file, as its training script resumes from it."""
    package, stored = dalle_pytorch(), torch.load(file, weights_only=True)
    model = package.DALLE(vae=package.DiscreteVAE(**stored["vae_params"]), **stored["hparams"])
    missing = model.load_state_dict(stored["weights"], strict=False)
    assert not missing.unexpected_keys
    assert all(name.startswith(("vae.", "text_emb.linear", "image_emb.linear")) for name in missing.missing_keys)
    return model.eval()


def batch(rows: int = 3) -> tuple[Tensor, Tensor]:
    """Texts of different lengths, padded by 0, and image tokens."""
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 30, (rows, 6), generator=draw)
    for row in range(1, rows):
        ids[row, 6 - 2 * row :] = 0
    return ids, torch.randint(20, (rows, 16), generator=draw)


@torch.no_grad()
def outputs(model: nn.Module, ids: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    """(scores of text tokens [B, T, V], of image tokens [B, n, V]); all others are hidden."""
    scores = model(ids.clone(), image)
    length, first = model.text_seq_len, model.num_text_tokens
    text, picture = scores[:, :length], scores[:, length:]
    assert (text[..., first:] < -1e30).all() and (picture[..., :first] < -1e30).all()
    return text[..., :first], picture[..., first:]
