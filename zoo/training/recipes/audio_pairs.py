"""What the recipe of sounds and texts does with its settings; its figures by prompts."""

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
from zoo.training.recipes.audio import LONGEST
from zoo.training.recipes.pairs import (
    note_skipped,
    pair_datamodule,
    pair_rows,
    remade,
    start,
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
    """The model, checked before data is touched; then the data; then the run folder. The model knows both.

    Raises: SettingsError, RunError.
    """
    run.expect("synthetic" if run.settings.data.name == "auto" else run.settings.data.name)
    model = start(run, TOWERS)
    try:
        heard = None if fresh_audio(run) else model.preprocess.audio
        sets = load_audio_pairs(
            run.settings.data, sampling_rate=heard.sampling_rate if heard else 0, seed=run.settings.seed
        )
        run.open(DatasetInfo(sets.name, sets.real, sets.source, len(sets.train), len(sets.test)))
        note_skipped(run, sets)
        parts = with_validation(sets, run.settings.trainer.val_fraction, run.settings.seed)
        words, tokenizer = text_fields(run, model, parts[0])
        sounds, hearing = audio_fields(run, model, parts[0].items) if heard is None else ({}, {})
        model = remade(run, model, TOWERS, words | sounds, tokenizer | hearing)
        rows = [audio_rows(run, model, each, number == 0) for number, each in enumerate(parts)]
        preprocess = model.preprocess.audio
        spectrograms = isinstance(preprocess, SpectrogramFeatureExtractor)
        hear = SpectrogramAugment(run.settings.data.augment, preprocess) if spectrograms else None
        data = pair_datamodule(run, rows, AudioBatch(hear))
        data.test_pairs = sets.test
        return model, data, sets
    except (DataError, ValueError) as error:
        raise error if isinstance(error, SettingsError) else SettingsError(str(error)) from error


def fresh_audio(run: Run) -> bool:
    """Whether the audio tower begins with nothing, and hears whatever rate the data has."""
    s = run.settings
    return not s.model.source and (bool(s.model.name) or s.audio.name in list_models())


def audio_fields(run: Run, model: Contrastive, clips: AudioClips) -> tuple[dict[str, Any], dict[str, Any]]:
    """({field of the model: value}, {"audio": preprocess}): a window as long as the sounds, and their statistics."""
    s, config = run.settings, model.tower("audio").config
    if "mel_bins" not in config.names():
        plain = model.preprocess.audio if model.preprocess else None
        plain = plain or model.tower("audio").default_preprocess()
        return {}, {"audio": replace(plain, sampling_rate=clips.sampling_rate, resample=s.data.resample)}
    bins = config.mel_bins
    preprocess = SpectrogramFeatureExtractor(
        sampling_rate=clips.sampling_rate,
        num_mel_bins=bins,
        high_freq=clips.sampling_rate / 2,
        resample=s.data.resample,
    )
    seconds = s.data.max_duration or min(int(clips.lengths.max()) / clips.sampling_rate, LONGEST)
    patch = config.patch_size if isinstance(config.patch_size, int) else config.patch_size[1]
    frames = s.model.overrides.get("audio.max_length") or max(
        frames_in(preprocess, round(seconds * clips.sampling_rate)), patch
    )
    mean, std = statistics(clips, preprocess)
    return {"audio.max_length": frames}, {"audio": replace(preprocess, frames=frames, mean=mean, std=std)}


def audio_rows(run: Run, model: Contrastive, pairs: PairDataset[AudioClips], training: bool) -> PairRows:
    """A set with its features and its captions as tokens."""
    return pair_rows(run, model, pairs, features_of(model, pairs.items), training)


def features_of(model: Contrastive, clips: AudioClips) -> Any:
    """What the audio tower takes, made once for all clips."""
    preprocess = model.preprocess.audio
    if isinstance(preprocess, SpectrogramFeatureExtractor):
        return Spectrograms.of(clips, torch.zeros(len(clips), dtype=torch.int64), preprocess)
    made = preprocess.batch([clips[i] for i in range(len(clips))])
    return {{"attention_mask": "audio_attention_mask"}.get(name, name): value for name, value in made.items()}


class Prompts(L.Callback):
    """With the test: how many sounds lie closest to the prompt of their own class, among all that training knew; and
    of sounds of unseen classes, among the unseen ones alone and among all.

    Args:
        sentences: What is said of a class.
    """

    def __init__(
        self, data: PairDataModule, sets: PairSplits[AudioClips], sentences: list[str], unseen: list[str]
    ) -> None:
        self.data, self.sets, self.sentences, self.unseen = data, sets, sentences, unseen

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log `test_prompt_accuracy`, and with unseen classes `test_unseen_accuracy`, `test_unseen_among_all`."""
        task: Any = pl_module
        for name, value in self.figures(task).items():
            task.log(f"test_{name}", value, logger=False)

    def figures(self, task: Any) -> dict[str, float]:
        """{figure: share}; the confusion of the known classes goes to the task, for its picture."""
        model, names, test = task.evaluated, self.sets.classes, self.sets.test
        prompts = zero_shot(model, names, self.sentences, kind="audio").weights
        known = torch.tensor([name not in self.unseen for name in names])
        taken = closest(encoded(model, self.data.test, self.data), prompts, known)
        found = {"prompt_accuracy": share(taken, test)}
        task.confusion, task.class_names = confused(taken, test, len(names)), names
        if self.sets.unseen is not None:
            rows = PairRows(self.sets.unseen, features_of(model, self.sets.unseen.items), model.preprocess.text)
            vectors = encoded(model, rows, self.data)
            found["unseen_accuracy"] = share(closest(vectors, prompts, ~known), self.sets.unseen)
            found["unseen_among_all"] = share(closest(vectors, prompts, known | ~known), self.sets.unseen)
        return found


def closest(vectors: Tensor, prompts: Tensor, allowed: Tensor) -> Tensor:
    """int64 [N]: the class whose prompt is closest to each of vectors [N, D], of those allowed (bool [C])."""
    return (vectors @ prompts.T).masked_fill(~allowed, -torch.inf).argmax(1)


def share(taken: Tensor, pairs: PairDataset[AudioClips]) -> float:
    """How many were taken for what they are."""
    assert pairs.classes is not None
    return (taken == pairs.classes).float().mean().item()


def confused(taken: Tensor, pairs: PairDataset[AudioClips], count: int) -> Tensor:
    """int64 [C, C]: how often each class (row) was taken for each."""
    assert pairs.classes is not None
    return torch.bincount(pairs.classes * count + taken, minlength=count**2).view(count, count)


@torch.no_grad()
def encoded(model: Any, rows: PairRows, data: PairDataModule, size: int = 128) -> Tensor:
    """float32 [N, D] of all sounds, on the host."""
    device, parts = next(model.parameters()).device, []
    for first in range(0, len(rows), size):
        batch = rows.__getitems__(Keys(list(range(first, min(first + size, len(rows)))), 0))
        ready = data.ready({name: value.to(device) for name, value in batch.items()})
        names = ("input_values", "audio_attention_mask")
        parts.append(model.encode_audio(*(ready[name] for name in names if name in ready)).float().cpu())
    return torch.cat(parts)


def prompt_figures(run: Run, data: PairDataModule, sets: PairSplits[AudioClips]) -> list[L.Callback]:
    """The callback of a run whose sounds are of classes."""
    s = run.settings.data
    return [Prompts(data, sets, list(s.sentences), list(s.held_out_classes))] if sets.classes else []


def try_it(run: Run, sets: PairSplits[AudioClips]) -> str:
    """A command for the model that came out."""
    assert isinstance(run.folder, RunFolder)
    file = run.folder.path / "sample.wav"
    write_sound(file, sets.test.items)
    if sets.classes:
        return f'zoo classify {file} --model {{model}} --labels "{",".join(sets.classes)}"'
    return f'zoo search "{sets.test.captions[0][0]}" --corpus FOLDER --model {{model}}'


def write_sound(file: Any, clips: AudioClips) -> None:
    """The first test sound, as something to try the model on."""
    import soundfile

    if distributed.rank() == 0:
        soundfile.write(file, clips[0].numpy(), clips.sampling_rate)
