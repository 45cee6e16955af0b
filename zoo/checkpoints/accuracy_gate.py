"""int8 weights change the outputs: a gate that accepts them only if a measure on labeled examples allows it."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.models.base import Model

BATCH = 32
Example = tuple[Any, Any]  # what model.preprocess takes, and its label
Compute = Callable[[list[Any]], tuple[Tensor, Mapping[str, Tensor]]]  # items -> (outputs, their batch)


class Change(NamedTuple):
    """The accuracy, or a loss, on the examples before and after quantization."""

    measure: str
    before: float
    after: float
    dtype: str = "float32"

    @property
    def worse(self) -> float:
        """How much worse the quantized model is; negative if it is better."""
        return self.before - self.after if self.measure == "accuracy" else self.after - self.before

    @property
    def digits(self) -> int:
        """The decimals that show the change: four, or more for a smaller one."""
        return next((n for n in (4, 6, 8) if f"{self.before:.{n}f}" != f"{self.after:.{n}f}"), 4)

    def __str__(self) -> str:
        before, after = (f"{value:.{self.digits}f}" for value in (self.before, self.after))
        return f"{self.measure} {before} in {self.dtype} and {after} in int8"


def check_options(
    model: Model, quantize: str, examples: Sequence[Example] | None, tolerance: float | None, otherwise: str
) -> None:
    """Raise ValueError unless a model can be quantized and there are examples to measure it on.

    otherwise: what to do without quantization, such as "export it".
    """
    if quantize != "int8":
        raise ValueError(f"quantize={quantize!r}: expected 'int8'")
    if not examples or tolerance is None:
        raise ValueError(
            "int8 weights change the outputs, so they are measured: give labeled examples that the model was not "
            "trained on, and the greatest acceptable loss, examples=[(input, label), ...], tolerance=0.01 (zoo export: "
            "--table validation.csv --tolerance 0.01)"
        )
    limit, below = (1.0, " and below 1") if is_single_label(model) else (math.inf, "")  # losses have any size
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not 0 <= tolerance < limit:
        raise ValueError(f"tolerance={tolerance!r}: expected a number of at least 0{below}, such as 0.01")
    if model.config.head not in ("classify", "lm") or model.config.parts:
        raise ValueError(
            f"quantize='int8' measures classifiers (accuracy) and language models (loss), and this model has "
            f"head={model.config.head!r}: {otherwise} without quantize="
        )
    if model.preprocess is None:
        raise ValueError("quantize='int8' needs model.preprocess, which makes the inputs of the examples")


def is_single_label(model: Model) -> bool:
    config = model.config
    return config.head == "classify" and config.resolved_problem_type == "single_label_classification"


def indices(model: Model, labels: Sequence[Any]) -> list[Any]:
    """Labels as the loss takes them: the number of a class by its name; numbers, or lists of them, stay."""
    if not is_single_label(model):
        return list(labels)
    names = {name: i for i, name in enumerate(model.labels or [])}
    ambiguous = any(name.isdecimal() for name in names)  # the number 1 may be the class "1" or the second one
    found = []
    for label in labels:
        number = names.get(str(label))
        if number is None and not ambiguous and isinstance(label, int | str) and str(label).isdecimal():
            number = int(label)
        if number is None or number >= model.config.num_classes:
            known = ", ".join(names) or f"0 to {model.config.num_classes - 1}"
            raise ValueError(f"the label {label!r} is not a class of the model: expected one of {known:.300}")
        found.append(number)
    return found


def check_change(change: Change, tolerance: float, count: int, refused: str, otherwise: str) -> None:
    """Raise ValueError for a change that is greater than allowed, with both numbers. refused: what does not happen."""
    if not change.worse <= tolerance:
        raise ValueError(
            f"{refused}: {change} on {count:,} examples, worse by {change.worse:.{change.digits}f}, more than "
            f"tolerance={tolerance:g}; allow more, or {otherwise} without quantize="
        )


def measure(model: Model, compute: Compute, examples: Sequence[Example], labels: Sequence[Any]) -> float:
    """The accuracy on examples, or the mean loss: of regression, of several labels, of the next token."""
    total, count = 0.0, 0
    for start in range(0, len(examples), BATCH):
        part = slice(start, start + BATCH)
        output, batch = compute([item for item, _ in examples[part]])
        value, weight = score(model, output, batch, labels[part])
        total, count = total + value, count + weight
    return total / count


def name_of_measure(model: Model) -> str:
    return "accuracy" if is_single_label(model) else "loss"


def preprocessed(model: Model, items: list[Any]) -> dict[str, Tensor]:
    """The batch of items: texts are cut to the model's length, and what preprocess leaves out is all real."""
    options = {"truncate": "cut"} if "input_ids" in model.inputs else {}
    batch = dict(model.preprocess(items, **options))
    main = next(iter(batch.values()))
    batch.setdefault("attention_mask", torch.ones(main.shape[:2], dtype=torch.long))
    batch.setdefault("token_type_ids", torch.zeros(main.shape[:2], dtype=torch.long))
    return batch


def score(model: Model, output: Tensor, batch: Mapping[str, Tensor], labels: Sequence[Any]) -> tuple[float, int]:
    """(sum of the measure, number of what it is the mean of)."""
    if model.config.head == "lm":
        real = batch["attention_mask"][:, 1:].bool() & batch["attention_mask"][:, :-1].bool()
        losses = F.cross_entropy(output[:, :-1].mT, batch["input_ids"][:, 1:], reduction="none")
        return float(losses[real].sum()), int(real.sum())
    if is_single_label(model):
        return float((output.argmax(-1) == torch.tensor(labels)).sum()), len(labels)
    target = torch.tensor(labels, dtype=torch.float32).reshape(output.shape)
    if model.config.resolved_problem_type == "regression":
        return float(F.mse_loss(output, target, reduction="sum")), target.numel()
    return float(F.binary_cross_entropy_with_logits(output, target, reduction="sum")), target.numel()
