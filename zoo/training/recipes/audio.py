"""What the recipes of audio do with their settings: model, sounds, features, task."""

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
from zoo.data.splits import balanced_rows, held_out_mask
from zoo.models.ast.model import from_vit as ast_from_vit
from zoo.models.base import Model
from zoo.preprocessing.spectrogram import SpectrogramFeatureExtractor
from zoo.tasks.classification import ClassificationTask
from zoo.tasks.problem_types import balanced
from zoo.training.parse import SettingsError
from zoo.training.recipes.text import asked, check_export
from zoo.training.result import DatasetInfo
from zoo.training.run import Run
from zoo.utils.console import announce

LONGEST = 10.0  # seconds that a fresh model hears at a time, unless `seconds=` says more


class AudioDataModule(KeyedDataModule):
    """Spectrograms in batches keyed by the step; `sounds` and `hear` are for pictures and the task.

    Args:
        sets: What the spectrograms were made of.
        hear: Makes the model's batches of raw ones.
        parts: Training, validation and test set.
        options: Of KeyedDataModule.
    """

    items = "sounds"

    def __init__(self, sets: AudioSplits, hear: SpectrogramAugment,
                 parts: tuple[Spectrograms, Spectrograms, Spectrograms],
                 batch_size: int, **options: Any) -> None:  # fmt: skip
        super().__init__(*parts, batch_size, **options)
        self.sounds, self.hear = sets, hear
        self.require_full_batch()

    def first_sound(self) -> tuple[Tensor, int]:
        """The first sound of the test [S], and its rate."""
        return self.sounds.test.clips[0], self.sounds.sampling_rate

    def some_sounds(self, count: int) -> tuple[Tensor, list[int]]:
        """Spectrograms [count, T, F] of the test as the model hears them, of as many classes as can be, and labels."""
        rows = balanced_rows(self.test.labels, min(count, len(self.test)), self.seed)
        batch = self.hear(self.test.__getitems__(Keys(rows.tolist(), 0)), seed=self.seed, step=0, train=False)
        return batch["input_values"], batch["labels"].tolist()


def open_audio(run: Run) -> tuple[Model, AudioDataModule]:
    """The model, checked before data is touched; then the data; then the run folder. The model knows both.

    Raises: SettingsError, RunError.
    """
    model = started(run)
    try:
        heard = model.preprocess if run.settings.model.source else None
        sets = load_audio(run.settings.data, seed=run.settings.seed, sampling_rate=heard.sampling_rate if heard else 0)
        run.open(DatasetInfo(sets.name, sets.real, sets.source, len(sets.train), len(sets.test)))
        train_set, val_set = parts(sets, run.settings.trainer.val_fraction, run.settings.seed)
        if heard is None:
            model = fitted(run, model, train_set, len(sets.classes))
        elif model.labels != sets.classes:
            model.reset_head(len(sets.classes), seed=run.settings.seed)
        model.labels = list(sets.classes)
        check_export(run, model)
        return model, audio_datamodule(run, model.preprocess, sets, (train_set, val_set))
    except ValueError as error:
        raise error if isinstance(error, SettingsError) else SettingsError(str(error)) from error


def audio_classifier(run: Run, model: Model, data: AudioDataModule) -> ClassificationTask:
    """The task of the settings. Raises: SettingsError."""
    s = run.settings
    try:
        weights = balanced(data.train.labels, len(data.sounds.classes)) if s.task.class_weights == "balanced" else None
        return ClassificationTask(model, optim=s.optim, label_smoothing=s.task.label_smoothing, class_weights=weights,
                        augment=data.hear, ema=s.trainer.ema, seed=s.seed)  # fmt: skip
    except ValueError as error:
        raise SettingsError(str(error)) from error


# --- models -----------------------------------------------------------------------------------------------------------


def started(run: Run) -> Model:
    """The model of the settings, which hears spectrograms and names classes; a fresh one is fitted to the data later.

    Raises: SettingsError with what `zoo.load` or `zoo.create_model` has to say.
    """
    s = run.settings
    try:
        if s.vit and s.model.source:
            raise SettingsError("vit= and model.source= are both given: a model starts from one of them")
        if s.vit:
            return from_vit(run)
        if s.model.source:
            model = load(s.model.source, **{"head": "classify"} | asked(run)).train()
        else:
            model = create_model(s.model.name, head="classify", seed=s.seed, **s.model.overrides)
    except (ValueError, TypeError) as error:
        raise error if isinstance(error, SettingsError) else SettingsError(str(error)) from error
    if "mel_bins" not in model.config.names():
        raise SettingsError(f"{s.model.source or s.model.name} does not take spectrograms: expected an AST")
    if s.model.source and not isinstance(model.preprocess, SpectrogramFeatureExtractor):
        raise SettingsError(f"model.source={s.model.source} does not say how it hears: expected its preprocessing "
                            f"(preprocessor_config.json) beside it")  # fmt: skip
    return model


def from_vit(run: Run, **fields: Any) -> Model:
    """An AST that starts from a picture model; the shape of its blocks is that one's."""
    s = run.settings
    named = {"mel_bins": 128, "max_length": 128} | asked(run) | fields
    return ast_from_vit(load(s.vit, head="pool"), seed=s.seed, **named).train()


def fitted(run: Run, model: Model, train: AudioDataset, classes: int) -> Model:
    """The fresh model with a window as long as its sounds, as many classes, and their statistics."""
    s, config = run.settings, model.config
    preprocess = SpectrogramFeatureExtractor(sampling_rate=train.clips.sampling_rate, num_mel_bins=config.mel_bins)
    frames = config.max_length
    if "max_length" not in asked(run):
        longest = int(train.clips.lengths.max()) / train.clips.sampling_rate
        seconds = s.data.max_duration or min(longest, LONGEST)
        frames = max(frames_in(preprocess, round(seconds * train.clips.sampling_rate)), _least_frames(config))
    fields = {"max_length": frames, "num_classes": classes}
    model = from_vit(run, **fields) if s.vit else create_model(
        s.model.name, head="classify", seed=s.seed, **s.model.overrides | fields
    )  # fmt: skip
    mean, std = statistics(train.clips, preprocess)
    model.preprocess = replace(preprocess, frames=frames, mean=mean, std=std, resample=s.data.resample)
    return model


def _least_frames(config: Any) -> int:
    size = config.patch_size
    return size if isinstance(size, int) else size[1]


# --- data -------------------------------------------------------------------------------------------------------------


def parts(sets: AudioSplits, share: float, seed: int) -> tuple[AudioDataset, AudioDataset]:
    """(training set, validation set): the given one, else a share of the training set, else the test set."""
    if sets.validation is not None:
        return sets.train, sets.validation
    if not share:
        return sets.train, sets.test
    held = held_out_mask(sets.train.labels, share, seed)
    if held.all():
        raise SettingsError(f"val_fraction={share} leaves none of {len(sets.train)} training sounds")
    return sets.train.take((~held).nonzero()[:, 0]), sets.train.take(held.nonzero()[:, 0])


def audio_datamodule(run: Run, preprocess: SpectrogramFeatureExtractor, sets: AudioSplits,
                 given: tuple[AudioDataset, AudioDataset]) -> AudioDataModule:  # fmt: skip
    """Spectrograms of all sounds, in batches of the settings."""
    s = run.settings
    made = [Spectrograms.of(one.clips, one.labels, preprocess) for one in (*given, sets.test)]
    longer = sum(int((one.lengths > preprocess.frames).sum()) for one in made)
    if longer:
        window = preprocess.limit / preprocess.sampling_rate
        announce(f"{longer} sounds are longer than the {window:.2f} s that the model hears at a time: training takes "
                 f"another part of each in every epoch, tests their middle (max_duration= widens it)")  # fmt: skip
    return AudioDataModule(sets, SpectrogramAugment(s.data.augment, preprocess), (made[0], made[1], made[2]),
                           s.data.batch_size,                       seed=s.seed, num_workers=s.data.num_workers)  # fmt: skip
