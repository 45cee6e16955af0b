"""Heads on known hidden states: what is pooled, and how an output layer is rescaled."""

import pytest
import torch
from torch import nn

from zoo.nn.heads import PoolingHead, TextPooling, rescale_output


def test_pooling_of_images() -> None:
    x = torch.arange(24.0).view(2, 4, 3)  # two prefix tokens, two patches
    pooled = {mode: PoolingHead(mode, prefix=2)(x) for mode in ("cls", "mean", "cls_mean", "prefix")}  # type: ignore[arg-type]
    assert torch.equal(pooled["cls"], x[:, 0]) and torch.equal(pooled["mean"], (x[:, 2] + x[:, 3]) / 2)
    assert torch.equal(pooled["cls_mean"], torch.cat([pooled["cls"], pooled["mean"]], 1))
    assert torch.equal(pooled["prefix"], (x[:, 0] + x[:, 1]) / 2)


def test_pooling_of_texts_counts_real_tokens_only() -> None:
    x = torch.arange(24.0).view(2, 4, 3)
    keep = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0]])
    pooled = {mode: TextPooling(mode, 3)(x, keep) for mode in ("cls", "mean", "last")}  # type: ignore[arg-type]
    assert torch.equal(pooled["cls"], torch.stack([x[0, 2], x[1, 0]]))
    assert torch.equal(pooled["last"], torch.stack([x[0, 3], x[1, 2]]))
    assert torch.equal(pooled["mean"], torch.stack([x[0, 2:].mean(0), x[1, :3].mean(0)]))


def test_an_output_layer_is_rescaled_with_its_bias() -> None:
    layer, x = nn.Linear(3, 2), torch.randn(4, 3)
    expected = layer(x) * 5 + 100
    rescale_output(layer, 100.0, 5.0)
    torch.testing.assert_close(layer(x), expected)
    plain = nn.Linear(3, 2, bias=False)
    expected = plain(x) * 5
    rescale_output(plain, 0.0, 5.0)
    torch.testing.assert_close(plain(x), expected)
    with pytest.raises(ValueError, match="no bias"):
        rescale_output(plain, 1.0, 5.0)
