"""Twenty steps of AdamW from one folder, equal batches, no dropout: our loop and a plain timm loop."""

import pytest
import torch
import torch.nn.functional as F
from peers import timm_folder

import zoo


def losses(model, dtype, steps=20):
    model = model.to(dtype).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    draw = torch.Generator().manual_seed(0)
    history = []
    for _ in range(steps):
        pixels = torch.randn(8, 3, 32, 32, generator=draw).to(dtype)
        labels = torch.randint(7, (8,), generator=draw)
        loss = F.cross_entropy(model(pixels), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    return torch.tensor(history, dtype=torch.float64)


@pytest.mark.parametrize("name, dtype, tolerance", [
    ("vit_base_patch16_224", torch.float32, 1e-4), ("vit_base_patch16_224", torch.float64, 1e-8),
    ("deit3_small_patch16_224", torch.float64, 1e-8), ("vit_small_patch14_reg4_dinov2", torch.float64, 1e-8),
])  # fmt: skip
def test_losses_are_timms(tmp_path, name, dtype, tolerance):
    theirs = timm_folder(tmp_path, name, img_size=32, patch_size=8)
    ours = losses(zoo.load(tmp_path), dtype)
    expected = losses(theirs, dtype)
    assert expected[-1] < expected[0] and (ours / expected - 1).abs().max() <= tolerance
