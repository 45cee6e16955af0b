"""What an audio classifier takes from the data: classes, length of its input, statistics of the spectrograms."""

import math
from dataclasses import replace
from typing import Any

from zoo.checkpoints.load import load
from zoo.data.audio.dataset import AudioSplits
from zoo.data.audio.spectrograms import frames_in, statistics
from zoo.data.audio.streamed import StreamedClips
from zoo.data.audio.tables import AudioClips
from zoo.models.ast.model import from_vit
from zoo.models.base import Model
from zoo.preprocessing.image import pair
from zoo.preprocessing.spectrogram import SpectrogramFeatureExtractor
from zoo.training.advice import FEW_ITEMS
from zoo.training.parse import SettingsError
from zoo.training.pretrained import require_audio_processor, set_classes
from zoo.training.run import Run

DEFAULT_MAX_DURATION = 10.0  # seconds; longest input of a new model unless `max_duration=` is given


def audio_model(run: Run, **fields: Any) -> Model:
    """The model of the settings, or an AST initialized from a ViT (`vit=`), with the ViT's dimensions.

    Raises: SettingsError, also for a model that does not take spectrograms.
    """
    c = run.config
    name = c.model.source or c.model.name
    if c.vit and c.model.source:
        raise SettingsError("vit= and model.source= are both given: give only one of them")
    if c.vit:
        overrides = {"mel_bins": 128, "max_length": 128} | run.overrides_given | fields
        try:
            return from_vit(load(c.vit, head="pool"), seed=c.seed, **overrides).train()
        except TypeError as error:
            raise SettingsError(str(error)) from error
    model = run.build_model("classify", **fields)
    if "mel_bins" not in model.config.names():
        raise SettingsError(f"{name} does not take spectrograms: expected an AST")
    if c.model.source:
        require_audio_processor(f"model.source={name}", model.preprocess, SpectrogramFeatureExtractor)
    return model


def pretrained_sampling_rate(run: Run, model: Model) -> int:
    """The sampling rate in Hz that pretrained weights need; 0 for a new model, which takes that of the data."""
    return model.preprocess.sampling_rate if run.config.model.source else 0


def fit_to_clips(run: Run, model: Model, clips: AudioSplits) -> Model:
    """The model for the clips: a pretrained one with their classes; a new one built again for their length, too."""
    c = run.config
    if c.model.source:
        set_classes(model, clips.classes, c.seed)
    else:
        preprocess = spectrograms_for(clips.train.clips, model.config, c.data, run.overrides_given.get("max_length"))
        model = audio_model(run, max_length=preprocess.frames, num_classes=len(clips.classes))
        model.preprocess = preprocess
        if len(clips.train) < FEW_ITEMS and not c.vit and (hint := patch_hint(model.config)):
            run.hints.append(f"{hint} {{longer}}")
    model.labels = list(clips.classes)
    return model


def patch_hint(config: Any) -> str:
    """Advice for few clips: patches that span all mel bins; empty if the patches do."""
    bins = config.mel_bins
    if pair(config.patch_size)[0] == bins:
        return ""
    patch = f"[{bins},4]"
    return (f"patches that span all mel bins and few frames learn faster from few clips: patch_size={patch} "
            f"stride={patch}")  # fmt: skip


def spectrograms_for(
    clips: AudioClips, config: Any, settings: Any, frames: int | None = None, **options: Any
) -> SpectrogramFeatureExtractor:
    """The preprocessing of a new model: the number of frames, mean and std of the training clips.

    Args:
        clips: The training clips; of those in shards, a sample counts.
        config: The model's config, with its mel bins and patches.
        settings: The settings of the data; without `max_duration` the longest clip counts, up to 10 seconds.
        frames: Number of frames, if the user has chosen it.
        options: Further options of `SpectrogramFeatureExtractor`.
    """
    rate = clips.sampling_rate
    clips = clips.sample() if isinstance(clips, StreamedClips) else clips
    extractor = SpectrogramFeatureExtractor(sampling_rate=rate, num_mel_bins=config.mel_bins, **options)
    if frames is None:
        seconds = settings.max_duration or min(int(clips.lengths.max()) / rate, DEFAULT_MAX_DURATION)
        frames = covered_frames(frames_in(extractor, round(seconds * rate)), config)
    mean, std = statistics(clips, extractor)
    return replace(extractor, frames=frames, mean=mean, std=std, resample=settings.resample)


def covered_frames(frames: int, config: Any) -> int:
    """`frames`, or the next number of frames of which the patches leave out none."""
    patch, step = pair(config.patch_size)[1], pair(config.stride)[1]
    return patch + max(0, math.ceil((frames - patch) / step)) * step
