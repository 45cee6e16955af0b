"""AAC in MP4 files (.m4a, .mp4), decoded by PyAV, an extra: pip install "attention-zoo[m4a]".

libsndfile does not read them. `M4AFile` has the part of `soundfile.SoundFile` that `audio_io` uses.
"""

import io
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

_SLACK = 2048  # frames: the largest packet of AAC; a file may declare that much beyond what it has


def is_mp4(source: str | Path | bytes) -> bool:
    """Whether a file, or its bytes, begins as MP4 files do, with the box `ftyp` (ISO/IEC 14496-12)."""
    if isinstance(source, bytes):
        head = source[:8]
    else:
        with open(source, "rb") as file:
            head = file.read(8)
    return head[4:8] == b"ftyp"


def av() -> Any:
    """The module av. Raises ImportError that says how to install it."""
    try:
        return import_module("av")
    except (ImportError, OSError) as error:
        raise ImportError(
            f"reading .m4a files (AAC) needs PyAV, which does not work here ({error}): pip install "
            f'"attention-zoo[m4a]", or convert the file with ffmpeg -i FILE FILE.wav'
        ) from error


class M4AFile:
    """The first audio stream of an MP4 file as float32 samples.

    frames: samples per channel that the file declares; the padding of the encoder is not part of them.

    Raises RuntimeError if it is damaged, or has no audio.
    """

    format = "M4A"
    extra_info = ""

    def __init__(self, source: str | Path | bytes) -> None:
        module = av()
        self._error = module.error.FFmpegError
        try:
            self._container = module.open(io.BytesIO(source) if isinstance(source, bytes) else str(source))
        except self._error as error:
            raise RuntimeError(
                f"{_reason(error)} An MP4 file that is cut has no index, which is often at its end."
            ) from None
        streams = self._container.streams.audio
        if not streams:
            self._container.close()
            raise RuntimeError("The file has no audio stream, or its index, which is often at its end, is missing.")
        self._packets = self._container.decode(streams[0])
        self._waiting: list[Any] = []  # decoded and not yet read, [S, C] each
        self._done = 0
        try:
            self._begin(streams[0])
        except RuntimeError:
            self._container.close()
            raise

    def _begin(self, stream: Any) -> None:
        """Decode the first frame, which knows the sampling rate better than the header."""
        first = self._next_frame()
        if first is None:
            raise RuntimeError("The audio stream is empty.")
        self.samplerate: int = first.sample_rate
        self.channels: int = first.layout.nb_channels
        seconds = float(stream.duration * stream.time_base) if stream.duration else 0.0
        seconds = seconds or (self._container.duration or 0) / av().time_base  # of fragments, the container knows it
        if seconds <= 0:
            raise RuntimeError("The file does not declare its length.")
        self.frames = round(seconds * self.samplerate)
        self._waiting.append(_samples(first))

    def __enter__(self) -> "M4AFile":
        return self

    def __exit__(self, *error: object) -> None:
        self._container.close()

    def read(self, frames: int, dtype: str = "float32", always_2d: bool = True) -> Any:
        """The next `frames` samples [S, C], fewer at the end."""
        frames = min(frames, self.frames - self._done)
        count = sum(map(len, self._waiting))
        while count < frames and (frame := self._next_frame()) is not None:
            self._waiting.append(_samples(frame))
            count += len(self._waiting[-1])
        if count < frames and self.frames - self._done - count <= _SLACK:
            self.frames = self._done + count
        waiting = np.concatenate(self._waiting) if self._waiting else np.zeros((0, self.channels), np.float32)
        taken, rest = waiting[:frames], waiting[frames:]
        self._waiting = [rest] if len(rest) else []
        self._done += len(taken)
        return taken

    def _next_frame(self) -> Any:
        """The next decoded frame; None at the end. Raises RuntimeError if the stream is damaged."""
        try:
            return next(self._packets, None)
        except self._error as error:
            raise RuntimeError(_reason(error)) from None


def _samples(frame: Any) -> Any:
    """The samples of a decoded frame as float32 [S, C] in -1 .. 1."""
    values = frame.to_ndarray()
    if not frame.format.is_planar:
        values = values.reshape(-1, frame.layout.nb_channels).T
    if values.dtype.kind == "f":
        return np.ascontiguousarray(values.T, dtype=np.float32)
    full_scale = np.float32(1 << (8 * values.dtype.itemsize - 1))
    return np.ascontiguousarray(values.T.astype(np.float32) / full_scale)


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return text if text.endswith(".") else f"{text}."
