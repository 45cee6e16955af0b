"""Audio-text contrastive recipe: towers, data and task from settings; zero-shot metrics."""

from dataclasses import replace
from typing import Any

import lightning as L
import torch
from torch import Tensor

from zoo.data.audio.spectrograms import SpectrogramAugment, Spectrograms, frames_in, statistics
from zoo.data.audio.tables import AudioClips
from zoo.data.keyed_batches import Keys
from zoo.data.pairs.audio import load_audio_pairs
from zoo.data.pairs.datamodule import AudioBatch, PairDataModule, PairRows
from zoo.data.pairs.dataset import PairDataset, PairSplits
from zoo.models.contrast.model import Contrastive
from zoo.models.registry import list_models
from zoo.preprocessing.spectrogram import SpectrogramFeatureExtractor
from zoo.retrieval.zero_shot import zero_shot
from zoo.training.parse import SettingsError
from zoo.training.recipes.audio import DEFAULT_MAX_DURATION, covered_frames
from zoo.training.recipes.pairs import (
    initial_model,
    note_skipped,
    pair_datamodule,
    pair_rows,
    rebuild_model,
    text_fields,
    with_validation,
)
from zoo.training.result import DatasetInfo
from zoo.training.run import Run
from zoo.training.run_dir import RunFolder
from zoo.utils import distributed
from zoo.utils.errors import DataError

TOWERS = ("audio", "text")


def open_audio_pairs(run: Run) -> tuple[Contrastive, PairDataModule, PairSplits[AudioClips]]:
    """Create the model, load the data and open the run folder, in this order, so that mistakes show early.

    Raises: SettingsError, RunError.
    """
    run.expect("synthetic" if run.settings.data.name == "auto" else run.settings.data.name)
    model = initial_model(run, TOWERS)
    try:
        pretrained = None if has_fresh_audio_tower(run) else model.preprocess.audio
        sampling_rate = pretrained.sampling_rate if pretrained else 0
        sets = load_audio_pairs(run.settings.data, sampling_rate=sampling_rate, seed=run.settings.seed)
        info = DatasetInfo(sets.name, sets.real, sets.source, len(sets.train), len(sets.test), sets.test_name)
        run.open(info, model)
        note_skipped(run, sets)
        parts = with_validation(sets, run.settings.trainer.val_fraction, run.settings.seed)
        text, tokenizer = text_fields(run, model, parts[0])
        audio, feature_extractor = audio_fields(run, model, parts[0].items) if pretrained is None else ({}, {})
        model = rebuild_model(run, model, TOWERS, text | audio, tokenizer | feature_extractor)
        rows = [audio_rows(run, model, part, number == 0) for number, part in enumerate(parts)]
        preprocess = model.preprocess.audio
        spectrograms = isinstance(preprocess, SpectrogramFeatureExtractor)
        augment = SpectrogramAugment(run.settings.data.augment, preprocess) if spectrograms else None
        data = pair_datamodule(run, rows, AudioBatch(augment))
        data.test_pairs = sets.test
        return model, data, sets
    except (DataError, ValueError) as error:
        raise error if isinstance(error, SettingsError) else SettingsError(str(error)) from error


def has_fresh_audio_tower(run: Run) -> bool:
    """Whether the audio tower is new, so that it can take the sampling rate of the data."""
    s = run.settings
    return not s.model.source and (bool(s.model.name) or s.audio.name in list_models())


def audio_fields(run: Run, model: Contrastive, clips: AudioClips) -> tuple[dict[str, Any], dict[str, Any]]:
    """({field of the model: value}, {"audio": preprocess}) from the length and the statistics of the clips."""
    s, config = run.settings, model.tower("audio").config
    if "mel_bins" not in config.names():
        extractor = model.preprocess.audio if model.preprocess else None
        extractor = extractor or model.tower("audio").default_preprocess()
        return {}, {"audio": replace(extractor, sampling_rate=clips.sampling_rate, resample=s.data.resample)}
    bins = config.mel_bins
    preprocess = SpectrogramFeatureExtractor(
        sampling_rate=clips.sampling_rate,
        num_mel_bins=bins,
        high_freq=clips.sampling_rate / 2,
        resample=s.data.resample,
    )
    seconds = s.data.max_duration or min(int(clips.lengths.max()) / clips.sampling_rate, DEFAULT_MAX_DURATION)
    frames = s.model.overrides.get("audio.max_length") or covered_frames(
        frames_in(preprocess, round(seconds * clips.sampling_rate)), config
    )
    mean, std = statistics(clips, preprocess)
    return {"audio.max_length": frames}, {"audio": replace(preprocess, frames=frames, mean=mean, std=std)}


def audio_rows(run: Run, model: Contrastive, pairs: PairDataset[AudioClips], training: bool) -> PairRows:
    """A dataset of audio features and tokenized captions."""
    return pair_rows(run, model, pairs, features_of(model, pairs.items), training)


def features_of(model: Contrastive, clips: AudioClips) -> Any:
    """Inputs of the audio tower, computed once for all clips."""
    preprocess = model.preprocess.audio
    if isinstance(preprocess, SpectrogramFeatureExtractor):
        return Spectrograms.of(clips, torch.zeros(len(clips), dtype=torch.int64), preprocess)
    batch = preprocess.batch([clips[i] for i in range(len(clips))])
    return {{"attention_mask": "audio_attention_mask"}.get(name, name): value for name, value in batch.items()}


class ZeroShotMetrics(L.Callback):
    """Adds zero-shot classification accuracy to the test metrics.

    `test_prompt_accuracy`: accuracy on the test clips, among the classes seen in training. With held-out classes also
    `test_unseen_accuracy`, on clips of held-out classes among the held-out classes, and `test_unseen_among_all`, among
    all classes.

    Args:
        data: The data module.
        sets: The audio-text pairs.
        sentences: Prompt templates for a class.
        unseen: Names of the held-out classes.
    """

    def __init__(
        self, data: PairDataModule, sets: PairSplits[AudioClips], sentences: list[str], unseen: list[str]
    ) -> None:
        self.data, self.sets, self.sentences, self.unseen = data, sets, sentences, unseen

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log `test_prompt_accuracy`, and with unseen classes `test_unseen_accuracy`, `test_unseen_among_all`."""
        task: Any = pl_module
        for name, value in self.metrics(task).items():
            task.log(f"test_{name}", value, logger=False)

    def metrics(self, task: Any) -> dict[str, float]:
        """{metric: accuracy}; the confusion matrix of the seen classes is stored in the task, for its plot."""
        model, names, test = task.evaluated, self.sets.classes, self.sets.test
        prompts = zero_shot(model, names, self.sentences, kind="audio").weights
        known = torch.tensor([name not in self.unseen for name in names])
        predicted = classify(encode_audio(model, self.data.test, self.data), prompts, known)
        metrics = {"prompt_accuracy": accuracy(predicted, test)}
        task.confusion, task.class_names = confusion_matrix(predicted, test, len(names)), names
        if self.sets.unseen is not None:
            rows = PairRows(self.sets.unseen, features_of(model, self.sets.unseen.items), model.preprocess.text)
            embeddings = encode_audio(model, rows, self.data)
            metrics["unseen_accuracy"] = accuracy(classify(embeddings, prompts, ~known), self.sets.unseen)
            metrics["unseen_among_all"] = accuracy(classify(embeddings, prompts, known | ~known), self.sets.unseen)
        return metrics


def classify(embeddings: Tensor, prompts: Tensor, allowed: Tensor) -> Tensor:
    """Class (int64 [N]) whose prompt is closest to each embedding [N, D], among the allowed classes (bool [C])."""
    return (embeddings @ prompts.T).masked_fill(~allowed, -torch.inf).argmax(1)


def accuracy(predicted: Tensor, pairs: PairDataset[AudioClips]) -> float:
    """Fraction of correct predictions."""
    assert pairs.classes is not None
    return (predicted == pairs.classes).float().mean().item()


def confusion_matrix(predicted: Tensor, pairs: PairDataset[AudioClips], count: int) -> Tensor:
    """Confusion matrix, int64 [C, C] (true, predicted)."""
    assert pairs.classes is not None
    return torch.bincount(pairs.classes * count + predicted, minlength=count**2).view(count, count)


@torch.no_grad()
def encode_audio(model: Any, rows: PairRows, data: PairDataModule, size: int = 128) -> Tensor:
    """Embeddings of all clips, float32 [N, D], on the CPU."""
    device, parts = next(model.parameters()).device, []
    for first in range(0, len(rows), size):
        batch = rows.__getitems__(Keys(list(range(first, min(first + size, len(rows)))), 0))
        ready = data.ready({name: value.to(device) for name, value in batch.items()})
        names = ("input_values", "audio_attention_mask")
        parts.append(model.encode_audio(*(ready[name] for name in names if name in ready)).float().cpu())
    return torch.cat(parts)


def zero_shot_callbacks(run: Run, data: PairDataModule, sets: PairSplits[AudioClips]) -> list[L.Callback]:
    """The callback for zero-shot metrics, if the clips have classes."""
    s = run.settings.data
    return [ZeroShotMetrics(data, sets, list(s.sentences), list(s.held_out_classes))] if sets.classes else []


def example_command(run: Run, sets: PairSplits[AudioClips]) -> list[str]:
    """Write a test clip as a file, and return a command that uses the trained model."""
    assert isinstance(run.folder, RunFolder)
    file = run.folder.path / "sample.wav"
    write_clip(file, sets.test.items)
    if sets.classes:
        return ["zoo", "classify", str(file), "--model", "{model}", "--labels", ",".join(sets.classes)]
    return ["zoo", "search", sets.test.captions[0][0], "--corpus", "FOLDER", "--model", "{model}"]


def write_clip(file: Any, clips: AudioClips) -> None:
    """Write the first test clip as a file, to try the model on."""
    import soundfile

    if distributed.rank() == 0:
        soundfile.write(file, clips[0].numpy(), clips.sampling_rate)
