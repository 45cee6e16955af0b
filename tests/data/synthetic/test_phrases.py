"""Synthetic phrases: a grammar, and words that voices speak."""

import pytest
import torch

from zoo.data.audio.speech import load_speech
from zoo.data.config import Seq2SeqSpeechSettings, SpeechSettings
from zoo.data.sources.dataset_cards import load_card
from zoo.data.synthetic import phrases as synthetic
from zoo.data.synthetic.phrases import PHONES, SAMPLING_RATE, WORDS, make_phrases, make_spoken_words


def test_phrases_are_different_and_of_the_grammar() -> None:
    found = make_phrases(200, seed=0)
    assert found == make_phrases(200, seed=0) and len(set(found)) == 200 and found != make_phrases(200, seed=1)
    assert {word for phrase in found for word in phrase.split()} == set(WORDS)
    with pytest.raises(ValueError, match="n=30000: expected 1 to 22680 phrases"):
        make_phrases(30000, seed=0)
    assert {phone for word in WORDS.values() for phone in word.split()} == set(PHONES) - {"sil"}


def test_words_of_voices() -> None:
    waves, words, names = make_spoken_words(2, seed=0)
    assert words == [*WORDS, *WORDS] and names == ["voice 00"] * len(WORDS) + ["voice 01"] * len(WORDS)
    again = make_spoken_words(1, seed=0)[0]
    assert all(torch.equal(one, other) for one, other in zip(waves, again, strict=False))
    for wave, word in zip(waves, words):
        assert wave.dtype == torch.float32 and wave.abs().max() <= 1 and wave.square().mean().sqrt() > 0.005, word
        assert 0.1 < len(wave) / SAMPLING_RATE < 1.0, word


def test_fricatives_are_high_and_vowels_are_low() -> None:
    """The mean frequency of "six", which begins and ends with an s, and of "one", which has no fricative."""
    waves, words, _ = make_spoken_words(3, seed=0)

    def mean_frequency(word: str) -> float:
        own = torch.cat([wave for wave, name in zip(waves, words) if name == word])
        power = torch.stft(own, 256, window=torch.hann_window(256), return_complex=True).abs().square().mean(1)
        return float((power * torch.linspace(0, SAMPLING_RATE / 2, len(power))).sum() / power.sum())

    assert mean_frequency("six") > 1.5 * mean_frequency("one")


def test_test_phrases_and_voices_are_not_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    card = load_card("synthetic_phrases")
    assert card.splits == {"train": synthetic.TRAIN, "test": synthetic.TEST} and not card.real
    for name, value in (("TRAIN", 40), ("TEST", 10), ("VOICES", 2), ("TEST_VOICES", 1)):
        monkeypatch.setattr(synthetic, name, value)
    for settings in (Seq2SeqSpeechSettings(name="auto"), SpeechSettings(name="synthetic_phrases")):
        splits = load_speech(settings).with_validation(0.1, 0)
        train, test = splits.train, splits.test
        assert (len(train), len(splits.validation), len(test)) == (36, 4, 10) and not splits.real  # type: ignore[arg-type]
        texts = [set(part.texts()) for part in splits.parts]
        assert not texts[0] & texts[1] and not texts[0] & texts[2] and not texts[1] & texts[2]
        assert not set(train.speakers) & set(test.speakers)  # type: ignore[attr-defined]
