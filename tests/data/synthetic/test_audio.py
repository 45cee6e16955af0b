"""The embedded sounds: repeatable, balanced, quick, and out of a linear model's reach."""

import time

import pytest
import torch
from torch import nn

from zoo.data.sources.dataset_cards import load_card
from zoo.data.synthetic.audio import (
    CLASSES,
    SAMPLING_RATE,
    SPELLED_TEST,
    SPELLED_TRAIN,
    TEST,
    TRAIN,
    make_audio,
    make_speech,
)
from zoo.preprocessing.filter_banks import fbank


@pytest.fixture(scope="module")
def made() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    return *make_audio(1200, seed=0), *make_audio(400, seed=1)


def test_the_same_seed_makes_the_same() -> None:
    waves, labels = make_audio(20, seed=3)
    again, labels_again = make_audio(20, seed=3)
    assert torch.equal(waves, again) and torch.equal(labels, labels_again)
    assert not torch.equal(waves, make_audio(20, seed=4)[0])


def test_sounds_are_whole_and_classes_even(made: tuple) -> None:
    waves, labels = made[:2]
    assert waves.dtype == torch.float32 and waves.shape == (1200, SAMPLING_RATE) and waves.abs().max() <= 1
    assert labels.bincount().tolist() == [150] * len(CLASSES)
    loud = waves.square().mean(1).sqrt()
    assert loud.min() > 0.005, "some clip is silent"
    assert all(load_card(name).splits == counts for name, counts in (
        ("synthetic_audio", {"train": TRAIN, "test": TEST}),
        ("synthetic_speech", {"train": SPELLED_TRAIN, "test": SPELLED_TEST}),
    ))  # fmt: skip
    assert load_card("synthetic_audio").labels == tuple(CLASSES)


def test_a_linear_model_of_mean_spectra_stays_under_60_percent(made: tuple) -> None:
    waves, labels, test_waves, test_labels = made
    features, test = (spectra(fbank(w, SAMPLING_RATE, num_mel_bins=64)) for w in (waves, test_waves))
    mean, std = features.mean(0), features.std(0) + 1e-6
    model = nn.Linear(features.shape[1], len(CLASSES))
    steps = torch.optim.LBFGS(model.parameters(), max_iter=100)

    def closure() -> torch.Tensor:
        steps.zero_grad()
        loss = nn.functional.cross_entropy(model((features - mean) / std), labels)
        loss = loss + 1e-3 * model.weight.square().sum()
        loss.backward()
        return loss

    steps.step(closure)
    right = (model((test - mean) / std).argmax(1) == test_labels).float().mean()
    assert 0.2 < right < 0.6, right


def spectra(logs: torch.Tensor) -> torch.Tensor:
    """[B, T, F] -> [B, 2 F]: the mean of the logarithms, and the logarithm of the mean."""
    return torch.cat([logs.mean(1), logs.exp().mean(1).log()], 1)


def test_a_second_of_sound_takes_milliseconds() -> None:
    start = time.process_time()
    make_audio(128, seed=0)
    assert time.process_time() - start < 1.5


def test_letters_are_chords() -> None:
    waves, texts = make_speech(12, seed=0)
    again, texts_again = make_speech(12, seed=0)
    assert texts == texts_again and all(torch.equal(a, b) for a, b in zip(waves, again))
    assert len(set(texts)) == 12 and all(set(text) <= set("abdefgiklmnoprstu ") for text in texts)
    seconds = torch.tensor([len(wave) / SAMPLING_RATE for wave in waves])
    letters = torch.tensor([len(text) for text in texts])
    assert (seconds / letters > 0.06).all() and (seconds / letters < 0.3).all()


@pytest.mark.parametrize("wrong", [{"n": 0}, {"n": 3, "samples": 100}])
def test_what_is_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="expected at least one clip"):
        make_audio(**wrong, seed=0)
