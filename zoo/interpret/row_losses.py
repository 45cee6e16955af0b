"""The loss of each row of a batch, as the head of a model is trained."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.inference.generation.caption_prompts import reads_images
from zoo.models.base import Model
from zoo.models.encoder_decoder import EncoderDecoder
from zoo.nn.lengths import place
from zoo.nn.losses.cross_entropy import IGNORED
from zoo.nn.losses.ctc import ctc_loss
from zoo.nn.losses.token_labels import follows, next_tokens, real_tokens, shift_right
from zoo.preprocessing.whisper import WhisperProcessor

Batch = dict[str, Any]
Loss = Callable[[Any, Batch], Tensor]  # (output of the model, the batch with its labels) -> loss of each row, or of all
HEADS = ("classify", "ctc", "lm", "masked_lm", "token")  # that have a loss


def batches_of(model: Model, data: Any, labels: Any, batch_size: int) -> Iterator[Batch]:
    """Batches of a model's inputs, with `labels`, on its device: of the inputs of `model.preprocess`, of one batch, or
    of an iterable of batches."""
    if isinstance(data, Mapping):
        rows = len(next(iter(data.values()), ()))
        check_number(rows, labels)
        whole = dict(data) | encoded_labels(model, labels)
        for start in range(0, rows, batch_size):
            yield on_device({name: x[start : start + batch_size] for name, x in whole.items()}, model)
        return
    if isinstance(data, str | bytes) or not isinstance(data, Iterable) or isinstance(data, Tensor):
        raise ValueError(f"data is a {type(data).__name__}: expected a list of inputs of model.preprocess, a batch of "
                         "tensors {name: tensor}, or an iterable of batches")  # fmt: skip
    if not isinstance(data, Sequence) or (data and isinstance(data[0], Mapping)):
        if labels is not None:
            raise ValueError('data are batches: put the labels into them, batch["labels"], and omit labels=')
        for batch in data:
            if not isinstance(batch, Mapping):
                raise ValueError(f"data gives a {type(batch).__name__}: expected batches {{name: tensor}}")
            yield on_device(batch, model)
        return
    check_number(len(data), labels)
    if model.preprocess is None and data:
        raise ValueError("the model has no preprocessing for these inputs: set model.preprocess, or give batches of "
                         "tensors")  # fmt: skip
    for start in range(0, len(data), batch_size):
        part = list(data[start : start + batch_size])
        own = None if labels is None else labels[start : start + batch_size]
        yield on_device(dict(model.preprocess(part)) | encoded_labels(model, own), model)


def check_number(rows: int, labels: Any) -> None:
    """Raise ValueError unless there is a label for each row, or none are given."""
    if labels is not None and len(labels) != rows:
        raise ValueError(f"{rows} inputs and {len(labels)} labels: expected a label for each input")


def on_device(batch: Mapping[str, Any], model: Model) -> Batch:
    """The batch on the device of the model, its inputs as `place` gives them, labels in their own dtype."""
    tensors = {name: value for name, value in batch.items() if isinstance(value, Tensor)}
    inputs = {name: value for name, value in tensors.items() if name in model.inputs}
    others = {name: value.to(model.device) for name, value in tensors.items() if name not in inputs}
    return {**batch, **others, **place(inputs, model.inputs, next(model.parameters()))}


def encoded_labels(model: Model, labels: Sequence[Any] | Tensor | None) -> Batch:
    """Labels as tensors: classes by number or name, numbers, or texts. Raises ValueError for others."""
    if labels is None:
        return {}
    if isinstance(labels, Tensor):
        return {"labels": labels}
    config, processor = model.config, model.preprocess
    if all(isinstance(label, str) for label in labels):
        if config.head == "classify":
            names = model.labels or []
            if odd := [label for label in labels if label not in names]:
                raise ValueError(f"labels: {odd[0]!r} is not a class of this model (its classes: {names!r:.200})")
            return {"labels": torch.tensor([names.index(label) for label in labels])}
        texts = config.head == "ctc" or isinstance(model, EncoderDecoder)
        if texts and processor is None:
            raise ValueError("labels are texts, and the model has no tokenizer: set model.preprocess, or pass tokens")
        if config.head == "ctc":
            rows = [processor.vocabulary.encode(label) for label in labels]
            return padded(rows, 0) | {"label_lengths": torch.tensor([len(row) for row in rows])}
        if texts:
            return padded([label_ids(model, label) for label in labels], IGNORED)
    try:
        return {"labels": torch.tensor(labels)}
    except (TypeError, ValueError):
        raise ValueError(
            f"labels={labels!r:.100}: expected the number or the name of the class of each input, a row of numbers for "
            "each, or for models that write text the texts"
        ) from None


def label_ids(model: Any, text: str) -> list[int]:
    """The tokens that a decoder is to write, without the one that it reads first."""
    processor = getattr(model.preprocess, "text", model.preprocess)
    if processor is None:
        raise ValueError("labels are texts, and the model has no tokenizer: pass tokens")
    if isinstance(processor, WhisperProcessor):
        ids = processor.encode(text)
    elif reads_images(model):  # captions
        ends = model.config.eos_token_id
        ids = [*processor.backend.encode(text, add_special_tokens=False).ids, ends[0] if type(ends) is tuple else ends]
    else:
        ids = processor.for_targets()(text)["input_ids"][0].tolist()
    return ids[1:] if len(ids) > 1 and ids[0] == model.config.decoder_start_token_id else ids


def padded(rows: Sequence[Sequence[int]], fill: int) -> Batch:
    """Rows of ids as labels [B, L]."""
    longest = max(map(len, rows))
    return {"labels": torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows])}


def row_losses(model: Any, batch: Batch, loss: Loss | None = None) -> Tensor:
    """The loss of each row [B]: mean over its tokens, of which padding and labels of -100 are left out.

    Raises ValueError for a head that has no loss of its own, and for labels that are missing, of another shape, or a
    copy of a decoder's tokens.
    """
    inputs = {name: value for name, value in batch.items() if name in model.inputs}
    labels, head, rows = batch.get("labels"), model.config.head, len(next(iter(inputs.values()), ()))
    if loss is not None:
        return each_row(loss(model(**inputs), batch), rows)
    if head is None and model.has_loss:  # contrastive models
        return each_row(model.loss(model(**inputs)), rows)
    if head not in HEADS:
        raise ValueError(
            f"head={head!r} has no loss of its own: pass loss=, a function (output, batch) -> loss of rows"
        )
    prefix = getattr(model, "decoder_prefix", "")
    # captioners without a prefix may have been given the tokens of a caption
    decodes = isinstance(model, EncoderDecoder) and (bool(prefix) or "input_ids" not in inputs)
    if head == "lm" and decodes:
        labels = needed(model, labels)
        start, pad = model.config.decoder_start_token_id, model.config.pad_token_id
        inputs = {f"{prefix}input_ids": shift_right(labels, start, start if pad is None else pad)} | inputs
    elif head == "lm" and not model.config.parts:
        if labels is None:
            labels = next_tokens(inputs)
        elif labels.shape == inputs["input_ids"].shape:
            follows(labels, inputs["input_ids"])
    labels = needed(model, labels)
    scores = model(**inputs)
    if not isinstance(scores, Tensor):
        raise ValueError(f"the output is a {type(scores).__name__}, which has no loss of its own: pass loss=, a "
                         "function (output, batch) -> loss of rows")  # fmt: skip
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if head == "classify":
        return class_losses(model, scores, labels)
    if head == "ctc":
        return ctc_losses(model, scores, batch, labels)
    keep = inputs.get(f"{prefix}attention_mask") if decodes else real_tokens(inputs)
    return token_losses(scores, labels, keep)


def each_row(loss: Any, rows: int) -> Tensor:
    """A loss of each row [B]; that of a whole batch is the loss of all of its rows."""
    if not isinstance(loss, Tensor) or loss.shape not in ((), (rows,)):
        what = list(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f"loss= returned {what} for {rows} rows: expected a tensor [{rows}], or one number")
    return loss.expand(rows)


def needed(model: Any, labels: Tensor | None) -> Tensor:
    if labels is None:
        raise ValueError(
            f"a {model.family} with head={model.config.head!r} needs labels for its loss: pass labels=, one for each "
            'input, or batches with "labels"'
        )
    return labels


def class_losses(model: Any, scores: Tensor, labels: Tensor) -> Tensor:
    kind = model.config.resolved_problem_type
    expected = (len(scores),) if kind == "single_label_classification" else scores.shape
    if kind == "regression" and labels.ndim == 1:
        labels = labels[:, None]
    if labels.shape != expected:
        raise ValueError(f"labels are {list(labels.shape)}, expected {list(expected)} for {kind}")
    if kind == "single_label_classification":
        if labels.is_floating_point() or not 0 <= int(labels.min()) <= int(labels.max()) < scores.shape[1]:
            raise ValueError(f"labels={labels.tolist()!r:.100}: expected classes from 0 to {scores.shape[1] - 1}")
        return F.cross_entropy(scores, labels, reduction="none")
    if kind == "regression":
        return F.mse_loss(scores, labels.to(scores.dtype), reduction="none").mean(1)
    return F.binary_cross_entropy_with_logits(scores, labels.to(scores.dtype), reduction="none").mean(1)


def token_losses(scores: Tensor, labels: Tensor, keep: Tensor | None) -> Tensor:
    """Mean cross-entropy of the tokens of each row that have a label; padding, where keep [B, N] is 0, has none."""
    if labels.shape != scores.shape[:2] or labels.is_floating_point():
        raise ValueError(f"labels are {list(labels.shape)} of {labels.dtype}, expected whole numbers "
                         f"{list(scores.shape[:2])}, a token for each position, -100 where there is none")  # fmt: skip
    if keep is not None and keep.shape == labels.shape:
        labels = labels.masked_fill(~keep.bool(), IGNORED)
    each = F.cross_entropy(scores.transpose(1, 2), labels.long(), reduction="none", ignore_index=IGNORED)
    return each.sum(1) / (labels != IGNORED).sum(1).clamp(min=1)


def ctc_losses(model: Any, scores: Tensor, batch: Batch, labels: Tensor) -> Tensor:
    """The CTC loss of each row, divided by the length of its text."""
    values, mask, lengths = batch["input_values"], batch.get("attention_mask"), batch.get("label_lengths")
    if lengths is None:
        raise ValueError('batches for CTC need "label_lengths" [B] beside "labels" [B, L]')
    samples = torch.full((len(values),), values.shape[1]) if mask is None else mask.sum(1).cpu()
    frames = model.frames(samples)
    blank = getattr(model.config, "blank", 0)
    losses = ctc_loss(scores, frames, labels, lengths, blank=blank, reduction="none")
    return losses / lengths.clamp(min=1)
