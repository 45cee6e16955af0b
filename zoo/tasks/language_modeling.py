"""Causal and masked language modeling."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn import functional as F

from zoo.models.encoder_decoder import EncoderDecoder
from zoo.models.text import TextModel
from zoo.nn.attention import is_plain_linear
from zoo.nn.heads import LMHead, MaskedLMHead
from zoo.nn.losses.cross_entropy import IGNORED, linear_cross_entropy
from zoo.nn.losses.token_labels import by_document, follows, next_tokens, real_tokens
from zoo.parallel.fsdp import keeps_whole
from zoo.parallel.stages import LastStage
from zoo.parallel.vocabulary import VocabularyLinear
from zoo.tasks.config import OptimSettings
from zoo.tasks.evaluated import EvaluatedTask
from zoo.tasks.functions import COPY, at_least_float32
from zoo.tasks.weighted_mean import WeightedMean
from zoo.utils.keyed_random import KeyedRandom


class LanguageModelingTask(EvaluatedTask):
    """Base class of language modeling tasks, evaluated by the mean loss per token and the perplexity.

    Logs `train_loss`, `lr`, `val_loss`, `val_perplexity`, `test_loss`, `test_perplexity`.

    Args:
        model: A zoo model, or any module that returns logits [B, N, V].
        lr: Peak learning rate; overrides the one in `optim`.
        optim, ema, seed: See Task.
    """

    divides_tokens = True

    def __init__(self, model: nn.Module, lr: float | None = None, *, optim: OptimSettings | None = None,
                 ema: float = 0.0, seed: int = 0):  # fmt: skip
        optim = optim or OptimSettings()
        super().__init__(model, optim=optim if lr is None else replace(optim, lr=lr), ema=ema, seed=seed)
        self.metrics: dict[str, WeightedMean] = {}  # a plain dict: metrics are not part of the state dict

    @property
    def validation_metrics(self) -> dict[str, str]:
        """As in Task."""
        return super().validation_metrics | {"val_perplexity": "min"}

    def predict(self, model: nn.Module, batch: Mapping[str, Any], epoch: int | None = None) -> "Predictions":
        """What the model predicts for the tokens of a batch. `epoch` is None in evaluation."""
        return self.predict_labels(model, self.labeled(batch, epoch))

    def labeled(self, batch: Mapping[str, Any], epoch: int | None = None) -> Mapping[str, Any]:
        """The batch with the inputs of the model and the right tokens, `labels` [B, N]: -100 for tokens that are not
        predicted. `epoch` is None in evaluation."""
        raise NotImplementedError

    def predict_labels(self, model: Any, batch: Mapping[str, Any]) -> "Predictions":
        """What the model predicts for the tokens of a batch of `labeled` that have a label."""
        raise NotImplementedError

    def prepared(self, batch: Mapping[str, Any], step: int, *, train: bool) -> Mapping[str, Any]:
        """As in Task: `labeled`."""
        return self.labeled(batch, int(batch.get("epoch", 0)) if train else None)

    def batch_loss(self, model: Any, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor | float]:
        """As in Task."""
        if (copies := batch.get(COPY)) is not None:
            batch = {**batch, "labels": batch["labels"].masked_fill(copies[:, None], IGNORED)}
        predictions = self.predict_labels(model, batch)
        return predictions.cross_entropy("sum"), predictions.count

    def own(self, tokens: Tensor) -> Tensor:
        """Of a tensor of all tokens [B, N] those whose predictions this process has."""
        return tokens if self.slices is None else self.slices.take(tokens)

    def losses(self, model: nn.Module, batch: Mapping[str, Any], epoch: int | None = None) -> Tensor:
        """Losses [K] of the K tokens that are predicted. `epoch` is None in evaluation."""
        predictions = self.predict(model, batch, epoch)
        return predictions.cross_entropy("none")[predictions.labels != IGNORED]

    def loss_of(self, batch: Mapping[str, Any], step: int, micro: int) -> Tensor:
        """Mean loss over the predicted tokens of a micro-batch."""
        predictions = self.predict(self.model, batch, int(batch.get("epoch", 0)))
        return self.mean_loss(predictions.cross_entropy("sum"), predictions.count)

    def _evaluate(self, batch: Mapping[str, Any], stage: str) -> None:
        name = f"{stage}_loss"
        if name not in self.metrics:
            self.metrics[name] = WeightedMean().to(self.device)
        if self.pipeline is None:
            predictions = self.predict(self.evaluated, batch)
            total, count = predictions.cross_entropy("sum"), predictions.count
        else:
            total, count = self.pipeline.loss(batch)
        self.metrics[name].update(total / count.clamp(min=1), count)

    def _log_epoch(self, stage: str) -> None:
        metric = self.metrics[f"{stage}_loss"]
        loss = float(metric.compute())
        metric.reset()
        self.log_evaluation({f"{stage}_loss": loss, f"{stage}_perplexity": math.exp(min(loss, 700.0))})


class CausalLMTask(LanguageModelingTask):
    """Causal language modeling: train a decoder to predict the next token.

        L.Trainer(max_steps=1000).fit(CausalLMTask(zoo.create_model("gpt_nano"), lr=1e-3), loader)

    Batches: `input_ids` [B, N] and `labels` [B, N], the token that follows each position; without `labels` the tokens
    that follow are those of `input_ids`, for packed rows (`document_ids`, see `zoo.pack`) within each document. Padding
    (`attention_mask` 0, `document_ids` -1) and labels of -100 are ignored.

    Raises: ValueError for labels that are a copy of `input_ids`, as models of transformers take them.
    """

    runs_in_pipeline = True
    _labels_checked = False

    def labeled(self, batch: Mapping[str, Any], epoch: int | None = None) -> Mapping[str, Any]:
        """As in LanguageModelingTask: the token that follows each token."""
        labels = batch.get("labels")
        if labels is not None:
            if labels.is_floating_point() or labels.shape != batch["input_ids"].shape:
                raise ValueError(f"labels of shape {list(labels.shape)} and {labels.dtype}: expected whole numbers of "
                                 f"shape {list(batch['input_ids'].shape)}, like input_ids")  # fmt: skip
            labels = labels.long()
        if labels is None:
            labels = next_tokens(batch)
        else:
            if (real := real_tokens(batch)) is not None:
                labels = labels.masked_fill(~real, IGNORED)
            self._labels_checked = self._labels_checked or follows(labels, batch["input_ids"])
        return {**batch, "labels": labels}

    def predict_labels(self, model: Any, batch: Mapping[str, Any]) -> "Predictions":
        """As in LanguageModelingTask."""
        inputs, layer = _inputs(self.model, batch), output_layer(model)
        x = model(**inputs) if layer is None else model.head.features(model.encode(**inputs))
        return Predictions(x.flatten(0, 1), self.own(batch["labels"]).flatten(), layer)


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions of T tokens.

    Attributes:
        x: Their logits [T, V], or inputs [T, D] of the output layer.
        labels: The right tokens [T], -100 for tokens that are not predicted.
        layer: The output layer that is not applied yet, or None.
        label_smoothing: Fraction of the target that is spread evenly over all tokens of the vocabulary.
    """

    x: Tensor
    labels: Tensor
    layer: nn.Linear | None
    label_smoothing: float = 0.0

    @property
    def count(self) -> Tensor:
        """Number of tokens that are predicted, on the device of the labels."""
        return (self.labels != IGNORED).sum()

    def cross_entropy(self, reduction: Literal["sum", "none"]) -> Tensor:
        """Sum of the losses, or each token's [T], zero where nothing is predicted."""
        if self.layer is None:
            return F.cross_entropy(at_least_float32(self.x), self.labels, ignore_index=IGNORED, reduction=reduction,
                                   label_smoothing=self.label_smoothing)  # fmt: skip
        if isinstance(self.layer, VocabularyLinear):
            return self.layer.cross_entropy(self.x, self.labels, reduction, label_smoothing=self.label_smoothing)
        loss = linear_cross_entropy(self.x, self.layer.weight, self.labels, self.layer.bias, reduction=reduction)
        if not self.label_smoothing:
            return loss
        above_mean = self.score_above_mean()
        return loss + self.label_smoothing * (above_mean.sum() if reduction == "sum" else above_mean)

    def score_above_mean(self) -> Tensor:
        """The score of each right token minus the mean score of the vocabulary [T], without computing all scores; zero
        where nothing is predicted.

        It is what label smoothing adds, times its fraction: the cross-entropy of a uniform target exceeds that of the
        right token by it.
        """
        assert self.layer is not None
        weight, bias, keep = self.layer.weight, self.layer.bias, self.labels != IGNORED
        right = self.labels.masked_fill(~keep, 0)
        found = (self.x.float() * (weight[right] - weight.mean(0)).float()).sum(-1)
        if bias is not None:
            found = found + (bias[right] - bias.mean()).float()
        return found * keep


def output_layer(model: nn.Module | LastStage) -> nn.Linear | None:
    """The last layer of a language model whose loss can be computed from the inputs of that layer, without storing all
    logits; None where the model has to be called as a whole: it is none of ours, compiled, sharded by others than
    `zoo.parallel`, or has hooks, an adapter or a `forward` of its own."""
    called: Any = type(model)
    if isinstance(model, LastStage):  # its class is that of a stage
        called, model = model.whole, model.stage
    head: Any = getattr(model, "head", None)
    divided = isinstance(getattr(head, "proj", None), VocabularyLinear)  # it computes its loss itself
    sharded = isinstance(model, FSDPModule)  # its hooks also run before `encode`
    if not isinstance(model, TextModel | EncoderDecoder) or (sharded and not divided and not keeps_whole(model)):
        return None
    if type(head) not in (LMHead, MaskedLMHead) or head.softcap is not None:
        return None
    looked_at = (head,) if divided or sharded else (model, head)
    own = called.forward not in (TextModel.forward, EncoderDecoder.forward)
    own = own or "forward" in vars(model) or "forward" in vars(head)
    compiled = any(module._compiled_call_impl is not None for module in (model, head, head.proj))
    hooks = any(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
                or module._backward_pre_hooks for module in looked_at)  # fmt: skip
    plain = divided or is_plain_linear(head.proj, sharded=sharded)
    return None if own or compiled or hooks or not plain else head.proj


class MaskedLMTask(LanguageModelingTask):
    """Masked language modeling: train an encoder to predict masked tokens.

    A fraction `mask_probability` of the non-special tokens is selected, at least one per text: 80% become the mask
    token, 10% a random token, 10% stay. The selection is a pure function of (seed, epoch, index, position); in
    evaluation it is always the same.

    Batches: `input_ids`, `attention_mask`, ... [B, N], `index` [B], `epoch`; or packed rows (`zoo.pack`), in which each
    document is a text. Padding is never selected.

    Args:
        model: A model with head="masked_lm".
        mask_id: Id of the mask token.
        special: Ids of special tokens, which are never masked.
        mask_probability: Fraction of tokens that are selected.
        options: Further arguments of LanguageModelingTask.

    Source: Devlin et al. 2019, section 3.1, https://arxiv.org/abs/1810.04805.
    """

    runs_in_pipeline = True

    def __init__(self, model: nn.Module, lr: float | None = None, *, mask_id: int, special: tuple[int, ...] = (),
                 mask_probability: float = 0.15, **options: Any):  # fmt: skip
        super().__init__(model, lr, **options)
        if not 0.0 < mask_probability < 1.0:
            raise ValueError(f"mask_probability={mask_probability}: expected more than 0 and less than 1")
        self.mask_id, self.special, self.mask_probability = mask_id, special, mask_probability
        self._special = torch.tensor(special)
        self.vocab_size: int = model.config.vocab_size  # type: ignore[union-attr,assignment]

    def labeled(self, batch: Mapping[str, Any], epoch: int | None = None) -> Mapping[str, Any]:
        """As in LanguageModelingTask: the tokens that are selected, and the input without them."""
        if getattr(batch.get("labels"), "shape", None) == batch["input_ids"].shape:
            raise ValueError("MaskedLMTask selects and masks tokens itself: omit labels, and give input_ids unmasked")
        masked_ids, selected = self.mask_tokens(batch, epoch)
        labels = batch["input_ids"].long().masked_fill(~selected, IGNORED)
        return {**batch, "input_ids": masked_ids, "labels": labels}

    def predict_labels(self, model: Any, batch: Mapping[str, Any]) -> Predictions:
        """As in LanguageModelingTask."""
        inputs, layer, labels = _inputs(self.model, batch), output_layer(model), self.own(batch["labels"])
        rows = self.selected_rows(labels != IGNORED, batch)
        if layer is not None or (hasattr(model, "encode") and isinstance(getattr(model, "head", None), nn.Module)):
            x = model.encode(**inputs).flatten(0, 1)[rows]  # the head skips the other tokens
            x = model.head(x) if layer is None else model.head.features(x)
        else:
            x = model(**inputs).flatten(0, 1)[rows]
        return Predictions(x, labels.flatten()[rows], layer)

    def selected_rows(self, selected: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """Indices of the selected tokens [B, N] among all B * N, in order.

        On a GPU also of as many others as keep the size independent of the selection, whose size the host would have
        to wait for. More tokens than that are selected with a probability below 1e-20, which is an error.
        """
        if not selected.is_cuda or "document_ids" in batch:  # the number of documents is not known, either
            return selected.flatten().nonzero()[:, 0]
        return first_true(selected.flatten(), most_selected(self.mask_probability, *selected.shape))

    def mask_tokens(self, batch: Mapping[str, Any], epoch: int | None = None) -> tuple[Tensor, Tensor]:
        """(masked ids, which tokens were selected), each [B, N]; at least one token of each text is selected."""
        ids = batch["input_ids"]
        index = batch["index"][:, None] if "index" in batch else torch.arange(len(ids), device=ids.device)[:, None]
        positions = torch.arange(ids.shape[1], device=ids.device)
        random = KeyedRandom(self.seed, -1 if epoch is None else epoch, (index << 20) + positions)
        if self._special.device != ids.device:
            self._special = self._special.to(ids.device)
        maskable = torch.isin(ids, self._special, invert=True)
        if (real := real_tokens(batch)) is not None:
            maskable = maskable & real
        rank = random.uniform("masked").masked_fill(~maskable, 2.0)
        lowest = lowest_of_text(rank, batch.get("document_ids"))
        selected = rank <= lowest.clamp(min=self.mask_probability, max=1.0)
        how = random.uniform("masked/how")
        other = random.integers("masked/other", self.vocab_size)
        masked_ids = torch.where(selected & (how < 0.8), torch.full_like(ids, self.mask_id), ids)
        return torch.where(selected & (how >= 0.9), other, masked_ids), selected


def most_selected(probability: float, rows: int, tokens: int) -> int:
    """A limit to the number of selected tokens among rows * tokens: the mean and ten standard deviations, the 40 that a
    small mean needs for the same certainty, and one for each row."""
    mean = probability * rows * tokens
    return min(rows * tokens, math.ceil((mean + 10 * math.sqrt(mean) + 40 + rows) / 64) * 64)


def first_true(values: Tensor, count: int) -> Tensor:
    """Indices [count] of the True values [T] in order, then of False ones, without waiting for the device.

    The device raises RuntimeError for more True values than that.
    """
    torch._assert_async(values.sum() <= count, f"more than {count} tokens are selected: lower mask_probability=")
    return (~values).to(torch.uint8).argsort(stable=True)[:count]


def lowest_of_text(values: Tensor, document_ids: Tensor | None) -> Tensor:
    """The lowest of the values [B, N] in each row, [B, 1]; with document_ids in the document of each token, [B, N]."""
    if document_ids is None:
        return values.amin(1, keepdim=True)
    order, follows = by_document(document_ids)
    documents = torch.empty_like(order)
    documents[order[1:]] = (~follows).cumsum(0)
    documents[order[:1]] = 0
    lowest = values.new_full((values.numel(),), float("inf")).scatter_reduce(0, documents, values.flatten(), "amin")
    return lowest[documents].view_as(values)


def _inputs(model: nn.Module, batch: Mapping[str, Any]) -> dict[str, Any]:
    names = getattr(model, "inputs", ("input_ids", "attention_mask"))
    if "document_ids" in batch and "document_ids" not in names:
        raise ValueError(f"{type(model).__name__} takes {', '.join(names)}, but the batch has packed rows "
                         f"(document_ids), whose documents it would not keep apart: give a document a row")  # fmt: skip
    return {name: batch[name] for name in names if name in batch}
