"""Batched spectrograms of waveforms: kaldi's filter banks, log-mel, and Whisper's log-mel.

For kaldi, torchaudio's filters are computed once per setting, and frames are processed in pieces that stay in the
cache. The order of operations is that of `torchaudio.compliance.kaldi`, because the log of tiny energies amplifies
rounding: the values are the same in less than half of the time.
"""

import math
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.preprocessing.audio_io import torchaudio

Window = Literal["hanning", "povey", "hamming", "rectangular"]
PIECE = 256  # frames processed at a time on a CPU
LONG_PIECE = 6000  # of a long clip for Whisper
GROUPS = 4  # filters are narrow: the product is split into groups that skip the frequencies with zero weight
EPSILON = torch.finfo(torch.float32).eps  # kaldi's floor of an energy, whatever the dtype


@torch.no_grad()
def fbank(
    waves: Tensor,
    sampling_rate: int,
    *,
    num_mel_bins: int = 128,
    frame_length: float = 25.0,
    frame_shift: float = 10.0,
    low_freq: float = 20.0,
    high_freq: float | None = None,
    window: Window = "hanning",
    preemphasis: float = 0.97,
    out: Tensor | None = None,
) -> Tensor:
    """Kaldi's log mel filter banks without dither, equal to `torchaudio.compliance.kaldi.fbank` for each clip.

    Args:
        waves: float [B, S] in -1 .. 1.
        sampling_rate: Samples per second.
        frame_length, frame_shift: In milliseconds.
        low_freq, high_freq: Range of the filters in Hz; high_freq=None is half the sampling rate.
        out: Tensor to write the output to, of the same shape.

    Returns:
        [B, T, bins] with T = `frames_of(S, sampling_rate)`: only complete frames.

    Raises:
        ValueError: The clips are shorter than one frame, or the filters do not fit the sampling rate.
    """
    size, step = _samples(sampling_rate, frame_length), _samples(sampling_rate, frame_shift)
    if waves.ndim != 2 or waves.shape[1] < size or step < 1:
        raise ValueError(
            f"waves of shape {list(waves.shape)}: expected [B, S] with at least one frame of {size} samples "
            f"({frame_length:g} ms at {sampling_rate} Hz)"
        )
    waves = waves if waves.dtype == torch.float64 else waves.float()
    padded = 1 << (size - 1).bit_length()
    filters = _kaldi_filters(
        num_mel_bins,
        padded,
        sampling_rate,
        low_freq,
        sampling_rate / 2 if high_freq is None else high_freq,
        waves.dtype,
        waves.device,
    )
    shape = _window(window, size, waves.dtype, waves.device)
    frames = waves.unfold(1, size, step)  # [B, T, size]
    out = waves.new_empty(*frames.shape[:2], num_mel_bins) if out is None else out
    work = waves.new_zeros(0)
    for clips, part in _pieces(len(waves), frames.shape[1], waves.device.type == "cpu"):
        piece = frames[clips, part]
        if work.shape[:2] != piece.shape[:2]:
            work = waves.new_zeros(*piece.shape[:2], padded)
        _emphasized(piece, shape, preemphasis, work[..., :size])
        spectrum = torch.view_as_real(torch.fft.rfft(work)).square_()
        power = (spectrum[..., 0] + spectrum[..., 1]).flatten(0, 1)  # [b * t, padded / 2 + 1]
        energies = torch.cat([power[:, rows] @ weights for rows, weights in filters], 1)
        out[clips, part] = energies.view(*piece.shape[:2], num_mel_bins).clamp_min_(EPSILON).log_()
    return out


def frames_of(samples: int, sampling_rate: int, frame_length: float = 25.0, frame_shift: float = 10.0) -> int:
    """The number of frames that `fbank` computes from this many samples."""
    size, step = _samples(sampling_rate, frame_length), _samples(sampling_rate, frame_shift)
    return max(0, 1 + (samples - size) // step)


def samples_of(frames: int, sampling_rate: int, frame_length: float = 25.0, frame_shift: float = 10.0) -> int:
    """The fewest samples from which `fbank` computes this many frames."""
    return _samples(sampling_rate, frame_length) + (frames - 1) * _samples(sampling_rate, frame_shift)


@torch.no_grad()
def log_mel(
    waves: Tensor,
    sampling_rate: int,
    *,
    num_mel_bins: int = 80,
    fft: int = 400,
    hop: int = 160,
    low_freq: float = 0.0,
    high_freq: float | None = None,
    scale: Literal["htk", "slaney"] = "htk",
    floor: float = 1e-10,
) -> Tensor:
    """Natural logarithm of torchaudio's MelSpectrogram: periodic Hann window, centered frames, power.

    Args:
        waves: float [B, S], longer than half a window, because the edges are reflected.
        fft, hop: Samples per frame and between frames.
        scale: Mel scale of the filters; "slaney" is librosa's, with filters of equal area.
        floor: Lower bound of the power.

    Returns:
        [B, S // hop + 1, bins].
    """
    filters = _mel_filters(
        num_mel_bins, fft, sampling_rate, low_freq, sampling_rate / 2 if high_freq is None else high_freq, scale
    )
    return _mel_power(waves, filters, fft, hop).clamp_min_(floor).log_().mT


@torch.no_grad()
def whisper_log_mel(
    waves: Tensor,
    sampling_rate: int = 16000,
    *,
    num_mel_bins: int = 80,
    fft: int = 400,
    hop: int = 160,
    frames: int | None = None,
) -> Tensor:
    """Input features of Whisper: log10 of mel power, at most 8 below the maximum of the clip (Radford et al. 2022).

    Args:
        waves: float [B, S].
        frames: Number of frames that the model takes: clips are padded with silence, without computing its spectra.

    Returns:
        [B, bins, frames]; with frames=None, S // hop frames.
    """
    frames = waves.shape[1] // hop if frames is None else frames
    active = min(frames, (waves.shape[1] + fft // 2) // hop + 1)  # the other frames are silence
    waves = F.pad(waves, (0, max(0, min(frames * hop, active * hop + fft) - waves.shape[1])))
    power = _mel_power(waves, _whisper_filters(num_mel_bins, fft, sampling_rate), fft, hop)[..., :active]
    return _whisper_scaled(F.pad(power, (0, frames - active)))


def long_whisper_log_mel(
    wave: Tensor, sampling_rate: int = 16000, *, num_mel_bins: int = 80, fft: int = 400, hop: int = 160
) -> Tensor:
    """`whisper_log_mel` of one waveform [S] of any length, computed in pieces of a minute, with silence after its end.

    Returns [bins, S // hop], at least one frame.
    """
    frames, edge = max(1, len(wave) // hop), -(-fft // (2 * hop))  # edge: frames that see the end of a piece
    filters = _whisper_filters(num_mel_bins, fft, sampling_rate)
    wave = F.pad(wave, (0, max(0, (frames + edge) * hop + fft - len(wave))))
    power = torch.empty(num_mel_bins, frames, dtype=wave.dtype, device=wave.device)
    for start in range(0, frames, LONG_PIECE):
        first, stop = max(0, start - edge), min(frames, start + LONG_PIECE)
        piece = _mel_power(wave[None, first * hop : (stop + edge) * hop], filters, fft, hop)[0]
        power[:, start:stop] = piece[:, start - first : stop - first]
    return _whisper_scaled(power[None])[0]


# --- Implementation ---------------------------------------------------------------------------------------------------


def _whisper_scaled(power: Tensor) -> Tensor:
    """log10 of mel power [B, bins, T], at most 8 below the maximum of the clip, scaled; changes its argument."""
    logs = power.clamp_min_(1e-10).log10_()
    return torch.maximum(logs, logs.amax((1, 2), keepdim=True) - 8.0).add_(4.0).div_(4.0)


def _samples(sampling_rate: int, milliseconds: float) -> int:
    return int(sampling_rate * milliseconds * 0.001)  # kaldi truncates


def _pieces(clips: int, frames: int, split: bool) -> list[tuple[slice, slice]]:
    """Slices of clips and of their frames that are processed together."""
    if not split:
        return [(slice(0, clips), slice(0, frames))]
    step = max(1, PIECE // frames)
    return [
        (slice(clip, min(clip + step, clips)), slice(start, min(start + PIECE, frames)))
        for clip in range(0, clips, step)
        for start in range(0, frames, PIECE)
    ]


def _emphasized(frames: Tensor, window: Tensor, amount: float, out: Tensor) -> None:
    """Frames [..., size] with their mean removed, pre-emphasized by `amount` and windowed."""
    centered = frames - frames.mean(-1, keepdim=True)
    torch.mul(centered[..., :-1], amount, out=out[..., 1:])
    torch.mul(centered[..., :1], amount, out=out[..., :1])
    torch.sub(centered, out, out=out)
    out.mul_(window)


@lru_cache(maxsize=16)
def _window(name: Window, size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    if name == "hanning":
        return torch.hann_window(size, periodic=False, dtype=dtype, device=device)
    if name == "povey":
        return torch.hann_window(size, periodic=False, dtype=dtype, device=device).pow(0.85)
    if name == "hamming":
        return torch.hamming_window(size, periodic=False, alpha=0.54, beta=0.46, dtype=dtype, device=device)
    if name == "rectangular":
        return torch.ones(size, dtype=dtype, device=device)
    raise ValueError(f"window={name!r}: expected 'hanning', 'povey', 'hamming' or 'rectangular'")


@lru_cache(maxsize=16)
def _kaldi_filters(
    num_mel_bins: int,
    fft: int,
    sampling_rate: int,
    low_freq: float,
    high_freq: float,
    dtype: torch.dtype,
    device: torch.device,
) -> list[tuple[slice, Tensor]]:
    """The mel filters in groups of neighbors, each with its nonzero rows only: (rows, weights)."""
    if not (0 <= low_freq < high_freq <= sampling_rate / 2 and num_mel_bins > 3):
        raise ValueError(
            f"num_mel_bins={num_mel_bins} between low_freq={low_freq:g} and high_freq={high_freq:g} Hz: expected more "
            f"than 3 bins, with 0 <= low_freq < high_freq <= {sampling_rate / 2:g} Hz, half the sampling rate"
        )
    banks, _ = torchaudio("compliance.kaldi").get_mel_banks(
        num_mel_bins, fft, float(sampling_rate), low_freq, high_freq, 100.0, -500.0, 1.0
    )
    weights = F.pad(banks, (0, 1)).T.to(device, dtype)  # [fft / 2 + 1, bins]
    groups = []
    for group in weights.chunk(GROUPS, 1):
        rows = group.any(1).nonzero()[:, 0]
        kept = slice(int(rows[0]), int(rows[-1]) + 1) if len(rows) else slice(0, 1)
        groups.append((kept, group[kept].contiguous()))
    return groups


def _mel_power(waves: Tensor, filters: Tensor, fft: int, hop: int) -> Tensor:
    """Mel power: [B, S] -> [B, bins, S // hop + 1]."""
    if waves.ndim != 2 or waves.shape[1] <= fft // 2:
        raise ValueError(
            f"waves of shape {list(waves.shape)}: expected [B, S] with more than {fft // 2} samples, half a frame"
        )
    waves = waves if waves.dtype == torch.float64 else waves.float()
    window = torch.hann_window(fft, dtype=waves.dtype, device=waves.device)
    spectrum = torch.view_as_real(torch.stft(waves, fft, hop, window=window, return_complex=True)).square_()
    power = spectrum[..., 0] + spectrum[..., 1]  # [B, fft / 2 + 1, T]
    return filters.to(waves) @ power


@lru_cache(maxsize=16)
def _mel_filters(
    num_mel_bins: int, fft: int, sampling_rate: int, low_freq: float, high_freq: float, scale: Literal["htk", "slaney"]
) -> Tensor:
    """Mel filters [bins, fft / 2 + 1]."""
    if scale not in ("htk", "slaney"):
        raise ValueError(f"scale={scale!r}: expected 'htk' or 'slaney'")
    norm = "slaney" if scale == "slaney" else None
    return (
        torchaudio("functional")
        .melscale_fbanks(fft // 2 + 1, low_freq, high_freq, num_mel_bins, sampling_rate, norm, scale)
        .T.contiguous()
    )


@lru_cache(maxsize=4)
def _whisper_filters(num_mel_bins: int, fft: int, sampling_rate: int) -> Tensor:
    """float64 [bins, fft / 2 + 1]: up to 8000 Hz on the Slaney scale, linear to 1000 Hz and logarithmic above.

    torchaudio computes the same filters in float32, which for 128 bins changes the features by 2e-5.
    """
    top = 15 + math.log(8) * 27 / math.log(6.4)
    mels = torch.linspace(0, top, num_mel_bins + 2, dtype=torch.float64)
    edges = torch.where(mels < 15, mels * 200 / 3, 1000 * ((mels - 15) * math.log(6.4) / 27).exp())
    hz = torch.linspace(0, sampling_rate // 2, fft // 2 + 1, dtype=torch.float64)
    left, middle, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    filters = torch.minimum((hz - left) / (middle - left), (right - hz) / (right - middle)).clamp_min(0)
    return filters * 2 / (right - left)
