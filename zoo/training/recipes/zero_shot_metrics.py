"""Zero-shot metrics of an audio-text run, and the commands that use its model."""

from typing import Any, cast

import lightning as L
import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from torch import Tensor

from zoo.data.audio.tables import AudioClips
from zoo.data.keyed_batches import Keys
from zoo.data.pairs.datamodule import PairDataModule, PairRows
from zoo.data.pairs.dataset import PairDataset, PairSplits
from zoo.retrieval.zero_shot import zero_shot
from zoo.training.run_dir import RunFolder
from zoo.utils import distributed


class ZeroShotMetrics(L.Callback):
    """Adds zero-shot classification accuracy to the test metrics.

    `test_prompt_accuracy`: accuracy on the test clips, among the classes seen in training. With held-out classes also
    `test_unseen_accuracy`, on clips of held-out classes among the held-out classes, and `test_unseen_among_all`, among
    all classes.

    Args:
        data: The data module.
        sentences: Prompt templates for a class.
        unseen: Names of the held-out classes.
    """

    def __init__(self, data: PairDataModule, sentences: list[str], unseen: list[str]) -> None:
        self.data, self.sentences, self.unseen = data, sentences, unseen
        self.sets: PairSplits[AudioClips] = cast(Any, data.splits)

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
            embeddings = encode_audio(model, self.data.rows(self.sets.unseen), self.data)
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
        ready = data.ready(move_data_to_device(batch, device))
        names = ("input_values", "audio_attention_mask", "audio_lengths")
        parts.append(model.encode_audio(**{name: ready[name] for name in names if name in ready}).float().cpu())
    return torch.cat(parts)


def example_command(folder: RunFolder, sets: PairSplits[AudioClips]) -> list[str]:
    """Write a test clip as a file, and return a command that uses the trained model."""
    file = folder.path / "sample.wav"
    write_clip(file, sets.test.items)
    if sets.classes:
        return ["zoo", "classify", str(file), "--model", "{model}", "--labels", ",".join(sets.classes)]
    return ["zoo", "search", sets.test.captions[0][0], "--corpus", "FOLDER", "--model", "{model}"]


def write_clip(file: Any, clips: AudioClips) -> None:
    """Write the first test clip as a file, to try the model on."""
    import soundfile

    if distributed.rank() == 0:
        soundfile.write(file, clips[0].numpy(), clips.sampling_rate)
