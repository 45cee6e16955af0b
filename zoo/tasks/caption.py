"""Captioning: train a model to write texts about images, with pairs of words that the texts lack."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.nn.losses.cross_entropy import IGNORED
from zoo.tasks.image_text import ImageTextTask
from zoo.tasks.language_modeling import Predictions

SHARPNESS = 4  # power of the cosine by which tokens count as similar
FLOOR = 1e-3  # added to both probabilities, so that pairs that neither expects are left alone
MOST_TOKENS = 4096  # of a vocabulary, whose pairs are a table


class UnseenPairBias:
    """How much more often a token follows another in texts than it would if similar tokens were followed alike.

    If some colors stand before "circle", and "red" stands before the other words that these do, "red circle" is a pair
    that the texts happen to lack: its bias is far below zero. The bias of pairs which occur is about zero, and so is
    that of pairs which nothing speaks for, such as "red above".

    The bias is log((p + f) / (q + f)): p is the probability of a token after another, counted in the texts, q the mean
    of p over all tokens, each weighted by the fourth power of the cosine of its p with that of the other one, and f a
    floor of 0.001.

    Args:
        texts: The tokens of texts, with what is before the first and after the last token, int64 [N] each.
        vocab_size: Number of tokens of the vocabulary.

    Source: similarity-based smoothing, Dagan, Lee and Pereira 1999, section 2.2, https://arxiv.org/abs/cs/9809110.
    Raises: ValueError for a vocabulary of more than 4,096 tokens.
    """

    def __init__(self, texts: Sequence[Tensor], vocab_size: int) -> None:
        if vocab_size > MOST_TOKENS:
            raise ValueError(f"a vocabulary of {vocab_size:,} tokens: expected at most {MOST_TOKENS:,}, because a "
                             f"table of all pairs is counted")  # fmt: skip
        pairs = torch.cat([ids[:-1] * vocab_size + ids[1:] for ids in texts])
        counts = pairs.bincount(minlength=vocab_size**2).view(vocab_size, vocab_size).float()
        seen = counts / counts.sum(1, keepdim=True).clamp(min=1)
        profiles = F.normalize(seen, dim=1)
        similar = (profiles @ profiles.T) ** SHARPNESS
        expected = similar @ seen / similar.sum(1, keepdim=True).clamp(min=1e-12)
        self.table = ((seen + FLOOR) / (expected + FLOOR)).log()  # [V, V]

    def __call__(self, tokens: Tensor) -> Tensor:
        """The bias of each token of the vocabulary after each of these, int64 [T] -> float32 [T, V]."""
        if self.table.device != tokens.device:
            self.table = self.table.to(tokens.device)
        return self.table[tokens]


class CaptionTask(ImageTextTask):
    """Train a model to write captions; see `ImageTextTask` for its batches and metrics.

    With a bias, the scores of tokens in training are those of the model plus the bias of the token after the one
    before, and in evaluation those of the model alone. Pairs that the texts happen to lack then hardly count in the
    loss: that no red circle occurs in training does not teach the model, neither by the word "red" nor by the color of
    an object, that there are none.

    Args:
        bias: Of each token after the one before; None trains on the captions alone.
        model, options: Those of `ImageTextTask`.

    Source: logit adjustment, Menon et al. 2021, section 4.2, https://arxiv.org/abs/2007.07314, here from the pairs of
        the training texts to those that are expected.
    """

    def __init__(self, model: nn.Module, *, bias: UnseenPairBias | None = None, **options: Any) -> None:
        super().__init__(model, **options)
        self.bias = bias

    def predict(self, model: nn.Module, batch: Mapping[str, Any], epoch: int | None = None) -> Predictions:
        """As in ImageTextTask, with the bias in training."""
        found = super().predict(model, batch, epoch)
        if self.bias is None or epoch is None:
            return found
        before = batch["input_ids"].flatten()
        if len(before) != len(found.labels):  # a bridge predicts the texts alone
            before = before[batch["labels"].flatten() != IGNORED]
        logits = found.x if found.layer is None else found.layer(found.x)
        return replace(found, x=logits.float() + self.bias(before), layer=None)
