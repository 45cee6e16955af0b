"""Strings put together from single words, and batches of speech."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from zoo.data.audio.speech import load_speech
from zoo.data.audio.speech_datamodule import Utterances, WaveformAugment, change_speed
from zoo.data.audio.tables import AudioClips
from zoo.data.audio.transcribed import Recordings, SpokenPhrases, WordSequences
from zoo.data.config import SpeechSettings
from zoo.data.keyed_batches import Keys
from zoo.preprocessing.ctc_vocabulary import Vocabulary
from zoo.preprocessing.waveform import WaveformFeatureExtractor
from zoo.utils.errors import DataError

WORDS = ["one", "two", "one", "two", "one", "two"]


@pytest.fixture(scope="module")
def strings() -> WordSequences:
    """Clip i is 100 + i samples of the value i + 1, so that a string tells what it is made of."""
    clips = AudioClips.of([torch.full((100 + i,), i + 1.0) for i in range(6)], 1000)
    return WordSequences(clips, WORDS, ["ann", "ann", "ann", "bob", "bob", "bob"], 50, 4, 0.05, seed=3)


def test_strings_are_clips_of_one_speaker_with_pauses(strings: WordSequences) -> None:
    waves, texts = strings.get(torch.arange(50), 2)
    sizes = set()
    for wave, text in zip(waves, texts):
        values = wave[wave > 0].unique_consecutive() if len(wave[wave > 0]) else wave
        parts, at = [], 0
        while at < len(wave):
            if wave[at] == 0:
                at += 1
                continue
            parts.append(int(wave[at]) - 1)
            at += 100 + parts[-1]
        assert [WORDS[i] for i in parts] == text.split() and len({i // 3 for i in parts}) == 1
        assert len(values) <= len(parts) and len(wave) <= sum(100 + i for i in parts) + 50 * (len(parts) + 1)
        sizes.add(len(parts))
    assert sizes == {1, 2, 3, 4}


def test_strings_are_functions_of_seed_epoch_and_number(strings: WordSequences) -> None:
    waves, texts = strings.get(torch.arange(10), 1)
    again, same = strings.get(torch.tensor([7]), 1)
    assert torch.equal(again[0], waves[7]) and same[0] == texts[7]
    assert strings.get(torch.arange(10), 2)[1] != texts
    assert [len(t.split()) for t in strings.get(torch.arange(10), 2)[1]] == [len(t.split()) for t in texts]


def test_batches_are_padded_and_named(strings: WordSequences) -> None:
    vocabulary = Vocabulary.of(strings.texts())
    data = Utterances(strings, vocabulary, tempo=0.2, seed=0)
    batch = data.__getitems__(Keys([4, 9, 30], 5))
    assert batch["waves"].shape == (3, int(batch["samples"].max()))
    alone = data.__getitems__(Keys([9], 5))
    assert torch.equal(batch["waves"][1, : int(batch["samples"][1])], alone["waves"][0])
    text = vocabulary.decode(batch["labels"][1, : int(batch["label_lengths"][1])].tolist())
    assert text == strings.get(torch.tensor([9]), 5)[1][0]
    still = Utterances(strings, vocabulary).__getitems__(Keys([9], 5))
    share = int(still["samples"][0]) / int(alone["samples"][0])
    assert 0.8 < share < 1.2 and share != 1


def test_faster_is_shorter_and_higher() -> None:
    t = torch.arange(8000) / 8000
    wave = change_speed(torch.sin(2 * torch.pi * 400 * t), 1.25)
    assert len(wave) == 6400
    assert int(torch.fft.rfft(wave).abs().argmax()) * 8000 / 6400 == pytest.approx(500)


@pytest.mark.parametrize("normalize", [True, False])
def test_evaluation_is_what_the_preprocessing_makes(strings: WordSequences, normalize: bool) -> None:
    hearer = WaveformFeatureExtractor(sampling_rate=1000, normalize=normalize)
    batch = Utterances(strings, Vocabulary.of(strings.texts())).__getitems__(Keys([1, 2, 3], 0))
    found = WaveformAugment(hearer, noise=0.5)(batch, seed=0, step=0, train=False)
    wanted = hearer([(w[:n], 1000) for w, n in zip(batch["waves"], batch["samples"].tolist())])
    assert torch.allclose(found["input_values"], wanted["input_values"], atol=1e-5)
    assert torch.equal(found["attention_mask"], wanted["attention_mask"])


def test_noise_hangs_on_the_clip_alone() -> None:
    clips = AudioClips.of([torch.randn(n, generator=torch.Generator().manual_seed(n)) for n in (4000, 6000)], 1000)
    data = Utterances(Recordings(clips, ["a", "b"]), Vocabulary.of(["a b"]))
    listen = WaveformAugment(WaveformFeatureExtractor(sampling_rate=1000, normalize=False), noise=0.5)
    both, one = (data.__getitems__(Keys(keys, 3)) for keys in ([0, 1], [0]))
    noisy = listen(both, seed=1, step=0, train=True)["input_values"]
    alone = listen(one, seed=1, step=7, train=True)["input_values"][0]
    torch.testing.assert_close(noisy[0, :4000], alone, atol=1e-6, rtol=1e-6)
    added = noisy - both["waves"]
    assert (added[0, 4000:] == 0).all() and 0 < float(added[1].std()) <= 0.55


@pytest.mark.skipif(not (Path(os.environ.get("ZOO_DATA_DIR", "nowhere")) / "fsdd").is_dir(),
                    reason="the spoken digits are read from ZOO_DATA_DIR")  # fmt: skip
def test_digits_of_the_test_are_takes_that_training_never_hears() -> None:
    sets = load_speech(SpeechSettings(name="fsdd", max_test_samples=20))
    first = {hash(clip.numpy().tobytes()) for clip in map(sets.train.clips.__getitem__, range(len(sets.train.clips)))}
    for part in (sets.validation, sets.test):
        assert not first & {hash(part.clips[i].numpy().tobytes()) for i in range(len(part.clips))}
    waves, texts = sets.test.get(torch.arange(20), 0)
    assert len(sets.test) == 20 and {len(text.split()) for text in texts} == {1, 2, 3, 4, 5}
    assert all(0.1 < len(wave) / 8000 < 12 for wave in waves)
    held = load_speech(SpeechSettings(name="fsdd", held_out_speaker="theo"), val_fraction=0.0)
    assert set(held.test.speakers) == {"theo"} and "theo" not in held.train.speakers and held.validation is None


def test_sequences_are_shortened_to_the_maximum_duration(strings: WordSequences) -> None:
    rows = torch.arange(50)
    whole, texts = strings.get(rows, 0)
    most = 0.7 * max(len(wave) for wave in whole)
    short = replace(strings, max_duration=most / strings.sampling_rate)
    waves, shorter = short.get(rows, 0)
    assert short.longest <= most < strings.longest and max(len(wave) for wave in waves) <= most
    for wave, text, before, of_before in zip(waves, shorter, whole, texts):
        assert of_before.startswith(text) and torch.equal(wave, before[: len(wave)])
        assert (text == of_before) == (len(before) <= most)


def test_phrases_are_spoken_by_one_speaker() -> None:
    """Clips whose samples are the number of their speaker and word."""
    words, speakers = ["red", "car", "red", "car"], ["ann", "ann", "bob", "bob"]
    clips = AudioClips.of([torch.full((100 + 10 * i,), 1.0 + i) for i in range(4)], 1000)
    data = SpokenPhrases(clips, words, speakers, ["red car", "car red red"], 0.05, 0)
    assert data.lengths().tolist() == [120 + 130 + 3 * 50, 130 + 2 * 120 + 4 * 50] and data.longest == 570
    spoken = set()
    for epoch in range(20):
        waves, texts = data.get(torch.tensor([0, 1]), epoch)
        assert texts == ["red car", "car red red"] and all(len(wave) <= data.longest for wave in waves)
        found = [wave[wave != 0].unique_consecutive().tolist() for wave in waves]
        assert found[0] in ([1, 2], [3, 4]) and found[1] in ([2, 1], [4, 3])
        spoken.add(tuple(found[0]))
    assert len(spoken) == 2
    with pytest.raises(DataError, match="no clip of 'ann' has the word 'blue'"):
        replace(data, phrases=["blue car"])
