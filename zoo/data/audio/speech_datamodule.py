"""Data module of transcribed speech: waveforms and labels in batches, with speed perturbation and noise."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from zoo.data.audio.speech import Transcribed, WordSequences
from zoo.data.datamodule import KeyedDataModule
from zoo.data.keyed_batches import Keys
from zoo.data.splits import Splits
from zoo.nn.losses.ctc import frames_needed
from zoo.preprocessing.ctc_vocabulary import Vocabulary
from zoo.preprocessing.waveform import WaveformFeatureExtractor
from zoo.utils.errors import DataError
from zoo.utils.keyed_random import KeyedRandom


class SpeechDataModule(KeyedDataModule):
    """Data module of transcribed speech; see `Utterances` for its batches.

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

    def __init__(self, splits: Splits[Transcribed], model: Any, batch_size: int = 32, *, tempo: float = 0.0,
                 noise: float = 0.0, group_by_length: bool = True, seed: int = 0, **options: Any) -> None:  # fmt: skip
        vocabulary = getattr(model.preprocess, "vocabulary", None)
        if vocabulary is None:
            raise ValueError("the model has no vocabulary, which encodes the transcripts: set model.preprocess to "
                             "dataclasses.replace(model.preprocess, vocabulary=Vocabulary.of(texts))")  # fmt: skip

        def utterances(part: Transcribed, training: bool) -> Utterances:
            check_frames(model, vocabulary, part, tempo if training else 0.0)
            return Utterances(part, vocabulary, tempo=tempo if training else 0.0, seed=seed)

        super().__init__(splits, batch_size, dataset=utterances, group_by_length=group_by_length, seed=seed, **options)
        self.augment = WaveformAugment(model.preprocess, noise)

    def first_clip(self) -> tuple[Tensor, int]:
        """(waveform [S], sampling rate) of the first clip of the test set."""
        waves, _ = self.splits.test.get(torch.tensor([0]), 0)
        return waves[0], self.splits.test.sampling_rate


def check_frames(model: Any, vocabulary: Vocabulary, part: Transcribed, tempo: float) -> None:
    """Check that every clip, at its fastest tempo, has enough frames for its text (for CTC). Raises: DataError."""
    clips = part.clips
    texts, single = (part.words, False) if isinstance(part, WordSequences) else (part.texts(), True)
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
        vocabulary: Encodes the transcripts.
        tempo: Each clip is played at 1 - tempo to 1 + tempo times its speed, a pure function of (seed, epoch, index).
        seed: Seed of the speed perturbation.
    """

    def __init__(self, spoken: Transcribed, vocabulary: Vocabulary, *, tempo: float = 0.0, seed: int = 0) -> None:
        self.spoken, self.vocabulary, self.tempo, self.seed = spoken, vocabulary, tempo, seed
        self.lengths = spoken.lengths()

    def __len__(self) -> int:
        return len(self.spoken)

    def __getitems__(self, keys: Keys) -> dict[str, Any]:
        rows = torch.tensor(list(keys))
        waves, texts = self.spoken.get(rows, keys.epoch)
        if self.tempo:
            speed = 1 + self.tempo * (2 * KeyedRandom(self.seed, keys.epoch, rows).uniform("tempo") - 1)
            waves = [change_speed(wave, factor) for wave, factor in zip(waves, speed.tolist())]
        ids = [torch.tensor(self.vocabulary.encode(text)) for text in texts]
        pad = torch.nn.utils.rnn.pad_sequence
        return {
            "waves": pad(waves, batch_first=True),
            "samples": torch.tensor([len(wave) for wave in waves]),
            "lengths": [len(wave) for wave in waves],
            "labels": pad(ids, batch_first=True),
            "label_lengths": torch.tensor([len(row) for row in ids]),
            "index": rows,
            "epoch": keys.epoch,
        }


def change_speed(wave: Tensor, factor: float) -> Tensor:
    """Change the speed and pitch of a waveform [S] by linear interpolation."""
    return F.interpolate(wave[None, None], max(1, round(len(wave) / factor)), mode="linear", align_corners=False)[0, 0]


class WaveformAugment:
    """Adds noise to a batch of waveforms in training and normalizes it as `model.preprocess` does.

    Args:
        preprocess: Feature extractor of the model; defines whether clips are normalized.
        noise: Maximum noise level as a fraction of the clip's RMS level; the level is sampled for each clip.
    """

    def __init__(self, preprocess: WaveformFeatureExtractor, noise: float = 0.0) -> None:
        self.normalize, self.noise = preprocess.normalize, noise

    def __call__(self, batch: Mapping[str, Any], *, seed: int, step: int, train: bool) -> dict[str, Any]:
        """Convert a batch of Utterances to input_values, attention_mask [B, S], lengths, labels [B, L], label_lengths
        [B]."""
        waves, count = batch["waves"], batch["samples"]
        real = torch.arange(waves.shape[1], device=waves.device) < count[:, None]
        if train and self.noise:
            waves = waves + self._noise(waves, count, KeyedRandom(seed, batch["epoch"], batch["index"])) * real
        if self.normalize:
            waves = (waves - waves.sum(1, keepdim=True) / count[:, None]) * real
            waves = waves / (waves.square().sum(1, keepdim=True) / count[:, None] + 1e-7).sqrt()
        kept = {name: batch[name] for name in ("lengths", "labels", "label_lengths") if name in batch}
        return {"input_values": waves, "attention_mask": real.long()} | kept

    def _noise(self, waves: Tensor, count: Tensor, rng: KeyedRandom) -> Tensor:
        """Noise [B, S] at a random level per clip; each sample depends only on its clip and position."""
        positions = torch.arange(waves.shape[1], device=waves.device)
        each = KeyedRandom(0, rng.bits("noise")[:, None], positions)
        rms = (waves.square().sum(1) / count).sqrt()
        level = self.noise * rng.uniform("noise/share") * rms
        return (each.uniform("first") + each.uniform("second") - 1) * (6**0.5 * level)[:, None]
