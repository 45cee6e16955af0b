"""Small sound files for tests."""

from pathlib import Path

import numpy as np
import soundfile


def tone(hertz: float = 440.0, seconds: float = 0.3, sampling_rate: int = 8000) -> np.ndarray:
    t = np.arange(round(seconds * sampling_rate)) / sampling_rate
    return (0.3 * np.sin(2 * np.pi * hertz * t)).astype(np.float32)


def write(path: Path, hertz: float = 440.0, *, seconds: float = 0.3, sampling_rate: int = 8000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone(hertz, seconds, sampling_rate), sampling_rate)
    return path


def folder_of_classes(folder: Path, count: int = 6, sampling_rate: int = 8000) -> Path:
    """low/ and high/, `count` files each, of different lengths."""
    for name, hertz in (("low", 300), ("high", 1500)):
        for i in range(count):
            write(folder / name / f"{i}.wav", hertz + 10 * i, seconds=0.2 + 0.03 * i, sampling_rate=sampling_rate)
    return folder
