"""Random rotations in three dimensions."""

import math

import torch
from torch import Tensor


def random_rotations(uniform: Tensor) -> Tensor:
    """Rotation matrices [..., 3, 3], uniform over all rotations (the Haar measure of SO(3)).

    A quaternion that is uniform on the unit sphere of four dimensions is computed from three uniform numbers (Shoemake,
    Uniform Random Rotations, Graphics Gems III, 1992).

    Args:
        uniform: Numbers [..., 3] from 0 to 1.
    """
    radius, first, second = uniform[..., 0], 2 * math.pi * uniform[..., 1], 2 * math.pi * uniform[..., 2]
    inner, outer = (1 - radius).sqrt(), radius.sqrt()
    x, y, z, w = inner * first.sin(), inner * first.cos(), outer * second.sin(), outer * second.cos()
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w),
        2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w),
        2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def rotations_about_z(uniform: Tensor) -> Tensor:
    """Rotation matrices [..., 3, 3] about the z axis, by angles from 0 to 2 pi. uniform: numbers [...] from 0 to 1."""
    c, s = (2 * math.pi * uniform).cos(), (2 * math.pi * uniform).sin()
    zero, one = torch.zeros_like(c), torch.ones_like(c)
    return torch.stack([c, -s, zero, s, c, zero, zero, zero, one], -1).unflatten(-1, (3, 3))
