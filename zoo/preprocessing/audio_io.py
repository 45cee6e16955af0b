"""Read audio files, whole or in blocks, as mono float32 waveforms with a known sampling rate.

soundfile decodes (wav, flac, ogg, mp3, aiff ...), PyAV does m4a (AAC), and torchaudio resamples. They are imported on
first use; if one does not work, the ImportError says how to fix it. An MP3 without a Xing or Info header does not
declare its length: libsndfile estimates it from the bit rate of the first frame, and reads no further if the bit rate
varies.
"""

import io
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from zoo.preprocessing.m4a import M4AFile, is_mp4

if TYPE_CHECKING:
    from soundfile import SoundFile

    Source = str | Path | bytes

SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".w64", ".m4a")
CHUNK = 1 << 18  # frames decoded at a time when a file is streamed
_SLACK = 64  # bytes that some writers declare beyond what they write
_STREAMED = 0x7FFF0000  # bytes: writers that cannot seek back declare the largest value of the field
_UNKNOWN = 1 << 62  # frames: what libsndfile reports for a stream of undeclared length
_LARGEST_KERNEL = 1 << 26
_REPAIR = "Get the file again, or read the intact part: zoo.preprocessing.audio_io.read(source, partial=True)"
_FULL_SCALE = {torch.int16: 1 << 15, torch.int32: 1 << 31}


class AudioError(ValueError):
    """An audio clip that cannot be used; the message names it. Libraries that do not work raise ImportError instead."""


class AudioInfo(NamedTuple):
    """Metadata of an audio file: frames (samples per channel), sampling rate in Hz, number of channels."""

    frames: int
    sampling_rate: int
    channels: int


class AudioBlock(NamedTuple):
    """A block of a stream: the index of its first sample, waveform float32 [S], sampling rate in Hz."""

    start: int
    wave: Tensor
    sampling_rate: int


def info(source: "Source") -> AudioInfo:
    """Length, sampling rate and channels, without decoding. Raises AudioError if it is not an audio file."""
    with _opened(source) as file:
        return AudioInfo(file.frames, file.samplerate, file.channels)


def read(
    source: "Source",
    *,
    sampling_rate: int | None = None,
    mono: bool = True,
    resample: bool = False,
    partial: bool = False,
) -> tuple[Tensor, int]:
    """Decode an audio file, or the bytes of one.

    Args:
        sampling_rate: The expected sampling rate in Hz; None takes that of the file.
        mono: Average all channels into one.
        resample: Whether to resample a file with another sampling rate; otherwise that is an error.
        partial: Whether to return the readable part of a truncated file; otherwise that is an error.

    Returns:
        float32 samples [S], or [C, S] with mono=False, in -1 .. 1, and their sampling rate in Hz.

    Raises:
        AudioError: The file is missing, not audio, empty or truncated, or its sampling rate or samples are invalid.
        ImportError: soundfile, or for resampling torchaudio, does not work.
    """
    name = name_of(source)
    with _opened(source) as file:
        source_rate = file.samplerate
        _check_sampling_rate(name, source_rate, sampling_rate, resample)
        wave = _read_all(file, name, partial)  # [C, S]
        if not partial:
            _check_not_truncated(source, file, name, wave.shape[1])
    wave = mixed(wave) if mono else wave.contiguous()
    return resampled(checked(wave, name), source_rate, sampling_rate or source_rate), sampling_rate or source_rate


def blocks(
    source: "Source", seconds: float, overlap: float = 0.0, *, sampling_rate: int | None = None, resample: bool = False
) -> Iterator[AudioBlock]:
    """Read a long file block by block, mixed to mono, with one block in memory; the samples are those of `read`.

    Args:
        seconds: Length of a block; the last one may be shorter.
        overlap: Seconds that a block shares with the previous one.
        sampling_rate, resample: As in `read`.

    Raises:
        AudioError: As in `read`; a truncated file raises when its end is reached.
    """
    name = name_of(source)
    if not seconds > overlap >= 0:
        raise ValueError(f"seconds={seconds}, overlap={overlap}: expected 0 <= overlap < seconds")
    with _opened(source) as file:
        _check_sampling_rate(name, file.samplerate, sampling_rate, resample)
        target_rate = sampling_rate or file.samplerate
        length, shared = round(seconds * target_rate), round(overlap * target_rate)
        start, rest = 0, torch.empty(0)
        for wave in _resampled_stream(_stream(source, file, name), file.samplerate, target_rate):
            rest = torch.cat([rest, checked(wave, name)])
            while len(rest) > length:
                yield AudioBlock(start, rest[:length], target_rate)
                start, rest = start + length - shared, rest[length - shared :]
        yield AudioBlock(start, checked(rest, name), target_rate)


def mixed(wave: Tensor) -> Tensor:
    """Average the channels: [C, S] -> [S]."""
    return wave[0].contiguous() if wave.shape[0] == 1 else wave.mean(0)


def resampled(wave: Tensor, source_rate: int, target_rate: int) -> Tensor:
    """Resample [..., S] to [..., ceil(S * target_rate / source_rate)] with torchaudio's windowed sinc filter."""
    if source_rate == target_rate:
        return wave
    _check_kernel(source_rate, target_rate)
    return torchaudio("functional").resample(wave, source_rate, target_rate)


def checked(wave: Tensor, name: str) -> Tensor:
    """The waveform, unchanged. Raises AudioError if it is empty or has samples that are not finite."""
    if not wave.numel():
        raise AudioError(f"{name} is empty: it has no samples")
    if not wave.sum().isfinite() and not wave.isfinite().all():
        places = (~wave.isfinite()).nonzero()
        raise AudioError(
            f"{name} has {len(places)} samples that are NaN or infinite, the first at index {int(places[0, -1])}: "
            f"fix the recording, or replace them by silence with torch.nan_to_num(wave)"
        )
    return wave


def as_wave(samples: Any, name: str, *, channels: bool = False) -> Tensor:
    """Convert samples [S], or with `channels` [C, S] (mixed to mono), to a float32 waveform [S].

    Floats keep their values; int16 and int32 are divided by their full scale. Others raise ValueError.
    """
    if not hasattr(samples, "__array__"):
        raise ValueError(f"{name} is a {type(samples).__name__}, expected a path, bytes or (samples, sampling_rate)")
    wave: Tensor = samples if isinstance(samples, Tensor) else torch.from_numpy(samples)
    if wave.ndim == 2 and not channels and wave.shape[0] > 1:
        raise ValueError(
            f"{name} has shape {list(wave.shape)}, which may be several clips or several channels: pass a list of "
            f"clips [S], or (samples [C, S], sampling_rate) for one clip with several channels"
        )
    if wave.ndim not in (1, 2) or (wave.ndim == 2 and wave.shape[0] > max(wave.shape[1], 1)):
        raise ValueError(
            f"{name} has shape {list(wave.shape)}, expected [S] or [C, S]: transpose it if channels are last"
        )
    if not wave.is_floating_point() and wave.dtype not in _FULL_SCALE:
        raise ValueError(f"{name} has samples of dtype {wave.dtype}, expected floats in -1 .. 1, int16 or int32")
    wave = wave.float() if wave.is_floating_point() else wave.float() / _FULL_SCALE[wave.dtype]
    return checked(mixed(wave) if wave.ndim == 2 else wave, name)


def as_sampling_rate(value: Any, name: str) -> int:
    """A sampling rate in Hz as an int. Raises ValueError if it is not a positive whole number."""
    try:
        sampling_rate = int(value)
        whole = sampling_rate == value and sampling_rate > 0
    except (TypeError, ValueError, OverflowError):
        whole = False
    if not whole:
        raise ValueError(f"{name} has sampling_rate={value!r}: expected samples per second, an integer such as 16000")
    return sampling_rate


def wrong_sampling_rate(name: str, actual: int, expected: int) -> AudioError:
    """The error for a clip that would have to be resampled when resample=False."""
    return AudioError(
        f"{name} has a sampling rate of {actual} Hz, expected {expected} Hz: resample it with "
        f"model.preprocess(audio, resample=True), or always with model.preprocess = dataclasses.replace("
        f"model.preprocess, resample=True); on the command line, --resample"
    )


def name_of(source: Any) -> str:
    """The name of a source in messages."""
    return f"audio in memory ({len(source)} bytes)" if isinstance(source, bytes) else str(source)


# --- Decoding ---------------------------------------------------------------------------------------------------------


@contextmanager
def _opened(source: "Source") -> Iterator["SoundFile | M4AFile"]:
    name = name_of(source)
    if not isinstance(source, bytes | str | Path):
        raise ValueError(f"expected a path or the bytes of an audio file, given {type(source).__name__}")
    if not isinstance(source, bytes) and not Path(source).is_file():
        what = f"{source} is a folder, and not an audio file: `zoo predict MODEL {source}` takes the files of a folder"
        raise AudioError(what if Path(source).is_dir() else f"there is no audio file {source}")
    if isinstance(source, bytes) and not source:
        raise AudioError(f"{name} is empty: it has no samples")
    try:
        file: SoundFile | M4AFile = M4AFile(source) if is_mp4(source) else _libsndfile(source)
    except (RuntimeError, TypeError, OSError) as error:
        raise AudioError(
            f"{name} is not a readable audio file: {_reason(error)} Supported formats are wav, flac, ogg, mp3, "
            f"aiff and m4a; convert others with ffmpeg -i FILE FILE.wav"
        ) from None
    with file:
        if file.frames >= _UNKNOWN:
            raise AudioError(f"{name} does not declare its length: convert it with ffmpeg -i FILE FILE.wav")
        yield file


def _libsndfile(source: "Source") -> "SoundFile":
    return soundfile().SoundFile(io.BytesIO(source) if isinstance(source, bytes) else str(source))


def _read_all(file: "SoundFile | M4AFile", name: str, partial: bool) -> Tensor:
    """All samples [C, S]; partial: those before the damage."""
    if not partial:
        return torch.from_numpy(_decoded(file, name, file.frames)).T
    parts = [torch.empty(0, file.channels)]
    try:
        while len(chunk := _decoded(file, name, CHUNK // 64)):
            parts.append(torch.from_numpy(chunk))
    except AudioError:
        pass
    return torch.cat(parts).T


def _decoded(file: "SoundFile | M4AFile", name: str, frames: int) -> Any:
    """The next frames as float32 [S, C]; fewer at the end."""
    try:
        return file.read(frames, dtype="float32", always_2d=True)
    except (RuntimeError, MemoryError) as error:
        raise AudioError(f"{name} is damaged or truncated: {_reason(error)} {_REPAIR}") from None


def _stream(source: "Source", file: "SoundFile | M4AFile", name: str) -> Iterator[Tensor]:
    """The file chunk by chunk, mixed to mono [S]."""
    done = 0
    while len(chunk := _decoded(file, name, CHUNK)):
        done += len(chunk)
        yield mixed(torch.from_numpy(chunk).T)
    _check_not_truncated(source, file, name, done)


def _reason(error: BaseException) -> str:
    text = " ".join(str(getattr(error, "error_string", error)).split())
    return text if text.endswith(".") else f"{text}."


def _check_not_truncated(source: "Source", file: "SoundFile | M4AFile", name: str, frames: int) -> None:
    """Raise if the file declares more than it has; libsndfile itself does not report this for most formats."""
    problem = ""
    for field, declared, actual in re.findall(r"^\s*([\w ]+?)\s*: (\d+) \(should be (\d+)\)", file.extra_info, re.M):
        is_size = field in ("data", "Data Size", "SSND", "riff", "Riff size")
        if is_size and int(declared) - int(actual) > _SLACK and int(declared) < _STREAMED:
            problem = f"it declares {declared} bytes and has {actual}"
    if file.format == "OGG" and not _has_last_ogg_page(_tail(source, 1 << 17)):
        problem = "its last page is missing"
    if frames < file.frames:  # an MP3 with a Xing header
        problem = f"it declares {file.frames} frames and has {frames}"
    if problem:
        raise AudioError(f"{name} is truncated: {problem}. {_REPAIR}")


def _has_last_ogg_page(tail: bytes) -> bool:
    """Whether the last page is complete and has the end-of-stream flag (RFC 3533)."""
    page = tail[max(0, tail.rfind(b"OggS")) :]
    if page[:4] != b"OggS" or len(page) < 28:
        return False
    segments = page[27 : 27 + page[26]]
    return bool(page[5] & 4) and len(page) >= 27 + page[26] + sum(segments)


def _tail(source: "Source", count: int) -> bytes:
    """The last `count` bytes."""
    if isinstance(source, bytes):
        return source[-count:]
    with open(source, "rb") as file:
        file.seek(max(0, file.seek(0, io.SEEK_END) - count))
        return file.read()


# --- Sampling rates ---------------------------------------------------------------------------------------------------


def _check_sampling_rate(name: str, actual: int, expected: int | None, resample: bool) -> None:
    if expected is not None and expected < 1:
        raise ValueError(f"sampling_rate={expected}: expected samples per second, such as 16000")
    if expected is not None and actual != expected and not resample:
        raise wrong_sampling_rate(name, actual, expected)


def _check_kernel(source_rate: int, target_rate: int) -> None:
    a, b = (rate // math.gcd(source_rate, target_rate) for rate in (source_rate, target_rate))
    if b * (a + 2 * _width(a, b)) > _LARGEST_KERNEL:
        raise AudioError(
            f"cannot resample {source_rate} Hz to {target_rate} Hz: the two have almost no common divisor, so the "
            f"filter would not fit into memory; declare the nearest common sampling rate, such as 16000 or 44100"
        )


def _width(a: int, b: int) -> int:
    """Half width in samples of torchaudio's default filter (6 zeros, rolloff 0.99) for the ratio a : b."""
    return math.ceil(6 * a / (min(a, b) * 0.99))


def _resampled_stream(chunks: Iterator[Tensor], source_rate: int, target_rate: int) -> Iterator[Tensor]:
    """Resample chunks [S] to what `resampled` makes of all of them: each with context, which is then cut off."""
    if source_rate == target_rate:
        yield from chunks
        return
    a, b = (rate // math.gcd(source_rate, target_rate) for rate in (source_rate, target_rate))
    context = math.ceil(_width(a, b) / a)  # in units of a samples, which become b
    buffer = torch.zeros(context * a)
    for chunk in chunks:
        buffer = torch.cat([buffer, chunk])
        units = len(buffer) // a - 2 * context
        if units > 0:
            window = buffer[: (units + 2 * context) * a]
            yield resampled(window, source_rate, target_rate)[context * b : (context + units) * b]
            buffer = buffer[units * a :]
    yield resampled(buffer, source_rate, target_rate)[context * b :]


# --- Libraries --------------------------------------------------------------------------------------------------------


def soundfile() -> Any:
    """The module soundfile. Raises ImportError that says how to install it."""
    try:
        return import_module("soundfile")
    except (ImportError, OSError) as error:  # OSError: the package is installed, libsndfile is missing
        raise ImportError(
            f"reading audio files needs soundfile, which does not work here ({_reason(error)[:-1]}): run pip install "
            f'--force-reinstall "soundfile>=0.13", whose wheels include libsndfile; on platforms without a wheel, '
            f"install libsndfile itself (Debian, Ubuntu: apt-get install libsndfile1). For details, run `zoo doctor`"
        ) from error


def torchaudio(part: str = "") -> Any:
    """The module torchaudio, or a submodule. Raises ImportError that says how to install it. Its wheels do not declare
    their torch version, and with another one the import fails with various errors."""
    try:
        return import_module(f"torchaudio.{part}" if part else "torchaudio")
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        raise ImportError(
            f"resampling and spectrograms need torchaudio, which does not work with torch {torch.__version__} "
            f"({_reason(error)[:-1]}): run pip install {_requirements()}. Text and vision do not need torchaudio. "
            f"For details, run `zoo doctor`"
        ) from error


def _requirements() -> str:
    """The matching versions of torch and its companions, as this package declares them."""
    try:
        lines = metadata.requires("attention-zoo") or []
    except metadata.PackageNotFoundError:
        lines = []
    pins = [line for line in lines if re.match(r"torch(vision|audio)?[<>=!~ ]", line)]
    return " ".join(f'"{line}"' for line in pins) or "a torch and a torchaudio of the same release"
