"""What the recipe of speech does with its settings: model, sounds with transcripts, vocabulary, task."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from zoo.checkpoints.create import create_model
from zoo.checkpoints.load import load
from zoo.data.audio.speech import Recordings, SpeechSplits, Utterances, WaveformAugment, load_speech
from zoo.data.splits import held_out_mask
from zoo.data.text.datamodule import GroupedByLengthDataModule
from zoo.models.base import Model
from zoo.nn.losses.ctc import frames_needed
from zoo.preprocessing.ctc_vocabulary import Vocabulary
from zoo.preprocessing.waveform import WaveformFeatureExtractor
from zoo.tasks.ctc import CTCTask
from zoo.training.parse import SettingsError
from zoo.training.recipes.text import asked, check_export
from zoo.training.result import DatasetInfo
from zoo.training.run import Run
from zoo.utils.errors import DataError


class SpeechDataModule(GroupedByLengthDataModule):
    """Utterances in batches keyed by the step; those of like length together. `listen` is for the task.

    Args:
        train, val, test: Utterances.
        options: Of GroupedByLengthDataModule.
    """

    items = "sounds"

    def __init__(self, train: Utterances, val: Utterances, test: Utterances, batch_size: int, *,
                 listen: WaveformAugment, **options: Any) -> None:  # fmt: skip
        super().__init__(train, val, test, batch_size, **options)
        self.listen = listen

    def first_sound(self) -> tuple[Tensor, int]:
        """The first sound of the test [S], and its rate."""
        waves, _ = self.test.spoken.get(torch.tensor([0]), 0)
        return waves[0], self.test.spoken.sampling_rate


def open_speech(run: Run) -> tuple[Model, SpeechDataModule]:
    """The model, checked before data is touched; then the data; then the run folder. The model knows both.

    Raises: SettingsError, RunError.
    """
    model = started(run)
    try:
        before = model.preprocess if run.settings.model.source else None
        sets = load_speech(run.settings.data, seed=run.settings.seed, sampling_rate=before.sampling_rate if before else 0,
                           val_fraction=run.settings.trainer.val_fraction)  # fmt: skip
        run.open(DatasetInfo(sets.name, sets.real, sets.source, len(sets.train), len(sets.test)))
        sets = with_validation(sets, run.settings.trainer.val_fraction, run.settings.seed)
        vocabulary = before.vocabulary if before else None
        if vocabulary is None or model.config.head != "ctc":
            vocabulary = Vocabulary.of(sets.train.texts())
            model = with_head(run, vocabulary)
        model.preprocess = replace(before or WaveformFeatureExtractor(sampling_rate=sets.train.sampling_rate, return_attention_mask=True),
                                   vocabulary=vocabulary)  # fmt: skip
        check_export(run, model)
        return model, speech_datamodule(run, model, vocabulary, sets)
    except ValueError as error:
        raise error if isinstance(error, SettingsError) else SettingsError(str(error)) from error


def speech_task(run: Run, model: Model, data: SpeechDataModule) -> CTCTask:
    """The task of the settings. Raises: SettingsError."""
    s = run.settings
    try:
        return CTCTask(
            model, augment=data.listen, width=s.task.beam_width, optim=s.optim, ema=s.trainer.ema, seed=s.seed
        )
    except ValueError as error:
        raise SettingsError(str(error)) from error


def started(run: Run) -> Model:
    """The model of the settings, which hears waveforms. Raises: SettingsError with what the zoo has to say."""
    s = run.settings
    try:
        if s.model.source:
            model = load(s.model.source, **asked(run)).train()
        else:
            model = create_model(s.model.name, head="ctc", seed=s.seed, **s.model.overrides)
    except (ValueError, TypeError) as error:
        raise SettingsError(str(error)) from error
    if not hasattr(model, "frames"):
        raise SettingsError(f"{s.model.source or s.model.name} does not take waveforms: expected a wav2vec 2.0 or a "
                            f"HuBERT")  # fmt: skip
    if s.model.source and not isinstance(model.preprocess, WaveformFeatureExtractor):
        raise SettingsError(f"model.source={s.model.source} does not say how it hears: expected its preprocessing "
                            f"(preprocessor_config.json) beside it")  # fmt: skip
    return model


def with_head(run: Run, vocabulary: Vocabulary) -> Model:
    """The model of the settings with a fresh head for a vocabulary."""
    s = run.settings
    fields = {"head": "ctc", "vocab_size": len(vocabulary)}
    if s.model.source:
        return load(s.model.source, **asked(run) | fields).train()
    return create_model(s.model.name, seed=s.seed, **s.model.overrides | fields)


# --- data -------------------------------------------------------------------------------------------------------------


def with_validation(sets: SpeechSplits, share: float, seed: int) -> SpeechSplits:
    """The same with a validation set: the given one, else a share of the training set, else the test set."""
    if sets.validation is not None:
        return sets
    if not share:
        return replace(sets, validation=sets.test)
    held = held_out_mask(torch.zeros(len(sets.train), dtype=torch.int64), share, seed)
    if held.all():
        raise SettingsError(f"val_fraction={share} leaves none of {len(sets.train)} training sounds")
    kept, out = (sets.train.take(part.nonzero()[:, 0]) for part in (~held, held))
    return replace(sets, train=kept, validation=out)


def speech_datamodule(run: Run, model: Model, vocabulary: Vocabulary, sets: SpeechSplits) -> SpeechDataModule:
    """Utterances in batches of the settings. Raises: DataError for a clip too short for its text."""
    s, d = run.settings, run.settings.data
    for part in (sets.train, sets.validation, sets.test):
        check_frames(model, vocabulary, part, d.tempo if part is sets.train else 0.0)
    train = Utterances(sets.train, vocabulary, tempo=d.tempo, seed=s.seed)
    val, test = (Utterances(part, vocabulary) for part in (sets.validation, sets.test))
    return SpeechDataModule(train, val, test, d.batch_size, listen=WaveformAugment(model.preprocess, d.noise),
                            group_by_length=d.group_by_length, seed=s.seed, num_workers=d.num_workers)  # fmt: skip


def check_frames(model: Any, vocabulary: Vocabulary, part: Any, tempo: float) -> None:
    """Raises: DataError unless each clip, at its fastest, has as many frames as its text needs; of strings each word
    with a space behind it."""
    single = isinstance(part, Recordings)
    frames = model.frames((part.clips.lengths / (1 + tempo)).long()).tolist()
    for i, text in enumerate(part.transcripts if single else part.words):
        ids = torch.tensor([vocabulary.encode(text)])
        needed = int(frames_needed(ids, torch.tensor([ids.shape[1]]))) + (not single)
        if frames[i] < needed:
            seconds = int(part.clips.lengths[i]) / part.clips.sampling_rate
            raise DataError(
                f"sound {i} has {seconds:.2f} s, which are {frames[i]} frames at its fastest, and {text!r} needs "
                f"{needed}: take smaller model.conv_strides, a smaller tempo=, or leave it out"
            )
