"""`zoo.head_importance`: what each attention head of a model is worth for its loss."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo.interpret.head_scores import HeadImportance
from zoo.interpret.hooks import attached, eager_mode, stacks, unwrap
from zoo.interpret.intervene import ablate, intervene
from zoo.interpret.row_losses import Batch, Loss, batches_of, row_losses
from zoo.interpret.select_layers import Layers, block_places, match_layers
from zoo.models.base import Model
from zoo.models.eval_mode import eval_mode
from zoo.nn.attention import Attention
from zoo.nn.core import check_positive
from zoo.nn.pruned_heads import attention_layers
from zoo.parallel.stages import is_divided
from zoo.utils.errors import check_choice

Method = Literal["gradient", "ablation"]
METHODS: tuple[Method, ...] = ("gradient", "ablation")


def head_importance(
    model: Any,
    data: Any,
    labels: Any = None,
    *,
    method: Method = "gradient",
    layers: Layers = "*",
    normalize: bool = False,
    batch_size: int = 16,
    loss: Loss | None = None,
) -> HeadImportance:
    """The importance of each attention head for the loss of a model: a table [layers, heads].

        scores = zoo.head_importance(model, texts, labels)           # a classifier
        scores = zoo.head_importance(decoder, texts)                 # a language model: the next tokens
        print(scores); scores.plot("heads.png"); small = zoo.prune(model, keep=0.5, importance=scores)

    "gradient" (Michel et al. 2019, equation 2): the output of each head is multiplied by a gate of 1, and the score is
    the mean over the rows of |d loss / d gate|, from one forward and backward pass. It estimates how much the loss
    changes without the head, whichever way. "ablation": the mean loss without the head minus that with all heads, from
    a forward pass for each head; below zero for a head without which the model is better.

    The model is evaluated without dropout; its weights, gradients and mode stay as they are. Padding has no part in the
    loss.

    Args:
        model: A model, its inputs texts, images, audio or several of these.
        data: A list of inputs of `model.preprocess`, a batch of its inputs {name: tensor}, or an iterable of batches.
        labels: One for each input: numbers or names of classes, rows of 0 and 1, numbers of a regression, the texts
            that an encoder-decoder or a CTC model writes. Or in the batches, as "labels": the token that follows each
            position for language models (default: those of the texts), -100 for tokens that do not count.
        method: "gradient" or "ablation".
        layers: The layers, as in `zoo.capture`.
        normalize: Divide the scores of each layer by their Euclidean norm, as Michel et al. do.
        batch_size: Inputs that are computed at once, of a list or a single batch.
        loss: Another loss: (output of the model, batch) -> loss of each row [B], or one number for the batch.

    Source: Michel et al. 2019, https://arxiv.org/abs/1905.10650.
    Raises: ValueError for models without attention, missing labels, and sharded models.
    """
    check_choice("method", method, METHODS)
    whole = unwrap(model)
    if not isinstance(whole, Model):
        raise ValueError(f"expected a zoo.Model, given a {type(model).__name__}: zoo.load loads one from a folder")
    if is_divided(whole):
        raise ValueError("the model is sharded over processes: zoo.save it, and measure the one that zoo.load returns")
    check_positive(batch_size=batch_size)
    chosen = selected_layers(whole, layers)
    batches = batches_of(whole, data, labels, batch_size)
    with eager_mode(), eval_mode(whole), without_checkpointing(whole):
        if method == "gradient":
            scores, mean, rows = by_gradient(whole, chosen, batches, loss)
        else:
            scores, mean, rows = by_ablation(whole, chosen, list(batches), loss)
    if normalize:
        scores = {name: values / values.norm().clamp(min=1e-30) for name, values in scores.items()}
    return HeadImportance(scores, method, mean, rows, normalize)


def selected_layers(model: Model, layers: Layers) -> dict[str, Attention]:
    """The attentions that `layers` names. Raises ValueError if there are none."""
    found = attention_layers(model)
    if not found:
        raise ValueError(f"this {model.family} model has no attention whose heads could be measured")
    names: set[str] = set()
    for choice in [layers] if isinstance(layers, str | int) else layers:
        names.update(match_layers(choice, list(found), block_places(model)))
    return {name: part for name, part in found.items() if name in names}


@contextmanager
def without_checkpointing(model: nn.Module) -> Iterator[None]:
    """The model without recomputation, in which hooks would run twice."""
    recomputed = [stack for stack in stacks(model) if stack.checkpointing]
    for stack in recomputed:
        stack.checkpointing = False
    try:
        yield
    finally:
        for stack in recomputed:
            stack.checkpointing = True


# --- by gradient ------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Gates:
    """Gates of 1 on the heads of an attention, one for each token, and the row of each token of a packed batch."""

    attention: Attention
    gates: list[Tensor] = field(default_factory=list)
    rows: list[Tensor | None] = field(default_factory=list)

    def hooks(self) -> list[tuple[Callable[..., Any], Callable[..., Any]]]:
        """Pairs for `attached`: a function that registers a hook, and the hook."""
        return [
            (partial(self.attention.register_forward_pre_hook, with_kwargs=True), self.note_rows),
            (self.attention.out.register_forward_pre_hook, self.multiply),
        ]

    def note_rows(self, attention: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        groups = (args[1] if len(args) > 1 else kwargs["context"]).groups
        self.rows.append(None if groups is None else groups.row)

    def multiply(self, out: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        """y [B, N, H * P], or packed [1, T, H * P], times the gates."""
        y = args[0].unflatten(-1, (self.attention.core.spec.heads, -1))
        gate = torch.ones(*y.shape[:-1], 1, dtype=y.dtype, device=y.device, requires_grad=True)
        self.gates.append(gate)
        return ((y * gate).flatten(-2),)

    def row_sums(self, gradients: Sequence[Tensor | None]) -> Tensor:
        """Gradients of the gates -> |sum over the tokens| of each row and head [R, H], and forgets the gates."""
        sums = []
        for gate, gradient, rows in zip(self.gates, gradients, self.rows, strict=True):
            values = (torch.zeros_like(gate) if gradient is None else gradient)[..., 0].double()  # B N H
            if rows is not None:
                zeros = values.new_zeros(int(rows[-1]) + 1, values.shape[-1])
                values = zeros.index_add(0, rows, values[0])[:, None]
            sums.append(values.sum(1).abs())
        self.gates, self.rows = [], []
        return torch.cat(sums).cpu()


def by_gradient(
    model: Model, layers: Mapping[str, Attention], batches: Iterator[Batch], loss: Loss | None
) -> tuple[dict[str, Tensor], float, int]:
    """({layer: mean |d loss / d gate| [H]}, mean loss, number of rows)."""
    gates = {name: Gates(part) for name, part in layers.items()}
    sums = {name: torch.zeros(part.core.spec.heads, dtype=torch.float64) for name, part in layers.items()}
    counts, total, rows = dict.fromkeys(layers, 0), 0.0, 0
    for batch in batches:
        with torch.enable_grad():
            with attached(pair for own in gates.values() for pair in own.hooks()):
                losses = row_losses(model, batch, loss)
            flat = [gate for own in gates.values() for gate in own.gates]
            found = list(torch.autograd.grad(losses.sum(), flat, allow_unused=True))
        total, rows = total + float(losses.detach().double().sum()), rows + len(losses)
        for name, own in gates.items():
            part, found = found[: len(own.gates)], found[len(own.gates) :]
            values = own.row_sums(part) if part else torch.zeros(0, len(sums[name]), dtype=torch.float64)
            sums[name], counts[name] = sums[name] + values.sum(0), counts[name] + len(values)
    check_rows(rows)
    return {name: values / max(1, counts[name]) for name, values in sums.items()}, total / rows, rows


# --- by ablation ------------------------------------------------------------------------------------------------------


def by_ablation(
    model: Model, layers: Mapping[str, Attention], batches: list[Batch], loss: Loss | None
) -> tuple[dict[str, Tensor], float, int]:
    """({layer: loss without each head - loss with all [H]}, mean loss, number of rows)."""

    def mean_loss() -> tuple[float, int]:
        found = torch.cat([row_losses(model, batch, loss).double() for batch in batches])
        return float(found.mean()), len(found)

    check_rows(len(batches))
    scores = {}
    with torch.no_grad():
        whole, rows = mean_loss()
        for name, attention in layers.items():
            values = []
            for head in range(attention.core.spec.heads):
                with intervene(model, {name: ablate(heads=head)}):
                    values.append(mean_loss()[0] - whole)
            scores[name] = torch.tensor(values, dtype=torch.float64)
    return scores, whole, rows


def check_rows(rows: int) -> None:
    if not rows:
        raise ValueError("data is empty: expected at least one input")
