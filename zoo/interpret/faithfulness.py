"""`zoo.faithfulness`: does the output depend on what scores say that it depends on? Deletion and insertion curves.

    result = zoo.faithfulness(model, texts, ["attention", "integrated_gradients"])
    print(result)

The units with the highest scores are removed first (deletion) or are the first that are there (insertion), and the
probability of the target is followed (Petsiuk et al. 2018, https://arxiv.org/abs/1806.07421). Scores are faithful if it
falls early in deletion and rises early in insertion: compared with units in random order, without which the area under
a curve says nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.interpret.answers import inputs_and_target
from zoo.interpret.attribution import Attribution, attribute, check_method
from zoo.interpret.attribution_target import Target
from zoo.interpret.plot_attribution import plot_faithfulness
from zoo.interpret.replacements import choices, replacement_values, token_id
from zoo.interpret.scored_inputs import Part, ScoredInputs, scored_inputs
from zoo.utils.errors import check_choice

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RANDOM = "random order"


@dataclass(frozen=True, eq=False)
class Curve:
    """The probabilities [B, F] of the targets with fractions of the units removed (deletion) or there (insertion), and
    the areas [B] under them, by the trapezoidal rule. In random order these are means over several orders, and the
    standard deviations over the orders [B] of both areas are given.
    """

    order: str
    deletion: Tensor
    insertion: Tensor
    deletion_spread: Tensor | None = None
    insertion_spread: Tensor | None = None

    @property
    def deletion_area(self) -> Tensor:
        return area(self.deletion)

    @property
    def insertion_area(self) -> Tensor:
        return area(self.insertion)


@dataclass(frozen=True, eq=False)
class FaithfulnessResult:
    """Deletion and insertion curves of several orders of the units of the same inputs.

    fractions: F fractions from 0 to 1. part, removal: what was removed, and how. targets: the name of the target of
    each row. curves: one for each order, the random one last.
    """

    fractions: list[float]
    part: str
    removal: str
    targets: list[str]
    curves: list[Curve] = field(repr=False)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One for each order, means over the inputs: {"order", "deletion", "insertion" (areas), "deletion_spread",
        "insertion_spread" (the standard deviation over random orders of the mean over inputs, None for other orders),
        "better" (the share of the inputs in which the area is better than the mean of random orders: deletion,
        insertion), "fractions", "deletion_curve", "insertion_curve"}."""
        chance = self.curves[-1]
        found = []
        for curve in self.curves:
            better = None
            if curve is not chance:
                better = (float((curve.deletion_area < chance.deletion_area).float().mean()),
                          float((curve.insertion_area > chance.insertion_area).float().mean()))  # fmt: skip
            found.append({
                "order": curve.order,
                "deletion": float(curve.deletion_area.mean()),
                "insertion": float(curve.insertion_area.mean()),
                "deletion_spread": spread_of_mean(curve.deletion_spread),
                "insertion_spread": spread_of_mean(curve.insertion_spread),
                "better": better,
                "fractions": self.fractions,
                "deletion_curve": curve.deletion.mean(0).tolist(),
                "insertion_curve": curve.insertion.mean(0).tolist(),
            })  # fmt: skip
        return found

    def __str__(self) -> str:
        lines = [
            f"{self.part} of {len(self.targets)} inputs, removed by {self.removal!r}; area under the probability",
            f"{'order':<24} {'deletion':>18} {'insertion':>18}   better than random",
        ]
        for row in self.rows:
            cells = [with_spread(row[name], row[f"{name}_spread"]) for name in ("deletion", "insertion")]
            better = "" if row["better"] is None else "{:.0%}, {:.0%}".format(*row["better"])
            lines.append(f"{row['order']:<24} {cells[0]:>18} {cells[1]:>18}   {better}".rstrip())
        return "\n".join([*lines, "deletion: lower is better; insertion: higher is better"])

    def plot(self, path: str | Path | None = None) -> "Figure":
        """Plot the curves, means over the inputs. path: PNG file to write."""
        return plot_faithfulness(self, path)


def with_spread(value: float, spread: float | None) -> str:
    return f"{value:.3f}" + ("" if spread is None else f" ± {spread:.3f}")


def spread_of_mean(spread: Tensor | None) -> float | None:
    """The standard deviation of a mean over inputs whose orders are independent, from those of each."""
    return None if spread is None else float(spread.square().sum().sqrt() / len(spread))


def area(curve: Tensor) -> Tensor:
    """The area [B] under curves [B, F] over fractions from 0 to 1, by the trapezoidal rule."""
    return torch.trapezoid(curve, dx=1 / (curve.shape[1] - 1))


def faithfulness(
    model: Any,
    inputs: Any,
    scores: Any = ("attention", "integrated_gradients"),
    target: Any = None,
    *,
    part: str | None = None,
    removal: str | None = None,
    steps: int = 20,
    random_orders: int = 5,
    seed: int = 0,
    batch_size: int = 64,
) -> FaithfulnessResult:
    """Deletion and insertion curves of scores, and of random orders.

    Args:
        model: As in `zoo.attribute`.
        inputs: As in `zoo.attribute`.
        scores: Methods of `zoo.attribute` by their names, an `Attribution` of the same inputs, or {name: Attribution or
            scores [B, n]}.
        target: As in `zoo.attribute`. The probability of an answer that a decoder writes is the geometric mean of those
            of its tokens; that of an answer in a context is the product of those of its first and last token, and its
            words stay.
        part: The part that is changed, by default the first ("text", "image", "audio").
        removal: How units are removed. Of texts "remove" (the default): the model reads the text without the tokens,
            as if they had not been written, and sees no token that it was not trained on; or "mask" or "pad", that
            token in their place; special tokens stay. Of images and spectrograms "mean" (the default), the mean color
            of the image or the mean of each mel bin of the clip, which adds the fewest edges; "blur"; or "zero". Of
            waveforms "zero", silence.
        steps: Fractions that are removed, beside none.
        random_orders: Random orders of each input; their mean and spread are in the result.
        seed: Of the random orders.
        batch_size: Inputs that are computed at once.

    Raises: ValueError for scores of another length than the inputs, for a removal that the part does not have, and
        for a text that has nothing to remove.
    """
    for name, value in (("steps", steps), ("random_orders", random_orders), ("batch_size", batch_size)):
        if type(value) is not int or value < 1:
            raise ValueError(f"{name}={value!r}: expected a whole number of at least 1")
    found = inputs if isinstance(inputs, ScoredInputs) else scored_inputs(model, inputs)
    found, chosen = inputs_and_target(found, target, batch_size)
    own = without_read_tokens(found, found.part(part), chosen)
    if not bool(own.free.any(1).all()):
        row = int((~own.free.any(1)).nonzero()[0])
        raise ValueError(f"row {row} has nothing to remove: all of its {own.name} are special tokens, padding or "
                         "tokens that the output is read at, such as the answer")  # fmt: skip
    how = removal or ("remove" if own.words is not None and own.mask is not None else default_removal(own))
    check_removal(own, how)
    run = Removal(found, own, how, chosen, batch_size)
    orders = {name: ranks(x, own.free) for name, x in named_scores(found, own, scores, chosen).items()}
    curves = [Curve(name, *run.curves(order, steps)) for name, order in orders.items()]
    generator = torch.Generator().manual_seed(seed)
    chance = [run.curves(ranks(torch.rand(own.free.shape, generator=generator), own.free), steps)
              for _ in range(random_orders)]  # fmt: skip
    both = [torch.stack(each) for each in zip(*chance)]  # orders, B, F
    spreads = [area(x.flatten(0, 1)).unflatten(0, x.shape[:2]).std(0, correction=min(1, len(x) - 1)) for x in both]
    curves.append(Curve(RANDOM, *(x.mean(0) for x in both), *spreads))
    return FaithfulnessResult([i / steps for i in range(steps + 1)], own.name, how, chosen.labels, curves)


def default_removal(part: Part) -> str:
    """Tokens of models without a mask for padding: "pad"; of other inputs the mean, of waveforms silence."""
    return "pad" if part.words is not None else ("mean" if "mean" in choices(part) else "zero")


def check_removal(part: Part, how: str) -> None:
    """Raises ValueError for a removal that the part does not have."""
    tokens = ("remove", "mask", "pad") if part.mask is not None else ("mask", "pad")
    check_choice(f"removal of {part.name}", how, tokens if part.words is not None else choices(part))


def without_read_tokens(inputs: ScoredInputs, part: Part, target: Target) -> Part:
    """The part; the tokens at whose positions the output is read stay, as without them there is no output, and so do
    all words of an answer in a context."""
    if part.words is None or target.positions is None or part is not list(inputs.parts.values())[-1]:
        return part
    places = target.positions.view(len(part.fixed), -1)
    line = torch.arange(part.fixed.shape[1], device=places.device)
    if target.among is not None:
        read = (places[:, :1] <= line) & (line <= places[:, 1:])
    else:
        read = (line == places[..., None]).any(1)
    return replace(part, fixed=part.fixed | read)


def named_scores(inputs: ScoredInputs, part: Part, scores: Any, target: Target) -> dict[str, Tensor]:
    """{name of the order: scores [B, n]}. Raises ValueError for scores that do not fit the part."""
    if isinstance(scores, Attribution):
        scores = {scores.method: scores}
    if isinstance(scores, str):
        scores = [scores]
    if not isinstance(scores, Mapping | Sequence) or not scores:
        raise ValueError(f"scores={scores!r:.80}: expected names of methods, an Attribution or {{name: scores}}")
    given: dict[str, Any] = dict(scores) if isinstance(scores, Mapping) else {}
    for name in () if isinstance(scores, Mapping) else scores:
        check_method(name)
        given[name] = attribute(inputs.model, inputs, target, name)
    found = {}
    for name, value in given.items():
        if isinstance(value, Attribution):
            if part.name not in value.scores:
                raise ValueError(f"the scores {name!r} are of {', '.join(value.scores)}: expected those of {part.name}")
            value = value.scores[part.name]
        values = torch.as_tensor(value)
        if values.shape != part.keep.shape:
            rows, units = part.keep.shape
            raise ValueError(f"the scores {name!r} are {list(values.shape)}: expected [{rows}, {units}], one for "
                             f"each unit of {part.name}")  # fmt: skip
        if not bool(values.isfinite().all()):
            raise ValueError(f"the scores {name!r} have numbers that are not finite")
        found[str(name)] = values.float().cpu()
    return found


def ranks(scores: Tensor, free: Tensor) -> Tensor:
    """The place [B, n] of each unit in the order of scores, the highest first; units that are not free are last."""
    order = scores.cpu().masked_fill(~free.cpu(), -torch.inf).argsort(dim=1, descending=True, stable=True)
    return order.argsort(1)


@dataclass(frozen=True, eq=False)
class Removal:
    """Probabilities of inputs without some of their units."""

    inputs: ScoredInputs
    part: Part
    how: str
    target: Target
    batch_size: int

    def curves(self, place: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """(deletion [B, F], insertion [B, F]) of units in the order `place` [B, n], F = steps + 1."""
        free = self.part.free.cpu()
        counts = free.sum(1)
        removed = []
        for step in range(steps + 1):
            limit = (counts * step / steps).round()[:, None]
            removed += [(place < limit) & free, (place >= limit) & free]
        found = torch.cat(list(self.probabilities(torch.stack(removed, 1)))).unflatten(0, (len(place), -1, 2))
        return found[..., 0], found[..., 1]

    def probabilities(self, removed: Tensor) -> Iterator[Tensor]:
        """The probabilities of rows [B, K, n] without the units that are True, flattened to [B * K], in batches."""
        device = self.inputs.model.device
        rows = torch.arange(len(removed), device=device).repeat_interleave(removed.shape[1])
        new = self.replacements()
        masks = removed.flatten(0, 1).to(device)
        for some in torch.arange(len(rows), device=device).split(self.batch_size):
            own = rows[some]
            there = self.part.keep[own] & ~masks[some] if new is None else None
            with torch.no_grad():
                output = self.inputs.run(own, inputs=self.changed(own, masks[some], new))
            yield self.target.probabilities(self.inputs.model, output, own, there).cpu()

    def replacements(self) -> Tensor | None:
        """What stands in the place of all units, None for tokens that are not read."""
        if self.how == "remove":
            return None
        values = self.inputs.batch[self.part.key]
        if self.part.words is not None:
            return torch.full_like(values, token_id(self.inputs, self.how))
        return replacement_values(self.inputs, self.part, values.float(), self.how).to(values.dtype)

    def changed(self, rows: Tensor, removed: Tensor, new: Tensor | None) -> dict[str, Tensor]:
        """The inputs of the model that change, for rows [R] without the units [R, n]."""
        part = self.part
        if new is None:
            assert part.mask is not None
            return {part.mask: (part.keep[rows] & ~removed).long()}
        values = self.inputs.batch[part.key][rows]
        where = removed if part.words is not None else part.per_number(removed)
        return {part.key: torch.where(where, new[rows], values)}
