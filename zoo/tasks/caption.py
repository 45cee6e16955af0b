"""Captions and answers: train a model to write texts about images, with pairs of words that the texts lack."""

from collections import Counter
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
FREQUENT = 30  # how often a prompt occurs at least that has a bias of its own
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
        self.table = log_ratios(pairs.bincount(minlength=vocab_size**2).view(vocab_size, vocab_size))  # [V, V]

    def __call__(self, tokens: Tensor) -> Tensor:
        """The bias of each token of the vocabulary after each of these, int64 [T] -> float32 [T, V]."""
        if self.table.device != tokens.device:
            self.table = self.table.to(tokens.device)
        return self.table[tokens]

    def contexts(self, batch: Mapping[str, Any]) -> Tensor:
        """What comes before each token of a batch that is predicted, as `__call__` takes it, int64 [B, N]."""
        ids: Tensor = batch["input_ids"]
        return ids


class UnseenAnswerBias(UnseenPairBias):
    """`UnseenPairBias` for texts behind prompts: the first token of a text follows its prompt as a whole. Pairs within
    prompts are not counted.

    If "what shape is the red object?" is never answered by "circle", although questions with similar answers are, the
    bias of "circle" after it is far below zero. Prompts that occur fewer than 30 times have no bias.

    Args:
        texts: The tokens of prompts and texts, int64 [N] each.
        prompt_lengths: The number of tokens of each prompt.
        vocab_size: Number of tokens of the vocabulary.

    Raises: ValueError for a vocabulary, or frequent prompts, of more than 4,096.
    """

    def __init__(self, texts: Sequence[Tensor], prompt_lengths: Sequence[int], vocab_size: int) -> None:
        prompts = [tuple(ids[:n].tolist()) for ids, n in zip(texts, prompt_lengths, strict=True)]
        frequent = [prompt for prompt, count in Counter(prompts).items() if count >= FREQUENT]
        if len(frequent) > MOST_TOKENS:
            raise ValueError(f"{len(frequent):,} different prompts that are frequent: expected at most {MOST_TOKENS:,}")
        self.rows = {prompt: row for row, prompt in enumerate(frequent)}
        super().__init__([ids[n:] for ids, n in zip(texts, prompt_lengths, strict=True)], vocab_size)
        rows = [self.rows.get(prompt, len(frequent)) for prompt in prompts]
        pairs = torch.tensor([row * vocab_size + int(ids[n]) for row, ids, n in zip(rows, texts, prompt_lengths)])
        counts = pairs.bincount(minlength=(len(frequent) + 1) * vocab_size).view(-1, vocab_size)
        none = torch.zeros(1, vocab_size)  # after other prompts
        self.table = torch.cat([self.table, log_ratios(counts[:-1]), none])

    def contexts(self, batch: Mapping[str, Any]) -> Tensor:
        """As in UnseenPairBias; prompts have the numbers behind those of the tokens."""
        ids, found = batch["input_ids"], batch["input_ids"].clone()
        rows = [self.rows.get(tuple(row[:n]), len(self.rows))
                for row, n in zip(ids.tolist(), batch["prompt_lengths"], strict=True)]  # fmt: skip
        ends = ids.new_tensor(batch["prompt_lengths"]) - 1
        found[range(len(ids)), ends] = ids.new_tensor(rows) + self.table.shape[1]
        return found


def log_ratios(counts: Tensor) -> Tensor:
    """log((p + f) / (q + f)) of the frequencies p of each row of counts [C, V], see `UnseenPairBias`."""
    counts = counts.float()
    seen = counts / counts.sum(1, keepdim=True).clamp(min=1)
    profiles = F.normalize(seen, dim=1)
    similar = (profiles @ profiles.T) ** SHARPNESS
    expected = similar @ seen / similar.sum(1, keepdim=True).clamp(min=1e-12)
    return ((seen + FLOOR) / (expected + FLOOR)).log()


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
        before = self.bias.contexts(batch).flatten()
        if len(before) != len(found.labels):  # a bridge predicts the texts alone
            before = before[batch["labels"].flatten() != IGNORED]
        logits = found.x if found.layer is None else found.layer(found.x)
        return replace(found, x=logits.float() + self.bias(before), layer=None)
