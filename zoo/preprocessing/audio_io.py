"""Sound files to samples: whole or in a stream, mixed to one channel, at a sampling rate that is always known.

Decoded by soundfile (wav, flac, ogg, mp3, aiff ...), resampled by torchaudio. Both are imported here alone, when they
are needed, and one that does not work says how it is mended.
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

if TYPE_CHECKING:
    from soundfile import SoundFile

    Source = str | Path | bytes

CHUNK = 1 << 18  # frames that are decoded at once of a file that is read in a stream
_SLACK = 64  # bytes that sloppy writers declare beyond what they write
_STREAMED = 0x7FFF0000  # bytes: writers that cannot go back declare as much as the field holds
_UNKNOWN = 1 << 62  # frames: libsndfile's word for a stream that does not say how long it is
_LARGEST_KERNEL = 1 << 26
_KILOBITS = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)  # per second, of MPEG 1 layer III
_KILOBITS_2 = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)  # of MPEG 2 and 2.5
_FULL_SCALE = {torch.int16: 1 << 15, torch.int32: 1 << 31}


class AudioError(ValueError):
    """A sound that cannot be used: it is named, with what is wrong. Broken libraries raise ImportError instead."""


class AudioInfo(NamedTuple):
    """What a file says of itself: frames (samples of each channel), rate in Hz, channels."""

    frames: int
    sampling_rate: int
    channels: int


class AudioBlock(NamedTuple):
    """A piece of a stream: the place of its first sample, wave float32 [S], rate in Hz."""

    start: int
    wave: Tensor
    sampling_rate: int


def info(source: "Source") -> AudioInfo:
    """Length, rate and channels without decoding. Raises AudioError for what is no sound."""
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
    """Decode a file, or the bytes of one.

    Args:
        sampling_rate: The rate that is wanted, in Hz; None takes the file's.
        mono: Mix all channels into one by their mean.
        resample: Whether a file of another rate is resampled; otherwise it is an error.
        partial: Take what there is of a file that is cut off; otherwise that is an error.

    Returns:
        float32 samples [S], or [C, S] with mono=False, in -1 .. 1, and their rate in Hz.

    Raises:
        AudioError: It is missing, no sound, empty, cut off, of another rate, or has samples that are no numbers.
        ImportError: soundfile or, to resample, torchaudio does not work.
    """
    name = name_of(source)
    with _opened(source) as file:
        have = file.samplerate
        _check_rate(name, have, sampling_rate, resample)
        wave = _all(file, name, partial)  # [C, S]
        if not partial:
            _refuse_cut(source, file, name, wave.shape[1])
    wave = mixed(wave) if mono else wave.contiguous()
    return resampled(checked(wave, name), have, sampling_rate or have), sampling_rate or have


def blocks(
    source: "Source", seconds: float, overlap: float = 0.0, *, sampling_rate: int | None = None, resample: bool = False
) -> Iterator[AudioBlock]:
    """A long file piece by piece, mixed to one channel, in memory for one piece; their samples are those of `read`.

    Args:
        seconds: Length of a piece; the last one is what is left.
        overlap: Seconds that a piece shares with the one before.
        sampling_rate, resample: As in `read`.

    Raises:
        AudioError: As in `read`; that a file is cut off shows at its end.
    """
    name = name_of(source)
    if not seconds > overlap >= 0:
        raise ValueError(f"seconds={seconds}, overlap={overlap}: expected an overlap from 0 to less than a piece")
    with _opened(source) as file:
        _check_rate(name, file.samplerate, sampling_rate, resample)
        want = sampling_rate or file.samplerate
        length, shared = round(seconds * want), round(overlap * want)
        start, rest = 0, torch.empty(0)
        for wave in _resampled_stream(_stream(source, file, name), file.samplerate, want):
            rest = torch.cat([rest, checked(wave, name)])
            while len(rest) > length:
                yield AudioBlock(start, rest[:length], want)
                start, rest = start + length - shared, rest[length - shared :]
        yield AudioBlock(start, checked(rest, name), want)


def mixed(wave: Tensor) -> Tensor:
    """[C, S] -> [S], the mean of the channels."""
    return wave[0].contiguous() if wave.shape[0] == 1 else wave.mean(0)


def resampled(wave: Tensor, have: int, want: int) -> Tensor:
    """[..., S] at `have` Hz -> [..., ceil(S * want / have)] at `want` Hz, by torchaudio's windowed sinc."""
    if have == want:
        return wave
    _check_kernel(have, want)
    return torchaudio("functional").resample(wave, have, want)


def checked(wave: Tensor, name: str) -> Tensor:
    """The samples themselves, unless there are none or some are no numbers, which raises AudioError."""
    if not wave.numel():
        raise AudioError(f"{name} is empty: it has no samples")
    if not wave.sum().isfinite() and not wave.isfinite().all():
        places = (~wave.isfinite()).nonzero()
        raise AudioError(
            f"{name} has {len(places)} samples that are NaN or infinite, the first at {int(places[0, -1])}; "
            f"mend the recording, or torch.nan_to_num(wave) if they may be silence"
        )
    return wave


def as_wave(given: Any, name: str, *, channels: bool = False) -> Tensor:
    """float32 [S] of an array or tensor [S], or with `channels` [C, S], which are mixed.

    Floats are taken as they are, int16 and int32 as shares of their full scale, as files are read. Raises ValueError
    for anything else.
    """
    wave = given if isinstance(given, Tensor) else torch.from_numpy(given) if hasattr(given, "__array__") else None
    if wave is None:
        raise ValueError(f"{name}: expected a path, bytes, samples or (samples, rate), given {type(given).__name__}")
    if wave.ndim == 2 and not channels and wave.shape[0] > 1:
        raise ValueError(
            f"{name} has the shape {list(wave.shape)}, several clips or several channels: give a list of clips [S], or "
            f"(samples [C, S], rate) for one of several channels"
        )
    if wave.ndim not in (1, 2) or (wave.ndim == 2 and wave.shape[0] > max(wave.shape[1], 1)):
        raise ValueError(f"{name} has the shape {list(wave.shape)}, expected samples [S], or [C, S]: transpose it")
    if not wave.is_floating_point() and wave.dtype not in _FULL_SCALE:
        raise ValueError(f"{name} has samples of {wave.dtype}, expected floats in -1 .. 1, int16 or int32")
    wave = wave.float() if wave.is_floating_point() else wave.float() / _FULL_SCALE[wave.dtype]
    return checked(mixed(wave) if wave.ndim == 2 else wave, name)


def as_sampling_rate(given: Any, name: str) -> int:
    """A sampling rate in Hz. Raises ValueError for what cannot be one."""
    try:
        sampling_rate = int(given)
        whole = sampling_rate == given and sampling_rate > 0
    except (TypeError, ValueError, OverflowError):
        whole = False
    if not whole:
        raise ValueError(f"{name} has the sampling rate {given!r}: expected samples per second, such as 16000")
    return sampling_rate


def wrong_sampling_rate(name: str, have: int, want: int) -> AudioError:
    """What is said of a sound that would have to be resampled, and was not allowed to be."""
    return AudioError(
        f"{name} has {have} samples per second, expected {want}: pass resample=True to convert it, to "
        f"model.preprocess(sounds, resample=True) or once for all, model.preprocess = dataclasses.replace("
        f"model.preprocess, resample=True); zoo predict takes --resample"
    )


def name_of(source: Any) -> str:
    """How a source is called in messages."""
    return f"a sound in memory ({len(source)} bytes)" if isinstance(source, bytes) else str(source)


# --- Decoding ---------------------------------------------------------------------------------------------------------


@contextmanager
def _opened(source: "Source") -> Iterator["SoundFile"]:
    name, module = name_of(source), soundfile()
    if not isinstance(source, bytes | str | Path):
        raise ValueError(f"expected a path or the bytes of a sound file, given {type(source).__name__}")
    if not isinstance(source, bytes) and not Path(source).is_file():
        raise AudioError(f"there is no sound file {source}")
    if isinstance(source, bytes) and not source:
        raise AudioError(f"{name} is empty: it has no samples")
    try:
        file = module.SoundFile(io.BytesIO(source) if isinstance(source, bytes) else str(source))
    except (RuntimeError, TypeError, OSError) as error:
        raise AudioError(
            f"{name} is no sound file that can be read: {_reason(error)} Known are wav, flac, ogg, mp3 and aiff; "
            f"others are converted by ffmpeg -i FILE FILE.wav"
        ) from None
    with file:
        if file.frames >= _UNKNOWN:
            raise AudioError(f"{name} does not say how long it is; convert it with ffmpeg -i FILE FILE.wav")
        yield file


def _all(file: "SoundFile", name: str, partial: bool) -> Tensor:
    """[C, S]; partial: up to what is damaged."""
    if not partial:
        return torch.from_numpy(_decoded(file, name, file.frames)).T
    parts = [torch.empty(0, file.channels)]
    try:
        while len(chunk := _decoded(file, name, CHUNK // 64)):
            parts.append(torch.from_numpy(chunk))
    except AudioError:
        pass
    return torch.cat(parts).T


def _decoded(file: "SoundFile", name: str, frames: int) -> Any:
    """The next frames, float32 [S, C]; fewer at the end."""
    try:
        return file.read(frames, dtype="float32", always_2d=True)
    except (RuntimeError, MemoryError) as error:
        raise AudioError(f"{name} is damaged or cut off: {_reason(error)}") from None


def _stream(source: "Source", file: "SoundFile", name: str) -> Iterator[Tensor]:
    """One channel, chunk by chunk."""
    done = 0
    while len(chunk := _decoded(file, name, CHUNK)):
        done += len(chunk)
        yield mixed(torch.from_numpy(chunk).T)
    _refuse_cut(source, file, name, done)


def _reason(error: BaseException) -> str:
    text = " ".join(str(getattr(error, "error_string", error)).split())
    return text if text.endswith(".") else f"{text}."


def _refuse_cut(source: "Source", file: "SoundFile", name: str, frames: int) -> None:
    """Raise if the file says that it had more: libsndfile itself is silent about it in most formats."""
    said = ""
    for what, declared, there in re.findall(r"^\s*([\w ]+?)\s*: (\d+) \(should be (\d+)\)", file.extra_info, re.M):
        whole = what in ("data", "Data Size", "SSND", "riff", "Riff size")
        if whole and int(declared) - int(there) > _SLACK and int(declared) < _STREAMED:
            said = f"{declared} bytes are declared, {there} are there"
    if file.format == "OGG" and not _ogg_ends(_edge(source, -(1 << 17))):
        said = "the page that ends it is missing"
    if file.format == "MP3":
        said = _mp3_lacks(source, frames, file.frames)
    if said:
        raise AudioError(
            f"{name} is cut off: {said}. Get it anew, or take what there is: "
            f"zoo.preprocessing.audio_io.read(source, partial=True)"
        )


def _ogg_ends(tail: bytes) -> bool:
    """Whether the last page is whole and has the mark of the end (RFC 3533)."""
    page = tail[max(0, tail.rfind(b"OggS")) :]
    if page[:4] != b"OggS" or len(page) < 28:
        return False
    segments = page[27 : 27 + page[26]]
    return bool(page[5] & 4) and len(page) >= 27 + page[26] + sum(segments)


def _mp3_lacks(source: "Source", frames: int, declared: int) -> str:
    """What is missing of an MP3. One with a Xing or Info frame behind its ID3 tag tells its exact length. For others
    libsndfile takes the first frame's bit rate for that of all, and stops early where it is not: frames are counted."""
    head = _edge(source, 10)
    tag = sum(byte << 7 * (3 - i) for i, byte in enumerate(head[6:10])) + 10 if head[:3] == b"ID3" else 0
    first = _edge(source, tag + 1024)[tag:]
    if b"Xing" in first or b"Info" in first:
        return f"{declared} frames are declared, {frames} are there" if frames < declared else ""
    there = _mp3_frames(source if isinstance(source, bytes) else Path(source).read_bytes(), tag)
    lost = there - frames > 4 * 1152  # encoders add about two of its frames
    return f"it does not say its length, and of {there} frames {frames} can be read (ffmpeg mends that)" if lost else ""


def _mp3_frames(data: bytes, place: int) -> int:
    """Frames of sound in consecutive MPEG audio frames of layer III from there on (ISO 11172-3, 13818-3)."""
    count = 0
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] & 0xE6 == 0xE2:
        one = data[place + 1] & 0x18 == 0x18  # MPEG 1; else 2 or 2.5
        low = 0 if one else 1 if data[place + 1] & 0x18 == 0x10 else 2
        bits, sampling_rate = data[place + 2] >> 4, data[place + 2] >> 2 & 3
        if bits in (0, 15) or sampling_rate == 3:
            break
        samples = 1152 if one else 576
        kilobits = (_KILOBITS if one else _KILOBITS_2)[bits - 1]
        place += samples * kilobits * 125 // ((44100, 48000, 32000)[sampling_rate] >> low) + (data[place + 2] >> 1 & 1)
        count += samples
    return count


def _edge(source: "Source", count: int) -> bytes:
    """The first bytes, or with a negative count the last ones."""
    if isinstance(source, bytes):
        return source[:count] if count > 0 else source[count:]
    with open(source, "rb") as file:
        if count > 0:
            return file.read(count)
        file.seek(max(0, file.seek(0, io.SEEK_END) + count))
        return file.read()


# --- Rates ------------------------------------------------------------------------------------------------------------


def _check_rate(name: str, have: int, want: int | None, resample: bool) -> None:
    if want is not None and want < 1:
        raise ValueError(f"sampling_rate={want}: expected samples per second, such as 16000")
    if want is not None and have != want and not resample:
        raise wrong_sampling_rate(name, have, want)


def _check_kernel(have: int, want: int) -> None:
    a, b = (sampling_rate // math.gcd(have, want) for sampling_rate in (have, want))
    if b * (a + 2 * _width(a, b)) > _LARGEST_KERNEL:
        raise AudioError(
            f"{have} Hz cannot be resampled to {want} Hz: they have hardly a common divisor, and the filter would not "
            f"fit into memory; declare the nearest usual rate"
        )


def _width(a: int, b: int) -> int:
    """Samples that torchaudio's filter reaches to either side, for rates a : b (its default: 6 zeros, rolloff 0.99)."""
    return math.ceil(6 * a / (min(a, b) * 0.99))


def _resampled_stream(chunks: Iterator[Tensor], have: int, want: int) -> Iterator[Tensor]:
    """What `resampled` gives for all chunks [S] together: each is resampled with its surroundings, which are cut."""
    if have == want:
        yield from chunks
        return
    a, b = (sampling_rate // math.gcd(have, want) for sampling_rate in (have, want))
    around = math.ceil(_width(a, b) / a)  # in units of a samples, which become b
    held = torch.zeros(around * a)
    for chunk in chunks:
        held = torch.cat([held, chunk])
        units = len(held) // a - 2 * around
        if units > 0:
            yield resampled(held[: (units + 2 * around) * a], have, want)[around * b : (around + units) * b]
            held = held[units * a :]
    yield resampled(held, have, want)[around * b :]


# --- Libraries --------------------------------------------------------------------------------------------------------


def soundfile() -> Any:
    """The module soundfile. Raises ImportError that says how to mend it."""
    try:
        return import_module("soundfile")
    except (ImportError, OSError) as error:  # OSError: the package is there, libsndfile is not
        raise ImportError(
            f"sound files are read by soundfile, which does not work here ({_reason(error)[:-1]}): pip install "
            f'--force-reinstall "soundfile>=0.13" brings libsndfile along; where it has no wheel, install the '
            f"system's (Debian, Ubuntu: apt-get install libsndfile1). `zoo doctor` says more"
        ) from error


def torchaudio(part: str = "") -> Any:
    """The module torchaudio, or a part of it. Raises ImportError that says how to mend it: its wheels declare no torch,
    so that another torch than theirs makes them fail at import, with errors of several kinds."""
    try:
        return import_module(f"torchaudio.{part}" if part else "torchaudio")
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        raise ImportError(
            f"sounds are resampled and their features made by torchaudio, which does not work with torch "
            f"{torch.__version__} ({_reason(error)[:-1]}): pip install {_pins()}. Text and vision need none of it; "
            f"`zoo doctor` says more"
        ) from error


def _pins() -> str:
    """The versions that fit each other, as this package declares them."""
    try:
        lines = metadata.requires("attention-zoo") or []
    except metadata.PackageNotFoundError:
        lines = []
    fits = [line for line in lines if re.match(r"torch(vision|audio)?[<>=!~ ]", line)]
    return " ".join(f'"{line}"' for line in fits) or "a torch and a torchaudio of the same release"
