"""Load transcribed speech: sequences of spoken digits, your own tables, Hub datasets, or synthetic speech."""

from dataclasses import replace

import torch

from zoo.data.audio.dataset import AudioDataset
from zoo.data.audio.load import TASK, hold_out_speaker, load_audio, read_audio
from zoo.data.audio.tables import AudioClips, audio_folder, read_audio_table
from zoo.data.audio.transcribed import Recordings, SpokenPhrases, Transcribed, WordSequences
from zoo.data.config import AudioDataSettings, SpeechSettings
from zoo.data.sources.columns import TEXT_NAMES, find_column, with_values
from zoo.data.sources.find import Source, find_tables
from zoo.data.sources.groups import assign_groups
from zoo.data.sources.tables import Table
from zoo.data.splits import Splits, with_test
from zoo.data.synthetic import audio as synthetic
from zoo.data.synthetic import phrases as synthetic_phrases
from zoo.utils.console import announce
from zoo.utils.errors import DataError

TRANSCRIPTS = ("transcription", "transcript", *TEXT_NAMES)
TEST_SEQUENCES = 300


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
    name = s.synthetic if s.name in ("auto", "synthetic") else s.name
    if name == "synthetic_speech":
        return _spelled_tones(s)
    if name == "synthetic_phrases":
        return _synthetic_phrases(s, seed)
    if s.name == "fsdd":
        return load_digit_strings(s, seed, val_fraction)
    source, s = find_tables(s, TASK, read=read_audio_table, folder=audio_folder)
    return _from_tables(source, s, seed)


def _spelled_tones(s: SpeechSettings) -> Splits[Transcribed]:
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


def _synthetic_phrases(s: SpeechSettings, seed: int) -> Splits[Transcribed]:
    """The synthetic dataset of spoken phrases; the phrases and the voices of the test split are not in training."""
    train, test = synthetic_phrases.TRAIN, synthetic_phrases.TEST
    phrases = synthetic_phrases.make_phrases(train + test, seed=0)
    voices, test_voices = synthetic_phrases.VOICES, synthetic_phrases.TEST_VOICES
    waves, words, names = synthetic_phrases.make_spoken_words(voices + test_voices, seed=0)
    clips = AudioClips.of(waves, synthetic_phrases.SAMPLING_RATE).synthetic_at(s.sampling_rate, s.resample)
    first = voices * len(synthetic_phrases.WORDS)

    def part(rows: range, texts: list[str]) -> SpokenPhrases:
        own = clips.take(torch.tensor(rows))
        return SpokenPhrases(own, [words[i] for i in rows], [names[i] for i in rows], texts, s.pause, seed)

    return Splits(
        part(range(first), phrases[: min(train, s.max_train_samples or train)]),
        part(range(first, len(clips)), phrases[train:][: s.max_test_samples or test]),
        "synthetic", False, "synthesized phrases; those of the test split, and its voices, are not in training",
    )  # fmt: skip


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
        longest = int(part.clips.lengths.max()) / part.clips.sampling_rate + 2 * s.pause
        if longest > s.max_duration:
            raise DataError(
                f"max_duration={s.max_duration:g}: a spoken digit with its pauses has up to {longest:.2f} s"
            )
        return WordSequences(part.clips, words, part.speakers, count, s.digits, s.pause, seed, s.max_duration)

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
