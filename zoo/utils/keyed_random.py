"""Random numbers as pure functions of integer keys: stateless, and the same on every device.

A random number is SplitMix64's finalizer (Steele et al. 2014) applied to a chain of keys, on int64 tensors, whose
products wrap like unsigned ones. So the augmentation of an image depends on (seed, epoch, index) only, not on its
batch, worker or rank.
"""

import math
import zlib
from functools import cache

import torch
from torch import Tensor

_GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX2 = 0x94D049BB133111EB - (1 << 64)
_STEPS = 1 << 16


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64 (torch's is arithmetic)."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mix(x: Tensor) -> Tensor:
    """SplitMix64's finalizer, a bijection of int64 in which each output bit depends on every input bit."""
    x = x + _GAMMA
    x = (x ^ _shift(x, 30)) * _MIX1
    x = (x ^ _shift(x, 27)) * _MIX2
    return x ^ _shift(x, 31)


def hash_keys(*keys: int | Tensor) -> Tensor:
    """Hash several keys to one int64 key; tensors broadcast and must be on one device."""
    state = torch.zeros((), dtype=torch.int64)
    for key in keys:
        state = mix(state ^ mix(key if isinstance(key, Tensor) else torch.tensor(key)))
    return state


def seed_for(*keys: int) -> int:
    """A seed for `torch.Generator`, from 0 to 2^63 - 1."""
    return int(hash_keys(*keys)) & 0x7FFFFFFFFFFFFFFF


class KeyedRandom:
    """Independent random numbers for each of B keys. Each use has a name, `purpose`, so adding one changes no other."""

    def __init__(self, seed: int, epoch: int | Tensor, index: Tensor) -> None:
        self.keys = hash_keys(seed, epoch, index)  # [B]

    def bits(self, purpose: str) -> Tensor:
        """int64 [B], uniform over all its values."""
        return mix(self.keys ^ _constant(purpose))

    def uniform(self, purpose: str) -> Tensor:
        """float32 [B] in [0, 1), multiples of 2^-24."""
        return _shift(self.bits(purpose), 40).float() * 2.0**-24

    def integers(self, purpose: str, high: int | Tensor) -> Tensor:
        """int64 [B] in 0 .. high - 1; `high` may differ between keys."""
        return (_shift(self.bits(purpose), 32) * high) >> 32

    def choice(self, purpose: str, table: Tensor) -> Tensor:
        """A random entry of `table` [T] for each key; with a table of quantiles, a sample of that distribution."""
        return table[self.integers(purpose, len(table))]


@cache
def _constant(purpose: str) -> int:
    """A 64-bit key for a string."""
    return int(mix(torch.tensor(zlib.crc32(purpose.encode()))))


@cache
def beta_quantiles(alpha: float, device: torch.device | None = None) -> Tensor:
    """Quantiles of Beta(alpha, alpha) at the middles of 65,536 equal steps, float32.

    The density x^(a-1) (1-x)^(a-1) has a pole at 0 for a < 1; over t = x^a it is smooth, so the lower half is
    integrated there and mirrored.
    """
    fine = torch.linspace(0, 0.5**alpha, 1 << 18, dtype=torch.float64)
    density = (1 - fine ** (1 / alpha)) ** (alpha - 1)
    mass = torch.cumulative_trapezoid(density, fine)
    mass = torch.cat([mass.new_zeros(1), mass]) / mass[-1] / 2
    targets = (torch.arange(_STEPS // 2, dtype=torch.float64) + 0.5) / _STEPS
    right = torch.searchsorted(mass, targets).clamp(1, len(mass) - 1)
    part = (targets - mass[right - 1]) / (mass[right] - mass[right - 1])
    lower = (fine[right - 1] + part * (fine[right] - fine[right - 1])) ** (1 / alpha)
    return torch.cat([lower, 1 - lower.flip(0)]).float().to(device, non_blocking=True)


@cache
def log_uniform_quantiles(low: float, high: float, device: torch.device | None = None) -> Tensor:
    """Quantiles of a variable whose logarithm is uniform between those of `low` and `high`, float32."""
    middles = (torch.arange(_STEPS, dtype=torch.float64) + 0.5) / _STEPS
    return (math.log(low) + middles * math.log(high / low)).exp().float().to(device, non_blocking=True)
