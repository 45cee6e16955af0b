"""Synthetic speech: phrases of a small grammar, whose words are synthesized from phones by many voices.

A word is a sequence of phones with formants (the resonances of the vocal tract) and amplitudes. Each pulse of the
voice, at the pitch period, and each random pulse of its noise excites the resonances (formant wave functions, Rodet
1984), which move from phone to phone. Voices differ in pitch, length of the vocal tract, tempo and loudness. It is
speech for learning and testing the library, not for ranking models: no real voice is so clear and regular.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray

SAMPLING_RATE = 8000  # Hz
VOICES, TEST_VOICES = 48, 8
TRAIN, TEST = 3000, 300

# (formants in Hz, seconds, amplitude of the voice, of the noise). Vowels: means of Peterson and Barney 1952.
PHONES: dict[str, tuple[tuple[float, float, float], float, float, float]] = {
    "iy": ((270, 2290, 3010), 0.11, 1.0, 0.0),
    "ih": ((390, 1990, 2550), 0.08, 1.0, 0.0),
    "eh": ((530, 1840, 2480), 0.09, 1.0, 0.0),
    "ae": ((660, 1720, 2410), 0.11, 1.0, 0.0),
    "ah": ((640, 1190, 2390), 0.08, 1.0, 0.0),
    "aa": ((730, 1090, 2440), 0.11, 1.0, 0.0),
    "ao": ((570, 840, 2410), 0.10, 1.0, 0.0),
    "uh": ((440, 1020, 2240), 0.08, 1.0, 0.0),
    "uw": ((300, 870, 2240), 0.11, 1.0, 0.0),
    "l": ((360, 1000, 2700), 0.06, 0.7, 0.0),
    "r": ((330, 1100, 1500), 0.06, 0.7, 0.0),
    "w": ((300, 650, 2200), 0.06, 0.7, 0.0),
    "m": ((250, 950, 2200), 0.07, 0.4, 0.0),
    "n": ((250, 1450, 2500), 0.07, 0.4, 0.0),
    "h": ((600, 1500, 2500), 0.05, 0.0, 0.3),
    "f": ((1100, 2100, 3300), 0.08, 0.0, 0.25),
    "v": ((300, 1300, 2300), 0.06, 0.4, 0.15),
    "th": ((1400, 2500, 3500), 0.08, 0.0, 0.25),
    "s": ((3000, 3500, 3900), 0.10, 0.0, 0.6),
    "z": ((250, 3100, 3800), 0.08, 0.3, 0.35),
    "sil": ((500, 1500, 2500), 0.045, 0.0, 0.0),  # the closure of a stop
    "p": ((700, 1200, 2300), 0.02, 0.0, 0.6),
    "t": ((2800, 3300, 3800), 0.025, 0.0, 0.9),
    "k": ((1700, 2300, 3000), 0.025, 0.0, 0.8),
    "b": ((250, 900, 2200), 0.025, 0.5, 0.3),
    "d": ((250, 1700, 2700), 0.025, 0.5, 0.4),
    "g": ((250, 2000, 2500), 0.025, 0.5, 0.4),
}
STOPS = ("p", "t", "k", "b", "d", "g")

WORDS = {
    "please": "p l iy z", "open": "ao uh p ah n", "close": "k l ao uh z", "find": "f aa ih n d", "move": "m uw v",
    "clean": "k l iy n", "one": "w ah n", "two": "t uw", "three": "th r iy", "four": "f ao r", "five": "f aa ih v",
    "six": "s ih k s", "seven": "s eh v ah n", "eight": "eh ih t", "nine": "n aa ih n", "red": "r eh d",
    "green": "g r iy n", "blue": "b l uw", "white": "w aa ih t", "black": "b l ae k", "yellow": "l eh l ao uh",
    "boxes": "b aa k s ih z", "doors": "d ao r z", "lamps": "l ae m p s", "books": "b uh k s", "cars": "k aa r z",
    "windows": "w ih n d ao uh z", "here": "h ih r", "today": "t ah d eh ih", "now": "n aa uh",
    "outside": "aa uh t s aa ih d", "again": "ah g eh n",
}  # fmt: skip
GRAMMAR = (
    ("", "please"),
    ("open", "close", "find", "move", "clean"),
    ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    ("", "red", "green", "blue", "white", "black", "yellow"),
    ("boxes", "doors", "lamps", "books", "cars", "windows"),
    ("", "here", "today", "now", "outside", "again"),
)  # one word, or none, of each: 22,680 phrases


def make_phrases(n: int, *, seed: int) -> list[str]:
    """`n` different phrases of the grammar in random order, the same for the same arguments.

    Split one call to get disjoint datasets. Raises ValueError for more phrases than there are.
    """
    sizes = [len(words) for words in GRAMMAR]
    if not 1 <= n <= int(np.prod(sizes)):
        raise ValueError(f"n={n}: expected 1 to {int(np.prod(sizes))} phrases, as many as the grammar has")
    numbers = np.random.default_rng(seed).permutation(int(np.prod(sizes)))[:n]
    places = zip(*np.unravel_index(numbers, sizes))
    return [" ".join(words[i] for words, i in zip(GRAMMAR, place) if words[i]) for place in places]


def make_spoken_words(voices: int, *, seed: int) -> tuple[list[Tensor], list[str], list[str]]:
    """Each word of the grammar, spoken by each of `voices` voices.

    Returns: waveforms float32 [S] at SAMPLING_RATE, their words, and the name of the voice of each. The first voices
    are the same for any number of them.
    """
    waves, words, names = [], [], []
    for number in range(voices):
        rng = np.random.default_rng([seed, number])
        voice = Voice.random(rng)
        for word in WORDS:
            waves.append(torch.from_numpy(speak(word, voice, rng)))
            words.append(word)
            names.append(f"voice {number:02}")
    return waves, words, names


@dataclass(frozen=True)
class Voice:
    """A speaker: pitch in Hz, scale of the formants and of the durations, loudness, and level of background noise."""

    pitch: float
    tract: float
    tempo: float
    loudness: float
    noise: float

    @classmethod
    def random(cls, rng: np.random.Generator) -> "Voice":
        """High voices have the short vocal tracts, on average."""
        height = rng.uniform()
        tract = 0.92 + 0.2 * height + rng.uniform(-0.04, 0.04)
        return cls(90 * 2.6**height, tract, rng.uniform(0.85, 1.2), rng.uniform(0.1, 0.4), rng.uniform(0.005, 0.03))


def speak(word: str, voice: Voice, rng: np.random.Generator) -> Array:
    """Waveform of a word, float32 [S]."""
    phones: list[str] = []
    for phone in WORDS[word].split():
        phones += ["sil", phone] if phone in STOPS else [phone]
    seconds = np.array([PHONES[phone][1] for phone in phones]) * voice.tempo * rng.uniform(0.9, 1.1, len(phones))
    ends = seconds.cumsum()
    times, noisy, signs = _pulses(float(ends[-1]), voice.pitch, rng)
    levels = np.array([PHONES[phone][2:] for phone in phones])
    place = np.searchsorted(ends, times, side="right").clip(max=len(phones) - 1)
    amplitude = levels[place, noisy] * signs
    # Formants are those of a phone in its middle, and change linearly in between.
    targets = np.array([PHONES[phone][0] for phone in phones]) * voice.tract * rng.uniform(0.97, 1.03, (len(phones), 3))
    formants = np.stack([np.interp(times, ends - seconds / 2, one) for one in targets.T], 1)  # [P, 3]
    on = amplitude != 0
    wave = _excited(times[on], amplitude[on], formants[on], int(ends[-1] * SAMPLING_RATE))
    wave *= voice.loudness / max(1e-6, float(np.abs(wave).max()))
    wave += voice.noise * voice.loudness * rng.standard_normal(len(wave))
    return wave.clip(-1, 1).astype(np.float32)


def _pulses(seconds: float, pitch: float, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """(times, 0 for those of the voice and 1 for those of the noise, signs) of the pulses of a word."""
    periods = np.cumsum(rng.normal(1.0, 0.02, int(seconds * pitch * 1.3) + 2)) / pitch
    voiced = seconds * (periods / seconds) ** 1.1  # the pitch falls towards the end
    voiced, noisy = voiced[voiced < seconds], rng.uniform(0, seconds, int(2000 * seconds))
    signs = np.concatenate([np.ones(len(voiced)), rng.choice([-0.5, 0.5], len(noisy))])
    return np.concatenate([voiced, noisy]), np.repeat([0, 1], [len(voiced), len(noisy)]), signs


def _excited(times: Array, amplitude: Array, formants: Array, samples: int) -> Array:
    """The sum of the responses of the resonances `formants` [P, 3] to pulses, float64 [samples]."""
    t = np.arange(int(0.02 * SAMPLING_RATE)) / SAMPLING_RATE
    decay = np.exp(-np.pi * np.array([80.0, 110.0, 160.0])[:, None] * t) * np.array([1.0, 0.6, 0.35])[:, None]
    phase = 2 * np.pi * formants.astype(np.float32)[:, :, None] * t.astype(np.float32)
    response = np.einsum("pkt,kt->pt", np.sin(phase), decay.astype(np.float32)) * amplitude[:, None]
    index = (times * SAMPLING_RATE).astype(int)[:, None] + np.arange(len(t))
    return np.bincount(index.ravel(), response.ravel(), samples + len(t))[:samples]
