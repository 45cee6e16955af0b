"""`zoo.attribute`: how much each token, patch or stretch of a clip contributes to one class or output token.

    found = zoo.attribute(model, "the soup was cold", target="negative")
    print(found)
    found.plot("attribution.png")

Whether scores are right is a question of its own, for attribution as for attention: `zoo.faithfulness` tests them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.interpret.answers import inputs_and_target
from zoo.interpret.attention_scores import METHODS as ATTENTION
from zoo.interpret.attention_scores import attention_scores
from zoo.interpret.attribution_gradients import (
    CAPTUM,
    Completeness,
    by_captum,
    input_x_gradient,
    integrated_gradients,
)
from zoo.interpret.plot_attribution import plot_attribution
from zoo.interpret.replacements import choices
from zoo.interpret.scored_inputs import Part, ScoredInputs, scored_inputs
from zoo.utils.errors import check_choice, is_number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHODS = ("integrated_gradients", "input_x_gradient", *ATTENTION)
BATCH, BATCH_OF_MAPS = 32, 8  # rows or points of a path that are computed at once
SHOWN = 10  # units that are printed


@dataclass(frozen=True, eq=False)
class Attribution:
    """Scores of the parts of inputs, for one output of each row.

    method: how they were computed. targets: the name of the class or token of each row. scores: {part: [B, n]}, float32
    on the CPU, with zeros at padding; a part is "text", "image", "audio", or "target" for the tokens that a decoder
    has read. completeness: of integrated gradients, None for other methods. inputs: what was scored, with its parts.
    """

    method: str
    targets: list[str]
    scores: dict[str, Tensor]
    completeness: Completeness | None = None
    inputs: ScoredInputs = field(repr=False, kw_only=True)

    def __getitem__(self, part: str) -> Tensor:
        return self.scores[part]

    def part(self, name: str | None = None) -> Part:
        """The description of a part, by default the first: `keep` [B, n], the `grid` of patches, `labels` of tokens."""
        return self.inputs.part(name)

    def top(self, row: int = 0, count: int = SHOWN, part: str | None = None) -> list[tuple[str, float]]:
        """The units of a row with the highest scores, [(token, or place of the patch, score), ...]."""
        own = self.part(part)
        scores = self.scores[own.name][row].masked_fill(~own.keep[row].cpu(), -torch.inf)
        best = scores.topk(min(count, int(own.keep[row].sum())))
        return [(unit_name(own, row, i), value) for value, i in zip(best.values.tolist(), best.indices.tolist())]

    def __str__(self) -> str:
        lines = [] if self.completeness is None else [str(self.completeness)]
        for row, target in enumerate(self.targets):
            for name in self.scores:
                best = ", ".join(f"{unit} {value:.3g}" for unit, value in self.top(row, part=name))
                lines.append(f"row {row}, {target}, {self.method} of {name}: {best}")
        return "\n".join(lines)

    def plot(self, path: str | Path | None = None) -> "Figure":
        """Plot the scores: tokens as bars, patches over images and spectrograms. path: PNG file to write."""
        return plot_attribution(self, path)


def unit_name(part: Part, row: int, index: int) -> str:
    """The text of a token, or the place of a patch."""
    if part.labels is not None:
        return part.labels[row][index]
    if part.grid is None or part.grid[0] == 1:
        return str(index)
    return f"({index // part.grid[1]}, {index % part.grid[1]})"


def attribute(
    model: Any,
    inputs: Any,
    target: Any = None,
    method: str = "integrated_gradients",
    *,
    baseline: str | Mapping[str, str] | None = None,
    tolerance: float = 0.01,
    batch_size: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> Attribution:
    """The contribution of each token or patch to the score of one class or output token.

    Args:
        model: A classifier, a language model, a contrastive model or an encoder-decoder, of texts, images or audio; or
            one that reads an image or a clip among the words of a text (LLaVA, PaliGemma, Idefics), one in each row.
        inputs: What `model.preprocess` takes, one or a list; its keywords in a dict, {"images": ..., "text": ...}; or a
            batch, padded or packed (`zoo.pack`; then each document is a row).
        target: A class by its name or number, a token by its text or number, or (position, class) for an output at a
            token; a list has one for each row. Of a decoder, also that of an encoder-decoder, an answer, a text of
            several tokens that follows the input: the score is the sum of theirs, and the answer itself has none. Of a
            model with head="qa" an answer by its text in the context or by its (first, last) token. None: the most
            probable class, answer in the context, or token after the last one or at the mask. The score of a
            contrastive model is the similarity of its two inputs.
        method: "integrated_gradients" (Sundararajan et al. 2017); "input_x_gradient"; "attention", from the tokens that
            the output layer reads, the mean over heads and layers; "rollout" (Abnar and Zuidema 2020);
            "attention_x_gradient", the mean over heads and layers of the positive products of weights and their
            gradients, summed over queries; "gradient_rollout", these products followed through the layers (Chefer et
            al. 2021, equation 6); or a class of captum by its name, "captum.GradientShap".
        baseline: Where integrated gradients begin. Of texts "mean" (the default), the mean embedding of the vocabulary,
            the embedding of the "pad" or "mask" token, or "zero", near which models without biases are not smooth; of
            images and audio "zero" (the default), which is the mean of the data for most processors, and their own
            "mean" or "blur". A dict has one for each part. Special tokens and padding are the same at both ends, so
            that they have the score 0.
        tolerance: The error of integrated gradients, relative to the sum of the absolute scores; there are more steps
            until it is reached, and a warning if it is not.
        batch_size: Inputs, or points of a path, that are computed at once. Default: 32, with attention maps 8.
        options: Of `attribute()` of a class of captum.

    Raises: ValueError for a method or target that the model does not have, ImportError without captum.
    """
    size = checked_batch_size(method, batch_size, tolerance, options)
    found = inputs if isinstance(inputs, ScoredInputs) else scored_inputs(model, inputs)
    found, chosen = inputs_and_target(found, target, size)
    starts = baselines(found, baseline)
    completeness = None
    with torch.inference_mode(False):  # a caller may be in it, where there are no gradients
        if method == "integrated_gradients":
            scores, completeness = integrated_gradients(found, chosen, starts, size, tolerance)
        elif method == "input_x_gradient":
            scores = input_x_gradient(found, chosen, size)
        elif method.startswith(CAPTUM):
            scores = by_captum(found, chosen, method.removeprefix(CAPTUM), starts, options or {})
        else:
            rows = torch.arange(found.rows, device=found.model.device).split(size)
            chunks = [attention_scores(found, chosen, method, some) for some in rows]
            scores = {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}
    kept = {name: (x * found.parts[name].keep).float().cpu() for name, x in scores.items()}
    return Attribution(method, chosen.labels, kept, completeness, inputs=found)


def checked_batch_size(method: Any, batch_size: int | None, tolerance: Any, options: Any) -> int:
    """The batch size of a method. Raises ValueError for arguments of `attribute` that it cannot have."""
    check_method(method)
    if options and not method.startswith(CAPTUM):
        raise ValueError(f"options={dict(options)!r} are for methods of captum, and method={method!r}")
    if not is_number(tolerance) or tolerance <= 0:
        raise ValueError(f"tolerance={tolerance!r}: expected a number above 0")
    usual = BATCH_OF_MAPS if method in ATTENTION else BATCH
    size = usual if batch_size is None else batch_size
    if type(size) is not int or size < 1:
        raise ValueError(f"batch_size={batch_size!r}: expected a whole number of at least 1")
    return size


def check_method(method: Any) -> None:
    """Raises ValueError for a method that is neither ours nor of captum."""
    if not (isinstance(method, str) and method.startswith(CAPTUM)):
        check_choice("method", method, (*METHODS, f"{CAPTUM}CLASS"))


def baselines(inputs: ScoredInputs, baseline: str | Mapping[str, str] | None) -> dict[str, str]:
    """{part: its baseline}. Raises ValueError for a part that is not there, or a baseline that a part does not have."""
    usual = {name: "zero" if part.words is None else "mean" for name, part in inputs.parts.items()}
    given = baseline if isinstance(baseline, Mapping) else {name: baseline or usual[name] for name in inputs.parts}
    for name, how in given.items():
        check_choice(f"baseline of {name}", how, choices(inputs.part(name)))
    return usual | dict(given)
