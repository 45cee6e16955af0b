"""Synthetic audio: labeled clips for classification, and spelled tones for speech recognition.

The class of a clip is its temporal pattern. Pitch, harmonics, roughness, loudness, position and noise are sampled
independently of the class, and classes come in pairs that differ only in timing. The mean spectrum is therefore not
enough (a linear model on it stays below 60 %), while a spectrogram is. In the spelled tones each letter is a chord of
two tones. Both datasets are for learning and testing the library, not for ranking models.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray

CLASSES = ["tone", "warble", "rising", "falling", "pulses", "gallop", "swell", "burst"]
SAMPLING_RATE = 8000  # Hz
SAMPLES = 8000  # a second
TRAIN, TEST = 2400, 600

CONSONANTS, VOWELS = "bdfgklmnprst", "aeiou"
ROWS = (450.0, 620.0, 850.0, 1170.0)  # Hz, the lower tone of a letter
COLUMNS = (1500.0, 1800.0, 2160.0, 2600.0, 3100.0)  # Hz, its upper tone
SPELLED_TRAIN, SPELLED_TEST = 3000, 300


def make_audio(n: int, *, seed: int, samples: int = SAMPLES) -> tuple[Tensor, Tensor]:
    """Synthesize `n` clips with balanced, shuffled classes.

    Returns: waveforms float32 [n, samples] from -1 to 1 and labels int64 [n], the same for the same arguments.
    """
    if n < 1 or samples < SAMPLING_RATE // 2:
        raise ValueError(
            f"n={n}, samples={samples}: expected at least one clip of half a second, {SAMPLING_RATE // 2} samples"
        )
    rng = np.random.default_rng([seed, n, samples])
    labels = rng.permutation(np.arange(n) % len(CLASSES))
    waves = np.empty((n, samples), np.float32)
    for first in range(0, n, 64):  # chunks that fit into the CPU cache
        part = slice(first, min(first + 64, n))
        waves[part] = _clips(rng, labels[part], samples)
    return torch.from_numpy(waves), torch.from_numpy(labels)


def _clips(rng: np.random.Generator, labels: Array, samples: int) -> Array:
    """A clip of each label, float32 [n, samples], at a random position and with noise."""
    n = len(labels)
    start, length = _uniform(rng, 0.0, 0.25, n) * samples, _uniform(rng, 0.55, 0.72, n) * samples
    u = (np.arange(samples, dtype=np.float32) - start) / length  # 0 to 1 within the pattern
    pitch, loudness = np.ones_like(u), np.ones_like(u)
    for number in np.unique(labels):
        rows = np.flatnonzero(labels == number)
        pitch[rows], loudness[rows] = _PATTERNS[number](rng, u[rows].clip(0, 1))
    edges = np.clip(np.minimum(u, 1 - u) * length / (0.008 * SAMPLING_RATE), 0, 1)
    wave, level = _voice(rng, pitch) * loudness * edges, _uniform(rng, 0.08, 0.5, n)
    noise = rng.standard_normal(u.shape, dtype=np.float32) * _uniform(rng, 0.02, 0.15, n)
    return ((wave + noise) * level).clip(-1, 1)


def _uniform(rng: np.random.Generator, low: float, high: float, n: int) -> Array:
    return rng.uniform(low, high, (n, 1)).astype(np.float32)


def _voice(rng: np.random.Generator, pitch: Array) -> Array:
    """A rough tone with three harmonics at a base pitch of 250 to 900 Hz times `pitch` [n, samples]."""
    n = len(pitch)
    step = 2 * np.pi * 250 / SAMPLING_RATE * (900 / 250) ** _uniform(rng, 0, 1, n)
    rough = rng.standard_normal(pitch.shape, dtype=np.float32) * _uniform(rng, 0, 0.15, n)  # widens the spectral lines
    wave = np.cos(np.cumsum(step * pitch + rough, 1))
    parts = rng.dirichlet(np.ones(3), n).astype(np.float32)[:, :, None]
    return wave * (parts[:, 0] - 3 * parts[:, 2]) + (2 * wave**2 - 1) * parts[:, 1] + 4 * wave**3 * parts[:, 2]


# Takes positions u [n, samples] from 0 to 1; returns pitch (around 1) and loudness (0 to 1), both [n, samples].
Pattern = Callable[[np.random.Generator, Array], tuple[Array, Array]]


def _tone(rng: np.random.Generator, u: Array) -> tuple[Array, Array]:
    """One steady pitch for each half, to cover as much of the spectrum as the other classes."""
    jump = 2 ** (_uniform(rng, 0.4, 1.0, len(u)) * rng.choice(np.array([-0.5, 0.5], np.float32), (len(u), 1)))
    return np.where(u < 0.5, jump, 1 / jump), np.ones_like(u)


def _warble(rng: np.random.Generator, u: Array) -> tuple[Array, Array]:
    depth = _uniform(rng, 0.2, 0.5, len(u))
    return 2 ** (depth * np.sin(2 * np.pi * _uniform(rng, 3, 6, len(u)) * u)), np.ones_like(u)


def _rising(rng: np.random.Generator, u: Array) -> tuple[Array, Array]:
    return 2 ** (_uniform(rng, 0.8, 1.6, len(u)) * (u - 0.5)), np.ones_like(u)


def _falling(rng: np.random.Generator, u: Array) -> tuple[Array, Array]:
    return _rising(rng, 1 - u)


def _beats(u: Array, count: Array, positions: tuple[float, ...]) -> Array:
    """Loudness of short beats at the given positions of each of `count` bars."""
    bar = u * count % 1.0
    distance = np.min([np.abs(bar - position) for position in positions], 0)
    return np.clip(1.5 - distance / 0.07, 0, 1)


def _pulses(rng: np.random.Generator, u: Array) -> tuple[Array, Array]:
    return np.ones_like(u), _beats(u, rng.integers(2, 4, (len(u), 1)), (0.125, 0.375, 0.625, 0.875))


def _gallop(rng: np.random.Generator, u: Array) -> tuple[Array, Array]:
    return np.ones_like(u), _beats(u, rng.integers(2, 4, (len(u), 1)), (0.125, 0.3, 0.475, 0.875))


def _swell(rng: np.random.Generator, u: Array) -> tuple[Array, Array]:
    return np.ones_like(u), np.exp(_uniform(rng, 3, 6, len(u)) * (u - 1))


def _burst(rng: np.random.Generator, u: Array) -> tuple[Array, Array]:
    return _swell(rng, 1 - u)


_PATTERNS: list[Pattern] = [_tone, _warble, _rising, _falling, _pulses, _gallop, _swell, _burst]


# --- spelled tones ----------------------------------------------------------------------------------------------------


def make_speech(n: int, *, seed: int, words: tuple[int, int] = (1, 3)) -> tuple[list[Tensor], list[str]]:
    """Synthesize `n` texts of made-up words, spelled in chords.

    All texts of a call are different: split one call to get disjoint datasets.

    Args:
        n: Number of texts.
        seed: Seed; the result is the same for the same arguments.
        words: Minimum and maximum number of words per text.

    Returns: waveforms float32 [S] at SAMPLING_RATE, of different lengths, and the texts.
    """
    rng = np.random.default_rng([seed, n])
    texts: dict[str, None] = {}
    while len(texts) < n:
        count = int(rng.integers(words[0], words[1] + 1))
        texts.setdefault(" ".join(_word(rng) for _ in range(count)))
    return [_spelled(rng, text) for text in texts], list(texts)


def _word(rng: np.random.Generator) -> str:
    """A word like `tobi` or `lanna`: one to three syllables, some with a double or final consonant."""
    letters = ""
    for i in range(int(rng.integers(1, 4))):
        consonant = rng.choice(list(CONSONANTS))
        letters += consonant * (2 if i and rng.random() < 0.2 else 1) + rng.choice(list(VOWELS))
    return letters + (rng.choice(list(CONSONANTS)) if rng.random() < 0.3 else "")


def _spelled(rng: np.random.Generator, text: str) -> Tensor:
    """Waveform of a text: chords of 50 to 90 ms with short gaps, longer gaps between words, and noise."""
    pieces = [np.zeros(int(SAMPLING_RATE * rng.uniform(0.02, 0.08)))]
    tempo, tune = rng.uniform(0.85, 1.15), rng.uniform(0.985, 1.015)
    for character in text:
        if character == " ":
            pieces.append(np.zeros(int(SAMPLING_RATE * tempo * rng.uniform(0.08, 0.14))))
            continue
        pieces += [_chord(rng, character, tempo, tune), np.zeros(int(SAMPLING_RATE * tempo * rng.uniform(0.02, 0.035)))]
    wave = np.concatenate([*pieces, np.zeros(int(SAMPLING_RATE * rng.uniform(0.02, 0.08)))])
    wave = wave * rng.uniform(0.1, 0.4)
    wave += rng.standard_normal(len(wave)) * np.abs(wave).max() * rng.uniform(0.02, 0.15)
    return torch.from_numpy(wave.clip(-1, 1).astype(np.float32))


def _chord(rng: np.random.Generator, letter: str, tempo: float, tune: float) -> Array:
    number = (CONSONANTS + VOWELS).index(letter)
    lower, upper = ROWS[number % len(ROWS)], COLUMNS[number // len(ROWS)]
    t = np.arange(int(SAMPLING_RATE * tempo * rng.uniform(0.05, 0.09))) / SAMPLING_RATE
    edges = np.clip(np.minimum(t, t[-1] - t) / 0.006, 0, 1)
    balance, phases = rng.uniform(0.35, 0.65), rng.uniform(0, 2 * np.pi, 2)
    tones = (np.sin(2 * np.pi * tune * f * t + p) for f, p in zip((lower, upper), phases))
    return edges * sum(weight * tone for weight, tone in zip((balance, 1 - balance), tones))
