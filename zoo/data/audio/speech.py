"""Transcribed speech: sequences of spoken digits, your own tables, Hub datasets, or synthetic spelled tones."""

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from zoo.data.audio.dataset import AudioDataset
from zoo.data.audio.load import TASK, hold_out_speaker, load_audio, read_audio
from zoo.data.audio.tables import AudioClips, audio_folder, read_audio_table
from zoo.data.config import AudioDataSettings, SpeechSettings
from zoo.data.sources.columns import TEXT_NAMES, find_column, with_values
from zoo.data.sources.find import Source, find_tables
from zoo.data.sources.groups import assign_groups
from zoo.data.sources.tables import Table
from zoo.data.splits import Items, Splits, with_test
from zoo.data.synthetic import audio as synthetic
from zoo.utils.console import announce
from zoo.utils.errors import DataError
from zoo.utils.keyed_random import KeyedRandom

TRANSCRIPTS = ("transcription", "transcript", *TEXT_NAMES)
TEST_SEQUENCES = 300


class Transcribed(Items):
    """Base of transcribed audio, addressed by index."""

    noun: ClassVar[str] = "clips"

    clips: AudioClips

    @property
    def sampling_rate(self) -> int:
        """Samples per second."""
        return self.clips.sampling_rate

    @abstractmethod
    def lengths(self) -> Tensor:
        """Number of samples of each item, int64 [N], as far as known in advance."""

    @abstractmethod
    def get(self, rows: Tensor, epoch: int) -> tuple[list[Tensor], list[str]]:
        """Waveforms [S] and transcripts of the given rows."""

    @abstractmethod
    def texts(self) -> list[str]:
        """Texts that cover all characters, to build the vocabulary from."""


@dataclass
class Recordings(Transcribed):
    """Audio clips with their transcripts."""

    clips: AudioClips
    transcripts: list[str]

    def __len__(self) -> int:
        return len(self.clips)

    def lengths(self) -> Tensor:
        return self.clips.lengths

    def get(self, rows: Tensor, epoch: int) -> tuple[list[Tensor], list[str]]:
        return [self.clips[i] for i in rows.tolist()], [self.transcripts[i] for i in rows.tolist()]

    def texts(self) -> list[str]:
        return self.transcripts

    def take(self, rows: Tensor) -> "Recordings":
        """The recordings of these rows."""
        return Recordings(self.clips.take(rows), [self.transcripts[i] for i in rows.tolist()])

    def subset(self, count: int, *, seed: int = 0) -> "Recordings":
        """The first `count` recordings; 0 keeps all."""
        return self if not count or count >= len(self) else self.select(torch.arange(count))


@dataclass
class WordSequences(Transcribed):
    """Sequences of spoken words, made by concatenating single-word clips of one speaker with pauses in between.

    The words of a sequence are a pure function of (seed, epoch, index). Training has new sequences in every epoch;
    evaluation always uses epoch 0.

    Attributes:
        clips, words: N audio clips, and the word in each clip.
        speakers: Speaker of each clip; empty if unknown.
        count: Number of sequences per epoch; 0 makes as many as there are clips.
        max_words: Maximum number of words per sequence.
        pause: Maximum pause between two words in seconds.
        seed: Seed of the sequences.
    """

    clips: AudioClips
    words: list[str]
    speakers: list[str]
    count: int
    max_words: int
    pause: float
    seed: int

    def __post_init__(self) -> None:
        speakers = self.speakers or [""] * len(self.words)
        rows = [[i for i, other in enumerate(speakers) if other == name] for name in sorted(set(speakers))]
        self.counts = torch.tensor([len(own) for own in rows])
        self.clips_of = torch.nn.utils.rnn.pad_sequence([torch.tensor(own) for own in rows], batch_first=True)

    def __len__(self) -> int:
        return self.count or len(self.clips)

    def groups(self) -> Tensor:
        """The word of each clip, int64 [N]."""
        known = sorted(set(self.words))
        return torch.tensor([known.index(word) for word in self.words])

    def take(self, rows: Tensor) -> "WordSequences":
        """Sequences of these clips."""
        words = [self.words[i] for i in rows.tolist()]
        speakers = [self.speakers[i] for i in rows.tolist()] if self.speakers else []
        return replace(self, clips=self.clips.take(rows), words=words, speakers=speakers)

    def subset(self, count: int, *, seed: int = 0) -> "WordSequences":
        """`count` sequences per epoch; 0 keeps all."""
        return replace(self, count=count or self.count)

    def lengths(self) -> Tensor:
        """Lengths in epoch 0; the number of words is the same in all epochs."""
        return self._choice(torch.arange(len(self)), 0)[0]

    def _choice(self, rows: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """(number of words [B], clip indices [B, max_words]) of the given sequences."""
        rng = KeyedRandom(self.seed, epoch, rows)
        size = KeyedRandom(self.seed, 0, rows).integers("string/size", self.max_words) + 1  # the same in every epoch
        speaker = rng.integers("string/speaker", len(self.counts))
        picks = [rng.integers(f"string/word/{i}", self.counts[speaker]) for i in range(self.max_words)]
        return size, torch.stack([self.clips_of[speaker, pick] for pick in picks], 1)

    def get(self, rows: Tensor, epoch: int) -> tuple[list[Tensor], list[str]]:
        size, chosen = self._choice(rows, epoch)
        rng = KeyedRandom(self.seed, epoch, rows)
        gaps = torch.stack([rng.uniform(f"string/gap/{i}") for i in range(self.max_words + 1)], 1)
        pauses = (gaps * self.pause * self.sampling_rate).long().tolist()
        waves, texts = [], []
        for row, count in enumerate(size.tolist()):
            clips = chosen[row, :count].tolist()
            parts = [torch.zeros(pauses[row][0])]
            for i, clip in enumerate(clips):
                parts += [self.clips[clip], torch.zeros(pauses[row][i + 1])]
            waves.append(torch.cat(parts))
            texts.append(" ".join(self.words[clip] for clip in clips))
        return waves, texts

    def texts(self) -> list[str]:
        return [" ".join(sorted(set(self.words)))]


# --- loading ----------------------------------------------------------------------------------------------------------


def load_speech(
    settings: SpeechSettings | None = None, *, seed: int = 0, sampling_rate: int = 0, val_fraction: float = 0.05
) -> Splits[Transcribed]:
    """Load and decode a dataset of transcribed speech.

    Args:
        settings: Dataset and options; see `SpeechSettings`.
        seed: Seed of splits, digit sequences and subsets.
        sampling_rate: Required sampling rate in Hz; 0 uses `settings.sampling_rate`, then that of the files.
        val_fraction: Fraction of the training clips used for validation sequences; 0 makes no validation split.

    Raises: DataError as in `load_audio`, and for clips that are too long.
    """
    s = settings or SpeechSettings()
    s = replace(s, sampling_rate=s.sampling_rate or sampling_rate)
    if sampling_rate and s.sampling_rate != sampling_rate:
        raise DataError(
            f"data.sampling_rate={s.sampling_rate}: the model of model.source= takes audio at {sampling_rate} Hz; "
            f"omit data.sampling_rate="
        )
    if s.name in ("auto", "synthetic", "synthetic_speech"):
        return _synthetic(s)
    if s.name == "fsdd":
        return load_digit_strings(s, seed, val_fraction)
    source, s = find_tables(s, TASK, read=read_audio_table, folder=audio_folder)
    return _from_tables(source, s, seed)


def _synthetic(s: SpeechSettings) -> Splits[Transcribed]:
    """The synthetic dataset of spelled tones; training and test texts do not overlap."""
    waves, texts = synthetic.make_speech(synthetic.SPELLED_TRAIN + synthetic.SPELLED_TEST, seed=0)
    clips = AudioClips.of(waves, synthetic.SAMPLING_RATE).synthetic_at(s.sampling_rate, s.resample)
    recordings = Recordings(clips, texts)
    parts = (
        torch.arange(s.max_train_samples or synthetic.SPELLED_TRAIN),
        synthetic.SPELLED_TRAIN + torch.arange(s.max_test_samples or synthetic.SPELLED_TEST),
    )
    train, test = (recordings.take(rows[rows < len(recordings)]) for rows in parts)
    return Splits(train, test, "synthetic", False, "synthesized spelled tones")


def load_digit_strings(s: SpeechSettings, seed: int, val_fraction: float) -> Splits[Transcribed]:
    """Sequences of spoken digits; test sequences use clips, or a speaker, that are not in the training split."""
    shared = {
        name: getattr(s, name)
        for name in ("data_dir", "sampling_rate", "resample", "speaker", "held_out_speaker", "on_error")
    }
    if s.group_option:
        raise DataError(f"{s.group_option} with data=fsdd: its sequences of digits are tested on one speaker by "
                        f"held_out_speaker=; omit the option")  # fmt: skip
    sets = load_audio(AudioDataSettings(name="fsdd", **shared), seed=seed)

    def sequences(part: AudioDataset, count: int) -> WordSequences:
        words = [sets.classes[i] for i in part.labels.tolist()]
        return WordSequences(part.clips, words, part.speakers, count, s.digits, s.pause, seed)

    train, test = sequences(sets.train, s.max_train_samples), sequences(sets.test, TEST_SEQUENCES)
    splits: Splits[Transcribed] = Splits(train, test, "fsdd", True, f"digit sequences from {sets.source}")
    if val_fraction:
        splits = splits.with_validation(val_fraction, seed)
        assert splits.validation is not None
        splits.validation = splits.validation.subset(s.max_test_samples or TEST_SEQUENCES)
    return splits.limited(0, s.max_test_samples, seed)


def _from_tables(source: Source, s: SpeechSettings, seed: int) -> Splits[Transcribed]:
    tables = hold_out_speaker(source.tables, s)
    text = find_column(tables["train"], s.text, "text", TRANSCRIPTS)
    recordings: dict[str, Recordings] = {}
    kept: dict[str, list[int]] = {}
    for split, table in tables.items():
        rows = with_values(table, text, s.on_error, "transcript")
        if invalid := [i for i in rows if not isinstance(table.columns[text][i], str)]:
            kind = type(table.columns[text][invalid[0]]).__name__
            raise DataError(f"{table.place(invalid[0])}: the transcript in {text!r} is {kind}, expected a string")
        clips, rows = read_audio(
            table, s, rows, sampling_rate=recordings["train"].sampling_rate if recordings else s.sampling_rate
        )
        recordings[split], kept[split] = Recordings(clips, [table.columns[text][i] for i in rows]), rows
    notes = assign_groups(recordings, tables, kept, s)
    read = {split: _drop_long_clips(part, tables[split], kept[split], s) for split, part in recordings.items()}
    read = with_test(read, seed, f"{source.where} has a single clip: none is left to hold out for testing")
    splits: Splits[Transcribed] = Splits(
        read["train"], read["test"], source.name, True, source.where, validation=read.get("validation"), notes=notes
    )
    return splits.limited(s.max_train_samples, s.max_test_samples, seed)


def _drop_long_clips(recordings: Recordings, table: Table, rows: list[int], s: SpeechSettings) -> Recordings:
    """Drop clips above `max_duration`. Raises: DataError naming the first one, unless on_error is "skip"."""
    seconds = recordings.clips.lengths / recordings.sampling_rate
    long = (seconds > s.max_duration).nonzero()[:, 0]
    if not len(long):
        return recordings
    first = f"{table.place(rows[int(long[0])])} has {seconds[long[0]]:.1f} s"
    if s.on_error == "raise":
        raise DataError(
            f"{first}, more than max_duration={s.max_duration:g}: split it into sentences, raise max_duration=, "
            f"or pass on_error=skip to skip such clips"
        )
    if len(long) == len(recordings):
        raise DataError(f"{first}, and all other clips are longer than max_duration={s.max_duration:g} as well")
    announce(f"skipped {len(long)} clips longer than {s.max_duration:g} s; {first}")
    return recordings.select((seconds <= s.max_duration).nonzero()[:, 0])
