"""Sounds and what is said in them: strings of spoken digits, tables of a user's own, the hub's, or spelled tones."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from zoo.data.audio.dataset import AudioDataset
from zoo.data.audio.load import hold_out_speaker, load_audio, named_tables, read_audio, with_values
from zoo.data.audio.tables import AudioClips, column
from zoo.data.config import AudioDataSettings, SpeechSettings
from zoo.data.keyed_batches import Keys
from zoo.data.sources.tables import Table
from zoo.data.splits import held_rows
from zoo.data.synthetic import audio as synthetic
from zoo.data.text.load import TEXT_NAMES
from zoo.preprocessing.audio_io import resampled
from zoo.preprocessing.ctc_vocabulary import Vocabulary
from zoo.preprocessing.waveform import WaveformFeatureExtractor
from zoo.utils.console import announce
from zoo.utils.errors import DataError
from zoo.utils.keyed_random import KeyedRandom

TRANSCRIPTS = ("transcription", "transcript", *TEXT_NAMES)
TEST_SHARE = 0.1
TEST_STRINGS = 300


class Transcribed(Protocol):
    """Sounds with texts, by number."""

    sampling_rate: int

    def __len__(self) -> int: ...

    def lengths(self) -> Tensor:
        """Samples of each, int64 [N], as far as they are known beforehand."""
        ...

    def get(self, rows: Tensor, epoch: int) -> tuple[list[Tensor], list[str]]:
        """Waves [S] and texts."""
        ...

    def texts(self) -> list[str]:
        """Whatever texts can occur, to learn the characters from."""
        ...


@dataclass
class Recordings:
    """clips: N sounds; said: the text of each."""

    clips: AudioClips
    said: list[str]

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def sampling_rate(self) -> int:
        return self.clips.sampling_rate

    def lengths(self) -> Tensor:
        return self.clips.lengths

    def get(self, rows: Tensor, epoch: int) -> tuple[list[Tensor], list[str]]:
        return [self.clips[i] for i in rows.tolist()], [self.said[i] for i in rows.tolist()]

    def texts(self) -> list[str]:
        return self.said

    def take(self, rows: Tensor) -> "Recordings":
        """Those of these rows."""
        return Recordings(self.clips.take(rows), [self.said[i] for i in rows.tolist()])


@dataclass
class Strings:
    """Single words put together to strings, each of one speaker, with pauses between.

    Which words a string has is a pure function of (seed, epoch, number): training hears other strings in each epoch,
    while those of evaluation, whose epoch is always 0, stay.

    Attributes:
        clips, words: N sounds, and the word in each.
        speakers: Who speaks in each; empty where nobody knows.
        count: Strings of an epoch.
        longest: Words of a string, at most.
        pause: Seconds between two words, at most.
    """

    clips: AudioClips
    words: list[str]
    speakers: list[str]
    count: int
    longest: int
    pause: float
    seed: int

    def __post_init__(self) -> None:
        who = self.speakers or [""] * len(self.words)
        names = sorted(set(who))
        mine = [[i for i, name in enumerate(who) if name == one] for one in names]
        self.counts = torch.tensor([len(rows) for rows in mine])
        self.members = torch.nn.utils.rnn.pad_sequence([torch.tensor(rows) for rows in mine], batch_first=True)

    def __len__(self) -> int:
        return self.count

    @property
    def sampling_rate(self) -> int:
        return self.clips.sampling_rate

    def lengths(self) -> Tensor:
        """Of the strings of epoch 0; later ones have about as many words."""
        return self._choice(torch.arange(self.count), 0)[0]

    def _choice(self, rows: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """(words of each string [B], their clips [B, longest])."""
        draws = KeyedRandom(self.seed, epoch, rows)
        size = KeyedRandom(self.seed, 0, rows).integers("string/size", self.longest) + 1  # the same in every epoch
        speaker = draws.integers("string/speaker", len(self.counts))
        places = [draws.integers(f"string/word/{i}", self.counts[speaker]) for i in range(self.longest)]
        return size, torch.stack([self.members[speaker, place] for place in places], 1)

    def get(self, rows: Tensor, epoch: int) -> tuple[list[Tensor], list[str]]:
        size, chosen = self._choice(rows, epoch)
        draws = KeyedRandom(self.seed, epoch, rows)
        gaps = torch.stack([draws.uniform(f"string/gap/{i}") for i in range(self.longest + 1)], 1)
        silent = (gaps * self.pause * self.sampling_rate).long().tolist()
        waves, texts = [], []
        for row, count in enumerate(size.tolist()):
            clips = chosen[row, :count].tolist()
            parts = [torch.zeros(silent[row][0])]
            for i, clip in enumerate(clips):
                parts += [self.clips[clip], torch.zeros(silent[row][i + 1])]
            waves.append(torch.cat(parts))
            texts.append(" ".join(self.words[clip] for clip in clips))
        return waves, texts

    def texts(self) -> list[str]:
        return [" ".join(sorted(set(self.words)))]


@dataclass
class SpeechSplits:
    """Parts of a data set of speech; see AudioSplits."""

    train: Any
    validation: Any
    test: Any
    name: str
    real: bool
    source: str


class Utterances(Dataset[Any]):
    """Batches of speech: `waves` [B, S] with zeros behind each, `samples` [B] (how many are real), `labels` [B, L],
    `label_lengths` [B], `index` [B], `epoch`.

    tempo: each clip is played at 1 - tempo to 1 + tempo of its speed, a pure function of (seed, epoch, number).
    """

    def __init__(self, spoken: Transcribed, vocabulary: Vocabulary, *, tempo: float = 0.0, seed: int = 0) -> None:
        self.spoken, self.vocabulary, self.tempo, self.seed = spoken, vocabulary, tempo, seed
        self.lengths = spoken.lengths()

    def __len__(self) -> int:
        return len(self.spoken)

    def __getitems__(self, keys: Keys) -> dict[str, Tensor]:
        rows = torch.tensor(list(keys))
        waves, texts = self.spoken.get(rows, keys.epoch)
        if self.tempo:
            speed = 1 + self.tempo * (2 * KeyedRandom(self.seed, keys.epoch, rows).uniform("tempo") - 1)
            waves = [faster(wave, by) for wave, by in zip(waves, speed.tolist())]
        ids = [torch.tensor(self.vocabulary.encode(text)) for text in texts]
        pad = torch.nn.utils.rnn.pad_sequence
        return {
            "waves": pad(waves, batch_first=True),
            "samples": torch.tensor([len(wave) for wave in waves]),
            "labels": pad(ids, batch_first=True),
            "label_lengths": torch.tensor([len(one) for one in ids]),
            "index": rows,
            "epoch": torch.tensor(keys.epoch),
        }


def faster(wave: Tensor, by: float) -> Tensor:
    """A wave [S] played at another speed, its pitch going along; linear between the samples."""
    return F.interpolate(wave[None, None], max(1, round(len(wave) / by)), mode="linear", align_corners=False)[0, 0]


class WaveformAugment:
    """Makes the model's batch of a raw one: noise in training, then each clip as `model.preprocess` has it.

    Args:
        preprocess: Of the model; says whether clips are normalized.
        noise: The strongest noise, as a share of a clip's loudness; how much is drawn for each clip.
    """

    def __init__(self, preprocess: WaveformFeatureExtractor, noise: float = 0.0) -> None:
        self.normalize, self.noise = preprocess.normalize, noise

    def __call__(self, batch: Mapping[str, Any], *, seed: int, step: int, train: bool) -> dict[str, Tensor]:
        """batch: of Utterances. Returns input_values and attention_mask [B, S], labels [B, L], label_lengths [B]."""
        waves, count = batch["waves"], batch["samples"]
        places = torch.arange(waves.shape[1], device=waves.device)
        real = places < count[:, None]
        if train and self.noise:
            waves = waves + self._noise(waves, count, KeyedRandom(seed, batch["epoch"], batch["index"])) * real
        if self.normalize:
            waves = (waves - waves.sum(1, keepdim=True) / count[:, None]) * real
            waves = waves / (waves.square().sum(1, keepdim=True) / count[:, None] + 1e-7).sqrt()
        kept = {name: batch[name] for name in ("labels", "label_lengths")}
        return {"input_values": waves, "attention_mask": real.long()} | kept

    def _noise(self, waves: Tensor, count: Tensor, draws: KeyedRandom) -> Tensor:
        """[B, S] of variance 1 times each clip's share; a sample's noise hangs on its clip and place alone."""
        places = torch.arange(waves.shape[1], device=waves.device)
        each = KeyedRandom(0, draws.bits("noise")[:, None], places)
        loudness = (waves.square().sum(1) / count).sqrt()
        share = self.noise * draws.uniform("noise/share") * loudness
        return (each.uniform("first") + each.uniform("second") - 1) * (6**0.5 * share)[:, None]


# --- where it comes from ----------------------------------------------------------------------------------------------


def load_speech(
    settings: SpeechSettings | None = None, *, seed: int = 0, sampling_rate: int = 0, holdout: float = 0.05
) -> SpeechSplits:
    """Find, read and decode sounds with transcripts; see `SpeechSettings` for where from.

    Args:
        seed: Of the split, of strings, and of the choice of fewer sounds.
        sampling_rate: Samples per second that are needed; 0 leaves it to `settings.sampling_rate`, then to the files.
        holdout: Share of the training takes that the validation's strings are made of; 0 makes none.

    Raises: DataError, as `load_sounds`; also for clips that are too long.
    """
    s = settings or SpeechSettings()
    s = replace(s, sampling_rate=s.sampling_rate or sampling_rate)
    if sampling_rate and s.sampling_rate != sampling_rate:
        raise DataError(
            f"sampling_rate={s.sampling_rate}: the model of model.source= hears {sampling_rate} samples per second; leave rate= away"
        )
    if s.name in ("auto", "synthetic", "synthetic_speech"):
        return _synthetic(s)
    if s.name == "fsdd":
        return digit_strings(s, seed, holdout)
    tables, source, name = named_tables(s, "speech recognition", "letters spelled in tones by the program")
    return replace(_from_tables(tables, s, seed), name=name, source=source)


def _synthetic(s: SpeechSettings) -> SpeechSplits:
    """The spelled tones; no text of the test stands in the training."""
    waves, texts = synthetic.make_speech(synthetic.SPELLED_TRAIN + synthetic.SPELLED_TEST, seed=0)
    if s.sampling_rate not in (0, synthetic.SAMPLING_RATE):
        if not s.resample:
            raise DataError(f"the embedded tones have {synthetic.SAMPLING_RATE} samples per second, {s.sampling_rate} are asked for: "
                            f"resample=true converts them")  # fmt: skip
        waves = [resampled(wave, synthetic.SAMPLING_RATE, s.sampling_rate) for wave in waves]
    made = Recordings(AudioClips.of(waves, s.sampling_rate or synthetic.SAMPLING_RATE), texts)
    parts = (
        torch.arange(s.max_train_samples or synthetic.SPELLED_TRAIN),
        synthetic.SPELLED_TRAIN + torch.arange(s.max_test_samples or synthetic.SPELLED_TEST),
    )
    train, test = (made.take(rows[rows < len(made)]) for rows in parts)
    return SpeechSplits(train, None, test, "synthetic", False, "synthesized by the program")


def digit_strings(s: SpeechSettings, seed: int, holdout: float) -> SpeechSplits:
    """Strings of the spoken digits; those of the test are made of takes, or of a speaker, that training never hears."""
    shared = {
        name: getattr(s, name)
        for name in ("data_dir", "sampling_rate", "resample", "speaker", "held_out_speaker", "on_error")
    }
    sets = load_audio(AudioDataSettings(name="fsdd", **shared), seed=seed)
    held = held_rows(sets.train.labels, holdout, seed) if holdout else torch.zeros(len(sets.train), dtype=torch.bool)
    kept = sets.train.take((~held).nonzero()[:, 0])

    def strings(part: AudioDataset, count: int) -> Strings:
        words = [sets.classes[i] for i in part.labels.tolist()]
        return Strings(part.clips, words, part.speakers, count, s.digits, s.pause, seed)

    few = s.max_test_samples or TEST_STRINGS
    validation = strings(sets.train.take(held.nonzero()[:, 0]), few) if holdout else None
    return SpeechSplits(strings(kept, s.max_train_samples or len(kept)), validation, strings(sets.test, few), "fsdd", True,
                      f"strings of digits from {sets.source}")  # fmt: skip


def _from_tables(tables: dict[str, Table], s: SpeechSettings, seed: int) -> SpeechSplits:
    tables = hold_out_speaker(tables, s)
    text = column(tables["train"], s.text, "text", TRANSCRIPTS)
    read: dict[str, Recordings] = {}
    for split, table in tables.items():
        rows = with_values(table, text, s.on_error, "transcript")
        if odd := [i for i in rows if not isinstance(table.columns[text][i], str)]:
            kind = type(table.columns[text][odd[0]]).__name__
            raise DataError(f"{table.place(odd[0])}: the transcript in {text!r} is {kind}, expected a string")
        clips, rows = read_audio(table, s, rows, sampling_rate=read["train"].sampling_rate if read else s.sampling_rate)
        made = Recordings(clips, [table.columns[text][i] for i in rows])
        read[split] = _short_enough(made, table, rows, s)
    if "test" not in read:
        held = held_rows(torch.zeros(len(read["train"]), dtype=torch.int64), TEST_SHARE, seed)
        if held.all():
            raise DataError(f"{tables['train'].where} holds a single sound: none is left for the test")
        whole = read["train"]
        read |= {"train": whole.take((~held).nonzero()[:, 0]), "test": whole.take(held.nonzero()[:, 0])}
    limits = {"train": s.max_train_samples, "test": s.max_test_samples}
    read = {split: one.take(torch.arange(len(one))[: limits.get(split) or None]) for split, one in read.items()}
    return SpeechSplits(read["train"], read.get("validation"), read["test"], s.name, True, tables["train"].where)


def _short_enough(made: Recordings, table: Table, rows: list[int], s: SpeechSettings) -> Recordings:
    """Without the clips that are too long, which stop a run unless it skips. Raises: DataError naming the first."""
    seconds = made.clips.lengths / made.sampling_rate
    long = (seconds > s.max_duration).nonzero()[:, 0]
    if not len(long):
        return made
    first = f"{table.place(rows[int(long[0])])} has {seconds[long[0]]:.1f} s"
    if s.on_error == "raise":
        raise DataError(f"{first}, max_duration={s.max_duration:g}: cut it into sentences, raise max_duration=, or pass on_error=skip "
                        f"to leave such clips out")  # fmt: skip
    if len(long) == len(made):
        raise DataError(f"{first}, and all others are longer than max_duration={s.max_duration:g} too")
    announce(f"{len(long)} clips longer than {s.max_duration:g} s were left out; {first}")
    return made.take((seconds <= s.max_duration).nonzero()[:, 0])
