"""Data module of transcribed speech: waveforms and labels in batches, with speed perturbation and noise."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from zoo.data.audio.transcribed import SpokenPhrases, Transcribed, WordSequences
from zoo.data.datamodule import KeyedDataModule
from zoo.data.keyed_batches import Keys
from zoo.data.splits import Splits
from zoo.nn.losses.ctc import frames_needed
from zoo.preprocessing.ctc_vocabulary import Vocabulary
from zoo.preprocessing.waveform import WaveformFeatureExtractor
from zoo.utils.errors import DataError
from zoo.utils.keyed_random import KeyedRandom


class TextEncoder(Protocol):
    """Encodes the transcripts of a dataset as labels."""

    def encode(self, text: str) -> list[int]: ...


class SpeechDataModule(KeyedDataModule):
    """Data module of transcribed speech for CTC; see `Utterances` for its batches.

    Args:
        splits: Dataset splits from `load_speech`.
        model: The recognizer; its `preprocess` has the vocabulary, and its `frames` gives the frames of a clip.
        batch_size: Clips per optimizer step, summed over all devices and accumulation steps.
        tempo: Maximum speed perturbation in training, as a fraction.
        noise: Maximum level of the noise added in training, as a fraction of the clip's RMS level.
        options: Options of `KeyedDataModule`.

    Attributes:
        augment: Turns a raw batch into a batch of the model; the task applies it, `data.augment(batch, seed=..., ...)`.

    Raises: DataError for a clip that is too short for its text; ValueError for a model without a vocabulary.
    """

    label_padding = 0

    def __init__(self, splits: Splits[Transcribed], model: Any, batch_size: int = 32, *, tempo: float = 0.0,
                 noise: float = 0.0, group_by_length: bool = True, seed: int = 0, **options: Any) -> None:  # fmt: skip
        encoder = self.text_encoder(model)

        def utterances(part: Transcribed, training: bool) -> Utterances:
            self.check_clips(model, encoder, part, tempo if training else 0.0)
            return Utterances(part, encoder, label_padding=self.label_padding, tempo=tempo if training else 0.0,
                              seed=seed)  # fmt: skip

        super().__init__(splits, batch_size, dataset=utterances, group_by_length=group_by_length, seed=seed, **options)
        self.augment: NoiseAugment = self.make_augment(model, noise)

    def text_encoder(self, model: Any) -> TextEncoder:
        """What encodes the transcripts: the vocabulary of the model."""
        vocabulary: Vocabulary | None = getattr(model.preprocess, "vocabulary", None)
        if vocabulary is None:
            raise ValueError("the model has no vocabulary, which encodes the transcripts: set model.preprocess to "
                             "dataclasses.replace(model.preprocess, vocabulary=Vocabulary.of(texts))")  # fmt: skip
        return vocabulary

    def check_clips(self, model: Any, encoder: TextEncoder, part: Transcribed, tempo: float) -> None:
        """Check that the clips fit the model. Raises: DataError."""
        check_frames(model, encoder, part, tempo)

    def make_augment(self, model: Any, noise: float) -> "NoiseAugment":
        """What turns a raw batch into one of the model."""
        return WaveformAugment(model.preprocess, noise)

    def first_clip(self) -> tuple[Tensor, int]:
        """(waveform [S], sampling rate) of the first clip of the test set."""
        waves, _ = self.splits.test.get(torch.tensor([0]), 0)
        return waves[0], self.splits.test.sampling_rate


def check_frames(model: Any, vocabulary: TextEncoder, part: Transcribed, tempo: float) -> None:
    """Check that every clip, at its fastest tempo, has enough frames for its text (for CTC). Raises: DataError."""
    clips = part.clips
    texts, single = (part.words, False) if isinstance(part, WordSequences | SpokenPhrases) else (part.texts(), True)
    frames = model.frames((clips.lengths / (1 + tempo)).long()).tolist()
    for i, text in enumerate(texts):
        ids = torch.tensor([vocabulary.encode(text)])
        needed = int(frames_needed(ids, torch.tensor([ids.shape[1]]))) + (not single)
        if frames[i] < needed:
            seconds = int(clips.lengths[i]) / clips.sampling_rate
            raise DataError(
                f"clip {i} is {seconds:.2f} s long, which gives {frames[i]} frames at the fastest tempo, but {text!r} "
                f"needs {needed}: use smaller model.conv_strides or a smaller tempo=, or remove the clip"
            )


class Utterances(Dataset[Any]):
    """Dataset of transcribed speech with speed perturbation.

    Batches: `waves` [B, S] padded with zeros, `samples` [B] (number of samples without padding) and `lengths` (the same
    as a list, which stays on the host), `labels` [B, L], `label_lengths` [B], `index` [B], `epoch`.

    Args:
        spoken: The transcribed audio.
        encoder: Encodes the transcripts, as a `Vocabulary` does.
        label_padding: Value of the padding of labels.
        tempo: Each clip is played at 1 - tempo to 1 + tempo times its speed, a pure function of (seed, epoch, index).
        seed: Seed of the speed perturbation.
    """

    def __init__(self, spoken: Transcribed, encoder: TextEncoder, *, label_padding: int = 0, tempo: float = 0.0,
                 seed: int = 0) -> None:  # fmt: skip
        self.spoken, self.encoder, self.label_padding = spoken, encoder, label_padding
        self.tempo, self.seed = tempo, seed
        self.lengths = spoken.lengths()

    def __len__(self) -> int:
        return len(self.spoken)

    def __getitems__(self, keys: Keys) -> dict[str, Any]:
        rows = torch.tensor(list(keys))
        waves, texts = self.spoken.get(rows, keys.epoch)
        if self.tempo:
            speed = 1 + self.tempo * (2 * KeyedRandom(self.seed, keys.epoch, rows).uniform("tempo") - 1)
            waves = [change_speed(wave, factor) for wave, factor in zip(waves, speed.tolist())]
        ids = [torch.tensor(self.encoder.encode(text)) for text in texts]
        pad = torch.nn.utils.rnn.pad_sequence
        return {
            "waves": pad(waves, batch_first=True),
            "samples": torch.tensor([len(wave) for wave in waves]),
            "lengths": [len(wave) for wave in waves],
            "labels": pad(ids, batch_first=True, padding_value=self.label_padding),
            "label_lengths": torch.tensor([len(row) for row in ids]),
            "index": rows,
            "epoch": keys.epoch,
        }


def change_speed(wave: Tensor, factor: float) -> Tensor:
    """Change the speed and pitch of a waveform [S] by linear interpolation."""
    return F.interpolate(wave[None, None], max(1, round(len(wave) / factor)), mode="linear", align_corners=False)[0, 0]


class NoiseAugment(ABC):
    """Base of what turns raw batches of `Utterances` into batches of a model; adds noise in training.

    Args:
        noise: Maximum noise level as a fraction of the clip's RMS level; the level is sampled for each clip.
    """

    def __init__(self, noise: float = 0.0) -> None:
        self.noise = noise

    @abstractmethod
    def __call__(self, batch: Mapping[str, Any], *, seed: int, step: int, train: bool) -> dict[str, Any]: ...

    def waves(self, batch: Mapping[str, Any], seed: int, train: bool) -> tuple[Tensor, Tensor]:
        """(waveforms [B, S], in training with noise; True where they are not padding [B, S])."""
        waves, count = batch["waves"], batch["samples"]
        real = torch.arange(waves.shape[1], device=waves.device) < count[:, None]
        if train and self.noise:
            waves = waves + self._noise(waves, count, KeyedRandom(seed, batch["epoch"], batch["index"])) * real
        return waves, real

    def _noise(self, waves: Tensor, count: Tensor, rng: KeyedRandom) -> Tensor:
        """Noise [B, S] at a random level per clip; each sample depends only on its clip and position."""
        positions = torch.arange(waves.shape[1], device=waves.device)
        each = KeyedRandom(0, rng.bits("noise")[:, None], positions)
        rms = (waves.square().sum(1) / count).sqrt()
        level = self.noise * rng.uniform("noise/share") * rms
        return (each.uniform("first") + each.uniform("second") - 1) * (6**0.5 * level)[:, None]


class WaveformAugment(NoiseAugment):
    """Adds noise to a batch of waveforms in training and normalizes it as `model.preprocess` does.

    Args:
        preprocess: Feature extractor of the model; defines whether clips are normalized.
        noise: Maximum noise level as a fraction of the clip's RMS level; the level is sampled for each clip.
    """

    def __init__(self, preprocess: WaveformFeatureExtractor, noise: float = 0.0) -> None:
        super().__init__(noise)
        self.normalize = preprocess.normalize

    def __call__(self, batch: Mapping[str, Any], *, seed: int, step: int, train: bool) -> dict[str, Any]:
        """Convert a batch of Utterances to input_values, attention_mask [B, S], lengths, labels [B, L], label_lengths
        [B]."""
        waves, real = self.waves(batch, seed, train)
        count = batch["samples"]
        if self.normalize:
            waves = (waves - waves.sum(1, keepdim=True) / count[:, None]) * real
            waves = waves / (waves.square().sum(1, keepdim=True) / count[:, None] + 1e-7).sqrt()
        kept = {name: batch[name] for name in ("lengths", "labels", "label_lengths") if name in batch}
        return {"input_values": waves, "attention_mask": real.long()} | kept
