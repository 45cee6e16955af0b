"""Patch embedding: its initial prefix tokens, and images of several sizes in their order."""

import torch

from zoo.nn import initialize
from zoo.nn.frontends.image import PatchEmbedding, run_by_size


def test_prefix_tokens_start_near_zero_and_positions_small() -> None:
    made = PatchEmbedding((8, 8), (4, 4), 3, 64, distilled=True, registers=3)
    initialize(made, 0)
    for token in (made.cls, made.dist, made.registers):
        assert token is not None and 0 < token.abs().max() < 1e-5
    assert 0.015 < made.positions.std() < 0.02


def test_outputs_of_several_sizes_come_in_the_order_of_the_images() -> None:
    sizes = (4, 8, 12, 4, 16, 8)
    images = [torch.full((3, size, 4), float(number)) for number, size in enumerate(sizes)]
    outputs = run_by_size(images, lambda group: group.mean((1, 2, 3))[:, None])
    assert outputs[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
