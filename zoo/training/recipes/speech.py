"""Speech recognition recipe: model, transcribed audio clips, vocabulary and task from settings."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from zoo.checkpoints.create import create_model
from zoo.checkpoints.load import load
from zoo.data.audio.speech import Recordings, SpeechSplits, Utterances, WaveformAugment, load_speech
from zoo.data.text.datamodule import GroupedByLengthDataModule
from zoo.models.base import Model
from zoo.nn.losses.ctc import frames_needed
from zoo.preprocessing.ctc_vocabulary import Vocabulary
from zoo.preprocessing.waveform import WaveformFeatureExtractor
from zoo.tasks.ctc import CTCTask
from zoo.training.parse import SettingsError
from zoo.training.recipes.text import check_export, user_overrides
from zoo.training.recipes.val_split import train_val_split
from zoo.training.result import DatasetInfo
from zoo.training.run import Run
from zoo.utils.errors import DataError


class SpeechDataModule(GroupedByLengthDataModule):
    """Utterances in batches that are a function of (seed, step), grouped by length.

    Args:
        train, val, test: Utterances.
        augment: Turns raw batches into batches of the model; used by the task.
        options: Further arguments of GroupedByLengthDataModule.
    """

    items = "clips"

    def __init__(self, train: Utterances, val: Utterances, test: Utterances, batch_size: int, *,
                 augment: WaveformAugment, **options: Any) -> None:  # fmt: skip
        super().__init__(train, val, test, batch_size, **options)
        self.augment = augment

    def first_clip(self) -> tuple[Tensor, int]:
        """(waveform [S], sampling rate) of the first clip of the test set."""
        waves, _ = self.test.spoken.get(torch.tensor([0]), 0)
        return waves[0], self.test.spoken.sampling_rate


def open_speech(run: Run) -> tuple[Model, SpeechDataModule]:
    """Create the model, load the data and open the run folder, in this order, so that mistakes show early.

    Raises: SettingsError, RunError.
    """
    model = initial_model(run)
    try:
        pretrained = model.preprocess if run.settings.model.source else None
        sampling_rate = pretrained.sampling_rate if pretrained else 0
        sets = load_speech(run.settings.data, seed=run.settings.seed, sampling_rate=sampling_rate,
                           val_fraction=run.settings.trainer.val_fraction)  # fmt: skip
        run.open(DatasetInfo(sets.name, sets.real, sets.source, len(sets.train), len(sets.test)), model)
        one_group = torch.zeros(len(sets.train), dtype=torch.int64)
        split = train_val_split(sets, one_group, run.settings.trainer.val_fraction, run.settings.seed, "clips")
        sets = replace(sets, train=split[0], validation=split[1])
        vocabulary = pretrained.vocabulary if pretrained else None
        if vocabulary is None or model.config.head != "ctc":
            vocabulary = Vocabulary.of(sets.train.texts())
            model = model_with_ctc_head(run, vocabulary)
        preprocess = pretrained or WaveformFeatureExtractor(
            sampling_rate=sets.train.sampling_rate, return_attention_mask=True
        )
        model.preprocess = replace(preprocess, vocabulary=vocabulary)
        check_export(run, model)
        return model, speech_datamodule(run, model, vocabulary, sets)
    except ValueError as error:
        raise error if isinstance(error, SettingsError) else SettingsError(str(error)) from error


def speech_task(run: Run, model: Model, data: SpeechDataModule) -> CTCTask:
    """Create the task from the settings. Raises: SettingsError."""
    s = run.settings
    try:
        return CTCTask(
            model, augment=data.augment, width=s.task.beam_width, optim=s.optim, ema=s.trainer.ema, seed=s.seed
        )
    except ValueError as error:
        raise SettingsError(str(error)) from error


def initial_model(run: Run) -> Model:
    """Create or load the model of the settings. Raises: SettingsError, also if it does not take waveforms."""
    s = run.settings
    try:
        if s.model.source:
            model = load(s.model.source, **user_overrides(run)).train()
        else:
            model = create_model(s.model.name, head="ctc", seed=s.seed, **s.model.overrides)
    except (ValueError, TypeError) as error:
        raise SettingsError(str(error)) from error
    if not hasattr(model, "frames"):
        raise SettingsError(f"{s.model.source or s.model.name} does not take waveforms: expected a wav2vec 2.0 or a "
                            f"HuBERT")  # fmt: skip
    if s.model.source and not isinstance(model.preprocess, WaveformFeatureExtractor):
        raise SettingsError(f"model.source={s.model.source} has no audio preprocessing: expected a "
                            f"preprocessor_config.json in its folder")  # fmt: skip
    return model


def model_with_ctc_head(run: Run, vocabulary: Vocabulary) -> Model:
    """The model of the settings with a new CTC head for a vocabulary."""
    s = run.settings
    fields = {"head": "ctc", "vocab_size": len(vocabulary)}
    if s.model.source:
        return load(s.model.source, **user_overrides(run) | fields).train()
    return create_model(s.model.name, seed=s.seed, **s.model.overrides | fields)


# --- data -------------------------------------------------------------------------------------------------------------


def speech_datamodule(run: Run, model: Model, vocabulary: Vocabulary, sets: SpeechSplits) -> SpeechDataModule:
    """Data module of utterances. Raises: DataError for a clip that is too short for its text."""
    s, d = run.settings, run.settings.data
    for part in (sets.train, sets.validation, sets.test):
        check_frames(model, vocabulary, part, d.tempo if part is sets.train else 0.0)
    train = Utterances(sets.train, vocabulary, tempo=d.tempo, seed=s.seed)
    val, test = (Utterances(part, vocabulary) for part in (sets.validation, sets.test))
    return SpeechDataModule(train, val, test, d.batch_size, augment=WaveformAugment(model.preprocess, d.noise),
                            group_by_length=d.group_by_length, seed=s.seed, num_workers=d.num_workers)  # fmt: skip


def check_frames(model: Any, vocabulary: Vocabulary, part: Any, tempo: float) -> None:
    """Check that every clip, at its fastest tempo, has enough frames for its text (for CTC). Raises: DataError."""
    single = isinstance(part, Recordings)
    frames = model.frames((part.clips.lengths / (1 + tempo)).long()).tolist()
    for i, text in enumerate(part.transcripts if single else part.words):
        ids = torch.tensor([vocabulary.encode(text)])
        needed = int(frames_needed(ids, torch.tensor([ids.shape[1]]))) + (not single)
        if frames[i] < needed:
            seconds = int(part.clips.lengths[i]) / part.clips.sampling_rate
            raise DataError(
                f"clip {i} is {seconds:.2f} s long, which gives {frames[i]} frames at the fastest tempo, but {text!r} "
                f"needs {needed}: use smaller model.conv_strides or a smaller tempo=, or remove the clip"
            )
