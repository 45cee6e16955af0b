"""Features equal those of torchaudio, clip by clip, on whole batches of any shape."""

import pytest
import torch
import torchaudio
from torch import Tensor
from torchaudio.compliance import kaldi

from zoo.preprocessing import filter_banks
from zoo.preprocessing.filter_banks import fbank, frames_of, log_mel, samples_of, whisper_log_mel

CLOSE = 1e-5


def waves(clips: int, samples: int) -> Tensor:
    """Noise, tones with an offset, a click and silence."""
    generator = torch.Generator().manual_seed(0)
    given = torch.randn(clips, samples, generator=generator) * torch.rand(clips, 1, generator=generator)
    given[0] = 0.3 * torch.sin(torch.arange(samples) / 7) + 0.2
    if clips > 2:
        given[1], given[2] = 0, 0
        given[2, samples // 2] = 1
    return given


def error(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
    return ((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1)).item()


@pytest.mark.parametrize(
    "clips, samples, sampling_rate, options",
    [
        (5, 30_000, 16000, {}),
        (40, 4_000, 8000, {"num_mel_bins": 64}),
        (3, 400, 16000, {"num_mel_bins": 23, "window": "povey"}),
        (1, 100_000, 16000, {"window": "hamming", "frame_length": 20.0, "frame_shift": 12.5}),
        (3, 22_051, 22050, {"num_mel_bins": 80, "low_freq": 50.0, "high_freq": 8000.0, "window": "rectangular"}),
        (2, 9_000, 16000, {"preemphasis": 0.0}),
    ],
    ids=str,
)
def test_fbank_is_kaldis(clips: int, samples: int, sampling_rate: int, options: dict) -> None:
    words = {
        "num_mel_bins": "num_mel_bins",
        "window": "window_type",
        "frame_length": "frame_length",
        "frame_shift": "frame_shift",
    }
    words |= {"low_freq": "low_freq", "high_freq": "high_freq", "preemphasis": "preemphasis_coefficient"}
    theirs = {"num_mel_bins": 128, "window_type": "hanning", "sample_frequency": float(sampling_rate)}
    theirs |= {words[name]: value for name, value in options.items()}
    given = waves(clips, samples)
    expected = torch.stack([kaldi.fbank(wave[None], **theirs) for wave in given])
    ours = fbank(given, sampling_rate, **options)
    assert error(ours, expected) <= CLOSE and ours.isfinite().all()
    frame_length, frame_shift = options.get("frame_length", 25.0), options.get("frame_shift", 10.0)
    assert ours.shape[1] == frames_of(samples, sampling_rate, frame_length, frame_shift)
    least = samples_of(ours.shape[1], sampling_rate, frame_length, frame_shift)
    assert (
        frames_of(least, sampling_rate, frame_length, frame_shift)
        == ours.shape[1]
        == frames_of(least - 1, sampling_rate, frame_length, frame_shift) + 1
    )


def test_fbank_in_float64_and_what_pieces_do(monkeypatch: pytest.MonkeyPatch) -> None:
    given = waves(3, 12_000)
    whole = fbank(given, 16000)
    assert whole.dtype == torch.float32
    exact = torch.stack([kaldi.fbank(wave[None], window_type="hanning", num_mel_bins=128) for wave in given.double()])
    assert error(fbank(given.double(), 16000), exact) <= 1e-12
    monkeypatch.setattr(filter_banks, "PIECE", 7)
    assert error(fbank(given, 16000), whole) <= 1e-6
    assert torch.equal(given, waves(3, 12_000)), "the input is left as it is"


def test_a_clip_does_not_depend_on_its_batch() -> None:
    given = waves(9, 5_000)
    assert error(fbank(given[4:5], 16000), fbank(given, 16000)[4:5]) <= 1e-6


@pytest.mark.parametrize("scale, norm", [("htk", None), ("slaney", "slaney")])
def test_log_mel_is_torchaudios(scale: str, norm: str | None) -> None:
    given = waves(4, 9_000)
    mel = torchaudio.transforms.MelSpectrogram(
        16000, 512, hop_length=128, n_mels=40, f_min=20, f_max=7600, mel_scale=scale, norm=norm
    )
    ours = log_mel(given, 16000, num_mel_bins=40, fft=512, hop=128, low_freq=20, high_freq=7600, scale=scale)  # type: ignore[arg-type]
    assert error(ours, mel(given).clamp_min(1e-10).log().mT) <= CLOSE


@pytest.mark.parametrize("num_mel_bins", [80, 128])
def test_whispers_log_mel_is_that_of_its_extractor(num_mel_bins: int) -> None:
    from transformers import WhisperFeatureExtractor

    extractor = WhisperFeatureExtractor(num_mel_bins, chunk_length=3)
    given = waves(4, 48_000)
    given[3, 20_000:] = 0
    theirs = extractor(list(given.numpy()), sampling_rate=16000, return_tensors="pt")["input_features"]
    assert error(whisper_log_mel(given, num_mel_bins=num_mel_bins), theirs) <= CLOSE
    for samples in (1, 30, 201, 7_777, 47_700, 47_841, 47_999):
        cut = given[:, :samples]
        theirs = extractor(list(cut.numpy()), sampling_rate=16000, return_tensors="pt")["input_features"]
        assert error(whisper_log_mel(cut, num_mel_bins=num_mel_bins, frames=300), theirs) <= CLOSE, samples


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: fbank(torch.zeros(2, 399), 16000), "at least one frame of 400 samples"),
        (lambda: fbank(torch.zeros(500), 16000), "expected"),
        (lambda: fbank(torch.zeros(1, 500), 16000, high_freq=9000.0), "half the sampling rate"),
        (lambda: fbank(torch.zeros(1, 500), 16000, num_mel_bins=3), "more than 3"),
        (lambda: fbank(torch.zeros(1, 500), 16000, window="hann"), "window='hann'"),  # type: ignore[arg-type]
        (lambda: log_mel(torch.zeros(1, 200), 16000), "more than 200 samples"),
        (lambda: log_mel(torch.zeros(1, 500), 16000, scale="bark"), "scale='bark'"),  # type: ignore[arg-type]
    ],
)
def test_invalid_inputs(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_the_filters_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    filter_banks._kaldi_filters.cache_clear()
    made = []
    banks = kaldi.get_mel_banks
    monkeypatch.setattr(kaldi, "get_mel_banks", lambda *args: made.append(1) or banks(*args))
    for _ in range(3):
        fbank(waves(1, 999), 16000)
    assert len(made) == 1
