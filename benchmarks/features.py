"""Spectrograms of clips in memory: the zoo (whole batch) against torchaudio (clip by clip) and transformers.

    python benchmarks/features.py [clips=16] [seconds=10] [bins=128] [rounds=15] [device=cpu|cuda]

Targets: >= 1.0x of ASTFeatureExtractor through torchaudio, >= 1.8x with the zoo. All compute the same normalized
[clips, 1024, bins], to 1e-5, from the same arrays. Whisper's log-mel and the waveforms of wav2vec 2.0 follow. On a GPU,
the filter banks of clips that are there already, against torchaudio's there; transformers computes on the CPU.
"""

from functools import partial
from typing import Any

import numpy
import torch
from _measure import clock_of, options, paired
from torch import Tensor
from torchaudio.compliance import kaldi
from transformers import ASTFeatureExtractor, Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

from zoo.preprocessing.filter_banks import fbank
from zoo.preprocessing.spectrogram import SpectrogramFeatureExtractor
from zoo.preprocessing.waveform import WaveformFeatureExtractor


def torchaudio_features(waves: list[Any], preprocess: SpectrogramFeatureExtractor) -> Tensor:
    """The same features computed by torchaudio, one clip at a time."""
    out = torch.zeros(len(waves), preprocess.frames, preprocess.num_mel_bins)
    for row, wave in zip(out, waves):
        features = kaldi.fbank(
            torch.from_numpy(wave)[None], window_type="hanning", num_mel_bins=preprocess.num_mel_bins
        )
        row[: len(features)] = features[: preprocess.frames]
    return out.sub_(preprocess.mean).div_(preprocess.std)


def check(candidates: dict[str, Any], tolerance: float = 1e-5) -> None:
    """Check that all candidates compute the same result."""
    first, *others = (call() for call in candidates.values())
    worst = max(((o - first).abs().max() / first.abs().max().clamp_min(1)).item() for o in others)
    assert worst <= tolerance, f"results differ by {worst}"
    print(f"maximum difference {worst:.1e}")


def on_a_gpu(o: Any) -> None:
    """Print the table of a GPU."""
    waves = torch.randn(o.clips, o.seconds * 16000, generator=torch.Generator().manual_seed(0)).mul_(0.1).to(o.device)

    def theirs() -> Tensor:
        return torch.stack([kaldi.fbank(wave[None], window_type="hanning", num_mel_bins=o.bins) for wave in waves])

    candidates = {
        "torchaudio, clip by clip": theirs,
        "zoo, whole batch": lambda: fbank(waves, 16000, num_mel_bins=o.bins),
    }
    check(candidates, 1e-3)
    title = f"{o.clips} clips of {o.seconds} s, kaldi filter banks on the device"
    paired(candidates, rounds=o.rounds, clock=clock_of(o.device), title=title, items=o.clips)


def main() -> None:
    """Print three tables; one on a GPU."""
    o = options(dict(clips=2, rounds=1), clips=16, seconds=10, bins=128, rounds=15, device="cpu")
    torch.set_num_threads(1)  # before anything runs: on many cores the threads of small operations wait for each other
    if o.device == "cuda":
        on_a_gpu(o)
        return
    rng = numpy.random.default_rng(0)
    waves = [rng.normal(0, 0.1, o.seconds * 16000).astype(numpy.float32) for _ in range(o.clips)]
    theirs = ASTFeatureExtractor(num_mel_bins=o.bins)
    ours = SpectrogramFeatureExtractor.from_transformers(theirs.to_dict())
    arguments: dict[str, Any] = dict(sampling_rate=16000, return_tensors="pt")
    candidates = {
        "transformers ASTFeatureExtractor": lambda: theirs(waves, **arguments)["input_values"],
        "torchaudio, clip by clip": partial(torchaudio_features, waves, ours),
        "zoo, whole batch": lambda: ours(waves, sampling_rate=16000, too_long="cut")["input_values"],
    }
    title = f"{o.clips} clips of {o.seconds} s, kaldi filter banks"
    check(candidates)
    paired(candidates, rounds=o.rounds, title=title, items=o.clips)
    whisper = WhisperFeatureExtractor(80)
    mine = SpectrogramFeatureExtractor.from_transformers(whisper.to_dict())
    candidates = {
        "transformers WhisperFeatureExtractor": lambda: whisper(waves, **arguments)["input_features"],
        "zoo, whole batch": lambda: mine(waves, sampling_rate=16000, too_long="cut")["input_features"],
    }
    check(candidates)
    paired(candidates, rounds=o.rounds, title=f"{o.clips} clips of {o.seconds} s, Whisper's log-mel", items=o.clips)
    waveform, own = Wav2Vec2FeatureExtractor(), WaveformFeatureExtractor()
    candidates = {
        "transformers Wav2Vec2FeatureExtractor": lambda: waveform(waves, padding=True, **arguments)["input_values"],
        "zoo": lambda: own(waves, sampling_rate=16000)["input_values"],
    }
    check(candidates)
    paired(candidates, rounds=o.rounds, title=f"{o.clips} clips of {o.seconds} s, waveforms", items=o.clips)


if __name__ == "__main__":
    main()
