"""Audio classification recipe: model, audio clips, spectrograms and task from settings."""

import math
from dataclasses import replace
from typing import Any

from torch import Tensor

from zoo.checkpoints.create import create_model
from zoo.checkpoints.load import load
from zoo.data.audio.dataset import AudioDataset, AudioSplits
from zoo.data.audio.load import load_audio
from zoo.data.audio.spectrograms import SpectrogramAugment, Spectrograms, frames_in, statistics
from zoo.data.datamodule import KeyedDataModule
from zoo.data.keyed_batches import Keys
from zoo.data.splits import balanced_rows
from zoo.models.ast.model import from_vit as ast_from_vit
from zoo.models.base import Model
from zoo.preprocessing.image import pair
from zoo.preprocessing.spectrogram import SpectrogramFeatureExtractor
from zoo.tasks.classification import ClassificationTask
from zoo.tasks.problem_types import balanced
from zoo.training.parse import SettingsError
from zoo.training.recipes.pretrained import load_classifier, set_classes
from zoo.training.recipes.text import check_export, user_overrides
from zoo.training.recipes.val_split import train_val_split
from zoo.training.result import DatasetInfo
from zoo.training.run import Run
from zoo.utils.console import announce

DEFAULT_MAX_DURATION = 10.0  # seconds; longest input of a new model unless `max_duration=` is given


class AudioDataModule(KeyedDataModule):
    """Spectrograms in batches that are a function of (seed, step).

    Args:
        splits: The audio clips of the spectrograms, for plots.
        augment: Turns raw batches into batches of the model.
        spectrograms: Training, validation and test set.
        options: Further arguments of KeyedDataModule.
    """

    items = "clips"

    def __init__(self, splits: AudioSplits, augment: SpectrogramAugment,
                 spectrograms: tuple[Spectrograms, Spectrograms, Spectrograms],
                 batch_size: int, **options: Any) -> None:  # fmt: skip
        super().__init__(*spectrograms, batch_size, **options)
        self.splits, self.augment = splits, augment
        self.require_full_batch()

    def first_clip(self) -> tuple[Tensor, int]:
        """(waveform [S], sampling rate) of the first clip of the test set."""
        return self.splits.test.clips[0], self.splits.sampling_rate

    def sample_spectrograms(self, count: int) -> tuple[Tensor, list[int]]:
        """(spectrograms [count, T, F], labels) of test clips from as many classes as possible."""
        rows = balanced_rows(self.test.labels, min(count, len(self.test)), self.seed)
        batch = self.augment(self.test.__getitems__(Keys(rows.tolist(), 0)), seed=self.seed, step=0, train=False)
        return batch["input_values"], batch["labels"].tolist()


def open_audio(run: Run) -> tuple[Model, AudioDataModule]:
    """Create the model, load the data and open the run folder, in this order, so that mistakes show early.

    Raises: SettingsError, RunError.
    """
    model = initial_model(run)
    try:
        pretrained = model.preprocess if run.settings.model.source else None
        sampling_rate = pretrained.sampling_rate if pretrained else 0
        sets = load_audio(run.settings.data, seed=run.settings.seed, sampling_rate=sampling_rate)
        run.open(DatasetInfo(sets.name, sets.real, sets.source, len(sets.train), len(sets.test)), model)
        train_set, val_set = train_val_split(
            sets, sets.train.labels, run.settings.trainer.val_fraction, run.settings.seed, "clips"
        )
        if pretrained is None:
            model = fit_to_data(run, model, train_set, len(sets.classes))
        else:
            set_classes(model, sets.classes, run.settings.seed)
        model.labels = list(sets.classes)
        check_export(run, model)
        return model, audio_datamodule(run, model.preprocess, sets, (train_set, val_set))
    except ValueError as error:
        raise error if isinstance(error, SettingsError) else SettingsError(str(error)) from error


def audio_classifier(run: Run, model: Model, data: AudioDataModule) -> ClassificationTask:
    """Create the task from the settings. Raises: SettingsError."""
    s = run.settings
    try:
        weights = balanced(data.train.labels, len(data.splits.classes)) if s.task.class_weights == "balanced" else None
        return ClassificationTask(model, optim=s.optim, label_smoothing=s.task.label_smoothing,
                                  problem_type="single_label_classification", class_weights=weights,
                                  augment=data.augment, ema=s.trainer.ema, seed=s.seed)  # fmt: skip
    except ValueError as error:
        raise SettingsError(str(error)) from error


# --- models -----------------------------------------------------------------------------------------------------------


def initial_model(run: Run) -> Model:
    """Create or load the model of the settings; a new model is rebuilt once the data is known.

    Raises: SettingsError with the message of `zoo.load` or `zoo.create_model`.
    """
    s = run.settings
    try:
        if s.vit and s.model.source:
            raise SettingsError("vit= and model.source= are both given: give only one of them")
        if s.vit:
            return from_vit(run)
        if s.model.source:
            model = load_classifier(s.model.source, user_overrides(run))
        else:
            model = create_model(s.model.name, head="classify", seed=s.seed, **s.model.overrides)
    except (ValueError, TypeError) as error:
        raise error if isinstance(error, SettingsError) else SettingsError(str(error)) from error
    if "mel_bins" not in model.config.names():
        raise SettingsError(f"{s.model.source or s.model.name} does not take spectrograms: expected an AST")
    if s.model.source and not isinstance(model.preprocess, SpectrogramFeatureExtractor):
        raise SettingsError(f"model.source={s.model.source} has no audio preprocessing: expected a "
                            f"preprocessor_config.json in its folder")  # fmt: skip
    return model


def from_vit(run: Run, **fields: Any) -> Model:
    """An AST initialized from a ViT, with the ViT's dimensions."""
    s = run.settings
    overrides = {"mel_bins": 128, "max_length": 128} | user_overrides(run) | fields
    return ast_from_vit(load(s.vit, head="pool"), seed=s.seed, **overrides).train()


def fit_to_data(run: Run, model: Model, train: AudioDataset, classes: int) -> Model:
    """The new model rebuilt for the data: maximum length, number of classes, mean and std of the spectrograms."""
    s, config = run.settings, model.config
    preprocess = SpectrogramFeatureExtractor(sampling_rate=train.clips.sampling_rate, num_mel_bins=config.mel_bins)
    frames = config.max_length
    if "max_length" not in user_overrides(run):
        longest = int(train.clips.lengths.max()) / train.clips.sampling_rate
        seconds = s.data.max_duration or min(longest, DEFAULT_MAX_DURATION)
        frames = covered_frames(frames_in(preprocess, round(seconds * train.clips.sampling_rate)), config)
    fields = {"max_length": frames, "num_classes": classes}
    model = from_vit(run, **fields) if s.vit else create_model(
        s.model.name, head="classify", seed=s.seed, **s.model.overrides | fields
    )  # fmt: skip
    mean, std = statistics(train.clips, preprocess)
    model.preprocess = replace(preprocess, frames=frames, mean=mean, std=std, resample=s.data.resample)
    return model


def covered_frames(frames: int, config: Any) -> int:
    """`frames`, or the next number of frames of which the patches leave out none."""
    patch, step = pair(config.patch_size)[1], pair(config.stride)[1]
    return patch + max(0, math.ceil((frames - patch) / step)) * step


# --- data -------------------------------------------------------------------------------------------------------------


def audio_datamodule(run: Run, preprocess: SpectrogramFeatureExtractor, sets: AudioSplits,
                     train_val: tuple[AudioDataset, AudioDataset]) -> AudioDataModule:  # fmt: skip
    """Data module with the spectrograms of all clips."""
    s = run.settings
    train, val, test = (Spectrograms.of(part.clips, part.labels, preprocess) for part in (*train_val, sets.test))
    too_long = sum(int((part.lengths > preprocess.frames).sum()) for part in (train, val, test))
    if too_long:
        window = preprocess.max_samples / preprocess.sampling_rate
        announce(f"{too_long} clips are longer than the {window:.2f} s that the model takes: training uses a different "
                 f"part of each in every epoch, evaluation the middle (increase max_duration=)")  # fmt: skip
    return AudioDataModule(sets, SpectrogramAugment(s.data.augment, preprocess), (train, val, test),
                           s.data.batch_size, seed=s.seed, num_workers=s.data.num_workers)  # fmt: skip
