"""Datasets of transcribed speech: recordings, sequences of single-word clips, and phrases made of such clips."""

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from zoo.data.audio.tables import AudioClips
from zoo.data.splits import Items
from zoo.utils.errors import DataError
from zoo.utils.keyed_random import KeyedRandom


class Transcribed(Items):
    """Base of transcribed audio, addressed by index."""

    noun: ClassVar[str] = "clips"

    clips: AudioClips

    @property
    def sampling_rate(self) -> int:
        """Samples per second."""
        return self.clips.sampling_rate

    @property
    def longest(self) -> int:
        """Maximum number of samples of an item, in any epoch."""
        return int(self.clips.lengths.max())

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
        max_duration: Maximum length of a sequence in seconds: words after the first that do not fit are left out; 0 is
            no limit.
    """

    clips: AudioClips
    words: list[str]
    speakers: list[str]
    count: int
    max_words: int
    pause: float
    seed: int
    max_duration: float = 0.0

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

    @property
    def longest(self) -> int:
        samples = self.max_words * int(self.clips.lengths.max())
        samples += (self.max_words + 1) * int(self.pause * self.sampling_rate)
        return min(samples, self._max_samples or samples)

    @property
    def _max_samples(self) -> int:
        return int(self.max_duration * self.sampling_rate)

    def get(self, rows: Tensor, epoch: int) -> tuple[list[Tensor], list[str]]:
        size, chosen = self._choice(rows, epoch)
        pauses = random_pauses(self, rows, epoch, self.max_words)
        waves, texts = [], []
        for row, count in enumerate(size.tolist()):
            clips = chosen[row, :count].tolist()
            wave, count = join_words(self.clips, clips, pauses[row], self._max_samples)
            waves.append(wave)
            texts.append(" ".join(self.words[clip] for clip in clips[:count]))
        return waves, texts

    def texts(self) -> list[str]:
        return [" ".join(sorted(set(self.words)))]


@dataclass
class SpokenPhrases(Transcribed):
    """Phrases with given words, made by concatenating clips of these words by one speaker with pauses in between.

    The speaker and the clips are a pure function of (seed, epoch, index): training has other ones in every epoch,
    evaluation always uses epoch 0.

    Attributes:
        clips, words: N audio clips, and the word in each clip.
        speakers: Speaker of each clip; each speaks all words of the phrases.
        phrases: The texts, words separated by a space.
        pause: Maximum pause between two words in seconds.
        seed: Seed of the choice.
    """

    clips: AudioClips
    words: list[str]
    speakers: list[str]
    phrases: list[str]
    pause: float
    seed: int

    def __post_init__(self) -> None:
        self.clips_of: dict[tuple[str, str], list[int]] = {}
        for i, key in enumerate(zip(self.speakers, self.words)):
            self.clips_of.setdefault(key, []).append(i)
        self.names = sorted(set(self.speakers))
        for word in sorted({word for phrase in self.phrases for word in phrase.split()}):
            if lacking := [name for name in self.names if (name, word) not in self.clips_of]:
                raise DataError(f"no clip of {lacking[0]!r} has the word {word!r}, which the phrases contain")

    def __len__(self) -> int:
        return len(self.phrases)

    def take(self, rows: Tensor) -> "SpokenPhrases":
        """The phrases of these rows, by the same speakers."""
        return replace(self, phrases=[self.phrases[i] for i in rows.tolist()])

    def lengths(self) -> Tensor:
        """Lengths of the phrases by the slowest speaker, with the longest pauses."""
        column = {word: i for i, word in enumerate(dict.fromkeys(self.words))}
        longest = torch.zeros(len(self.names), len(column), dtype=torch.int64)  # of the clips of a speaker's word
        for (name, word), clips in self.clips_of.items():
            longest[self.names.index(name), column[word]] = self.clips.lengths[clips].max()
        rows = [[column[word] for word in phrase.split()] for phrase in self.phrases]
        pause = int(self.pause * self.sampling_rate)
        return torch.stack([longest[:, row].sum(1).max() + (len(row) + 1) * pause for row in rows])

    @property
    def longest(self) -> int:
        return int(self.lengths().max())

    def get(self, rows: Tensor, epoch: int) -> tuple[list[Tensor], list[str]]:
        texts = [self.phrases[i] for i in rows.tolist()]
        rng, longest = KeyedRandom(self.seed, epoch, rows), max(len(text.split()) for text in texts)
        speaker = rng.integers("phrase/speaker", len(self.names)).tolist()
        picks = [rng.uniform(f"phrase/clip/{i}").tolist() for i in range(longest)]
        pauses = random_pauses(self, rows, epoch, longest)
        waves = []
        for row, text in enumerate(texts):
            choices = [self.clips_of[self.names[speaker[row]], word] for word in text.split()]
            clips = [choice[int(picks[i][row] * len(choice))] for i, choice in enumerate(choices)]
            waves.append(join_words(self.clips, clips, pauses[row])[0])
        return waves, texts

    def texts(self) -> list[str]:
        return self.phrases


def random_pauses(data: WordSequences | SpokenPhrases, rows: Tensor, epoch: int, words: int) -> list[list[int]]:
    """Numbers of samples of the pauses before, between and after up to `words` words of each row."""
    rng = KeyedRandom(data.seed, epoch, rows)
    gaps = torch.stack([rng.uniform(f"string/gap/{i}") for i in range(words + 1)], 1)
    pauses: list[list[int]] = (gaps * data.pause * data.sampling_rate).long().tolist()
    return pauses


def join_words(clips: AudioClips, rows: list[int], pauses: list[int], most: int = 0) -> tuple[Tensor, int]:
    """(waveform [S] of clips with pauses around them, number of clips in it): those that fit into `most` samples, at
    least one; 0 takes all."""
    parts, samples, count = [torch.zeros(pauses[0])], pauses[0], 0
    for clip, pause in zip(rows, pauses[1:]):
        wave = clips[clip]
        samples += len(wave) + pause
        if most and count and samples > most:
            break
        parts += [wave, torch.zeros(pause)]
        count += 1
    return torch.cat(parts), count
