"""Tables of audio files from folders, table files and the Hub, and decoding of the files into one tensor."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.data.sources.class_folders import class_tables
from zoo.data.sources.columns import MEDIA_FILE
from zoo.data.sources.decode_all import decode_all
from zoo.data.sources.find import Read, split_tables
from zoo.data.sources.fingerprint import note_files
from zoo.data.sources.tables import Table, read_table
from zoo.preprocessing.audio_io import SUFFIXES, AudioError, info, name_of, read, resampled
from zoo.utils.errors import DataError

AUDIO_NAMES = ("audio", "file_name", "file", "path", "filename", "wav", "sound")
MIN_DURATION = 0.025  # seconds: one frame of Kaldi filter banks, and the receptive field of wav2vec 2.0


@dataclass
class AudioClips:
    """Decoded audio clips, concatenated.

    Attributes:
        samples: float32 samples of all clips.
        lengths: Number of samples of each clip, int64 [N].
        sampling_rate: Sampling rate in Hz.
    """

    samples: Tensor
    lengths: Tensor
    sampling_rate: int
    starts: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.starts = self.lengths.cumsum(0) - self.lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, i: int) -> Tensor:
        """Waveform [S] of one clip."""
        return self.samples[int(self.starts[i]) : int(self.starts[i] + self.lengths[i])]

    def take(self, rows: Tensor) -> "AudioClips":
        """The clips of these rows."""
        return AudioClips.of([self[i] for i in rows.tolist()], self.sampling_rate)

    def synthetic_at(self, sampling_rate: int, resample: bool) -> "AudioClips":
        """Synthetic clips at another sampling rate; 0 keeps theirs. Raises: DataError unless `resample` allows it."""
        if sampling_rate in (0, self.sampling_rate):
            return self
        if not resample:
            raise DataError(f"data.sampling_rate={sampling_rate}: the synthetic audio has {self.sampling_rate} Hz; "
                            f"pass data.resample=true to resample it")  # fmt: skip
        waves = [resampled(self[i], self.sampling_rate, sampling_rate) for i in range(len(self))]
        return AudioClips.of(waves, sampling_rate)

    @classmethod
    def of(cls, waves: Sequence[Tensor], sampling_rate: int) -> "AudioClips":
        """Clips from waveforms [S] of any lengths."""
        return cls(
            torch.cat(list(waves)) if waves else torch.empty(0), torch.tensor([len(w) for w in waves]), sampling_rate
        )


@dataclass
class DecodedAudio:
    """Decoded clips, with the source index of each (`kept`) and "where: why" of all other sources (`broken`)."""

    clips: AudioClips
    kept: list[int]
    broken: list[str]


def decode_audio(
    sources: Sequence[Any], where: Callable[[int], str], *, sampling_rate: int, resample: bool, on_error: str
) -> DecodedAudio:
    """Decode audio files at one sampling rate, in threads.

    Args:
        sources: Paths, or the bytes of files.
        where: Returns the name of the i-th source for messages.
        sampling_rate: Sampling rate of the result in Hz; 0 uses that of the first readable source.
        resample: Resample sources with a different sampling rate; otherwise they raise, also with on_error="skip".

    Raises:
        DataError: A different sampling rate; a broken file with on_error="raise"; no readable file with "skip".
    """
    note_files(sources)
    waves: list[Tensor | None] = [None] * len(sources)
    sampling_rate = sampling_rate or _first_rate(sources)

    def decode_one(i: int) -> str:
        if sources[i] is None:
            return f"{where(i)}: contains neither bytes nor a path"
        try:
            waves[i] = decode_clip(sources[i], where(i), sampling_rate=sampling_rate, resample=resample)
        except SamplingRateMismatch:
            raise
        except ValueError as error:
            return f"{where(i)}: {error}" if isinstance(sources[i], bytes) else str(error)
        return ""

    broken = decode_all(len(sources), decode_one, "audio file", on_error)
    kept = [i for i, wave in enumerate(waves) if wave is not None]
    return DecodedAudio(AudioClips.of([w for w in waves if w is not None], sampling_rate), kept, list(broken.values()))


def decode_clip(source: Any, place: str, *, sampling_rate: int, resample: bool) -> Tensor:
    """Waveform [S] of one audio file, a path or its bytes, at a sampling rate in Hz; place: its name for messages.

    Raises: SamplingRateMismatch for another rate, unless `resample`; AudioError for a file that is broken or too short.
    """
    have = info(source).sampling_rate
    if have != sampling_rate and not resample:
        raise SamplingRateMismatch(f"{place} has a sampling rate of {have} Hz, expected {sampling_rate}: pass "
                                   f"data.resample=true to resample (data.sampling_rate= sets the rate)")  # fmt: skip
    wave = read(source, sampling_rate=sampling_rate, resample=resample)[0]
    if len(wave) < int(MIN_DURATION * sampling_rate):
        raise AudioError(f"{name_of(source)} has {len(wave)} samples, expected at least {MIN_DURATION * 1000:g} ms "
                         f"({int(MIN_DURATION * sampling_rate)} samples)")  # fmt: skip
    return wave


class SamplingRateMismatch(DataError):
    """Raised even with on_error="skip", which would otherwise silently drop a large part of the dataset."""


def _first_rate(sources: Sequence[Any]) -> int:
    for source in sources:
        try:
            return info(source).sampling_rate
        except ValueError:
            continue
    return 0


# --- tables of audio files --------------------------------------------------------------------------------------------


def read_audio_table(file: Path, **options: Any) -> Table:
    """Read a table; paths of audio files are relative to its folder. options: those of `read_table`."""
    return with_full_paths(read_table(file, **options), file.parent)


def audio_folder(folder: Path, read: Read = read_audio_table) -> dict[str, Table]:
    """The tables of a folder by split: those that it has, or made from one sub-folder of audio files per class.

    Raises: DataError for a folder without audio in the expected layout.
    """
    tables = split_tables(folder, read, alone=("metadata",))
    return tables or class_tables(folder, SUFFIXES, "audio file")


def with_full_paths(table: Table, folder: Path) -> Table:
    """The table with its folder before the names of audio files, in columns of common names and of such names."""
    columns = dict(table.columns)
    for name, values in table.columns.items():
        texts = [value for value in values if isinstance(value, str) and value]
        if texts and (name in AUDIO_NAMES or all(map(MEDIA_FILE.fullmatch, texts))):
            columns[name] = [str(folder / v) if isinstance(v, str) and v else v for v in values]
    return replace(table, columns=columns)


def sources_of(table: Table, name: str) -> tuple[list[Any], list[str]]:
    """(sources, names) of an audio column: paths, bytes or None, and the name of each for messages."""
    sources: list[Any] = []
    names: list[str] = []
    for row, value in enumerate(table.columns[name]):
        path = value.get("path") if isinstance(value, dict) else value
        source = (value.get("bytes") or path) if isinstance(value, dict) else value
        sources.append(source if isinstance(source, bytes | str | Path) and source else None)
        has_path = isinstance(path, str | Path) and path
        place = table.place(row) + (f" ({path})" if has_path else "")
        names.append(str(path) if has_path and source is path else place)
    return sources, names
