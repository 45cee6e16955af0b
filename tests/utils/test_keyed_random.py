"""Keyed draws: the reference algorithm, their distributions, their independence."""

import pytest
import torch

from zoo.utils.keyed_random import KeyedRandom, beta_quantiles, hash_keys, log_uniform_quantiles, mix, seed_for

WORD = (1 << 64) - 1
N = 200_000


def splitmix(x: int) -> int:
    """The published algorithm on Python integers."""
    x = (x + 0x9E3779B97F4A7C15) & WORD
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & WORD
    return x ^ (x >> 31)


def test_mix_is_splitmix64() -> None:
    values = torch.randint(-(2**63), 2**63 - 1, (500,))
    assert [int(v) & WORD for v in mix(values)] == [splitmix(int(v) & WORD) for v in values]
    assert splitmix(0) == 0xE220A8397B1DCDAF  # the first output of the published generator with seed 0


def test_uniform_and_integers_have_their_distributions() -> None:
    draws = KeyedRandom(0, 0, torch.arange(N))
    u = draws.uniform("a").double()
    assert u.min() >= 0 and u.max() < 1
    assert abs(u.mean() - 0.5) < 0.003 and abs(u.var() - 1 / 12) < 0.001
    counts = torch.bincount(draws.integers("b", 9), minlength=9)
    chi_square = ((counts - N / 9) ** 2 / (N / 9)).sum()
    assert len(counts) == 9 and chi_square < 26.1  # 0.1 % of 8 degrees of freedom


def test_numbers_of_different_keys_are_uncorrelated() -> None:
    i = torch.arange(N)
    base = KeyedRandom(0, 0, i)
    others = [
        base.uniform("b"),
        KeyedRandom(1, 0, i).uniform("a"),
        KeyedRandom(0, 1, i).uniform("a"),
        KeyedRandom(0, 0, i + 1).uniform("a"),
    ]
    table = torch.corrcoef(torch.stack([base.uniform("a"), *others]))
    assert (table - torch.eye(5)).abs().max() < 0.01


def test_a_number_depends_on_its_key_alone() -> None:
    whole = KeyedRandom(3, 2, torch.arange(100)).uniform("flip")
    some = torch.tensor([70, 3, 99])
    assert torch.equal(KeyedRandom(3, torch.tensor(2), some).uniform("flip"), whole[some])


def test_keys_do_not_swap() -> None:
    assert int(hash_keys(1, 2)) != int(hash_keys(2, 1)) and seed_for(0, 1) != seed_for(1, 0)
    assert 0 <= seed_for(5, 7) < 2**63


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.8, 1.0, 2.0])
def test_beta_quantiles_have_the_moments_of_beta(alpha: float) -> None:
    q = beta_quantiles(alpha).double()
    assert torch.isfinite(q).all() and (q[1:] >= q[:-1]).all() and q.min() >= 0 and q.max() <= 1
    assert q.mean().item() == pytest.approx(0.5, abs=1e-6)
    assert q.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), abs=1e-4)
    kurtosis = ((q - 0.5) ** 4).mean() / q.var() ** 2
    assert kurtosis.item() == pytest.approx(3 - 6 / (2 * alpha + 3), abs=1e-3)


def test_log_uniform_quantiles() -> None:
    logs = log_uniform_quantiles(0.3, 3.3).log()
    steps = logs.diff()
    assert steps.min() > 0 and steps.max() / steps.min() < 1.2
    assert logs.exp().min() >= 0.3 and logs.exp().max() <= 3.3
