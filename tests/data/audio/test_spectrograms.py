"""Spectrograms in batches: those of the preprocessing, and augmented as a function of (seed, epoch, number) alone."""

from dataclasses import replace

import pytest
import torch

from zoo.data.audio.spectrograms import SpectrogramAugment, Spectrograms, shift_pitch, statistics
from zoo.data.audio.tables import AudioClips
from zoo.data.augment_config import SpectrogramAugmentSettings
from zoo.data.keyed_batches import Keys
from zoo.preprocessing.spectrogram import SpectrogramFeatureExtractor

NOTHING = SpectrogramAugmentSettings(
    time_shift=False, time_stretch=0, pitch_shift=0, gain=0, freq_masks=0, time_masks=0
)
HEARER = SpectrogramFeatureExtractor(sampling_rate=8000, num_mel_bins=24, frames=40, mean=-8.0, std=3.0)


@pytest.fixture(scope="module")
def clips() -> AudioClips:
    draw = torch.Generator().manual_seed(0)
    return AudioClips.of([torch.randn(n, generator=draw) * 0.1 for n in (3200, 1700, 5200, 2400, 3300)], 8000)


@pytest.fixture(scope="module")
def sounds(clips: AudioClips) -> Spectrograms:
    return Spectrograms.of(clips, torch.arange(5), HEARER)


def test_evaluation_is_what_the_preprocessing_makes(clips: AudioClips, sounds: Spectrograms) -> None:
    batch = sounds.__getitems__(Keys([3, 1, 0], 0))
    found = SpectrogramAugment(SpectrogramAugmentSettings(), HEARER)(batch, seed=0, step=0, train=False)
    wanted = HEARER([(clips[i], 8000) for i in (3, 1, 0)])["input_values"]
    assert torch.allclose(found["input_values"], wanted, atol=1e-5)
    assert found["targets"].tolist() == [3, 1, 0]


def test_of_a_long_clip_tests_take_the_middle(clips: AudioClips, sounds: Spectrograms) -> None:
    found = SpectrogramAugment(NOTHING, HEARER)(sounds.__getitems__(Keys([2], 0)), seed=0, step=0, train=False)[
        "input_values"
    ]
    whole = replace(HEARER, frames=63)([(clips[2], 8000)])["input_values"]
    assert torch.allclose(found, whole[:, 11:51], atol=1e-5)


def test_training_without_augmentation_is_the_same(sounds: Spectrograms) -> None:
    batch, hear = sounds.__getitems__(Keys([0, 1, 3], 2)), SpectrogramAugment(NOTHING, HEARER)
    one, other = (hear(batch, seed=0, step=0, train=train)["input_values"] for train in (True, False))
    torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)


def test_draws_hang_on_seed_epoch_and_number_alone(sounds: Spectrograms) -> None:
    hear = SpectrogramAugment(SpectrogramAugmentSettings(), HEARER)

    def at(keys: list[int], epoch: int, seed: int = 0, step: int = 0) -> torch.Tensor:
        return hear(sounds.__getitems__(Keys(keys, epoch)), seed=seed, step=step, train=True)["input_values"]

    whole = at([0, 1, 2, 3, 4], 3)
    torch.testing.assert_close(at([4, 2], 3, step=9), whole[[4, 2]], atol=1e-6, rtol=1e-6)
    assert not torch.equal(at([4], 4), whole[[4]]) and not torch.equal(at([4], 3, seed=1), whole[[4]])
    assert whole.isfinite().all() and whole.shape == (5, 40, 24)


def test_each_option_does_what_it_says(sounds: Spectrograms) -> None:
    batch = sounds.__getitems__(Keys([0, 1, 3], 1))
    plain = SpectrogramAugment(NOTHING, HEARER)(batch, seed=0, step=0, train=True)["input_values"]

    def only(**option: object) -> torch.Tensor:
        return SpectrogramAugment(replace(NOTHING, **option), HEARER)(batch, seed=0, step=0, train=True)["input_values"]

    shifted = only(time_shift=True)
    assert not torch.equal(shifted, plain)
    for one, other in zip(shifted, plain):  # the same frames elsewhere
        one, other = (frames[(frames - 8 / 3).abs().amax(1) > 1e-4] for frames in (one, other))
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)
    loud = only(gain=6.0) - plain
    real = (plain - 8 / 3).abs().amax(2) > 1e-4
    assert all(float(row[mask].std()) < 1e-5 for row, mask in zip(loud, real)) and loud.abs().max() <= 1.3815511 / 3
    assert (only(freq_masks=1, freq_width=6) == 0).all(1).any(1).sum() >= 1
    assert (only(time_masks=1, time_width=6) == 0).all(2).any(1).sum() >= 1
    assert not torch.equal(only(time_stretch=0.2), plain) and not torch.equal(only(pitch_shift=2), plain)


def test_gain_is_in_decibels_of_power(sounds: Spectrograms) -> None:
    """Louder by up to 6 dB, a factor of four in power, is log(4) = 1.386 more in the logs of energies."""
    augment, none = (SpectrogramAugment(replace(NOTHING, gain=gain), HEARER) for gain in (6.0, 0.0))
    found = []
    for epoch in range(40):
        batch = sounds.__getitems__(Keys([3], epoch))
        one, other = (each(batch, seed=0, step=0, train=True)["input_values"] for each in (augment, none))
        found.append(float((one - other).abs().max()) * HEARER.std)
    assert 1.25 < max(found) <= 1.3816 and min(found) < 0.2


def test_tilt_moves_bins() -> None:
    values = torch.arange(5.0).expand(2, 3, 5)
    assert shift_pitch(values, torch.tensor([1, -2]))[:, 0].tolist() == [[0, 0, 1, 2, 3], [2, 3, 4, 4, 4]]


def test_statistics_leave_padding_out(clips: AudioClips) -> None:
    mean, std = statistics(clips, HEARER)
    values = Spectrograms.of(clips, torch.zeros(5), replace(HEARER, mean=mean, std=std)).values
    assert float(values.mean()) == pytest.approx(0, abs=1e-4) and float(values.std()) == pytest.approx(1, abs=1e-4)


def test_a_clip_shorter_than_a_frame_raises() -> None:
    with pytest.raises(ValueError, match="clip 1 has 100 samples"):
        Spectrograms.of(AudioClips.of([torch.zeros(3000), torch.zeros(100)], 8000), torch.zeros(2), HEARER)
