"""What `zoo.intervene` puts in the place of activations: zeros, means, those of another input, a function of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from zoo.interpret.hooks import Layout, as_list, check_indices, recomputing

EditedWhat = Literal["head_output", "attention", "q", "k", "v", "mixer", "mlp", "residual"]
EDITED: tuple[str, ...] = ("head_output", "attention", "q", "k", "v", "mixer", "mlp", "residual")
WITHOUT_HEADS = ("mixer", "mlp", "residual")
Values = Tensor | Sequence[Tensor] | Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Edit:
    """A change of activations, made by `zoo.ablate` or `zoo.patch`.

    by: "zero", "mean" or "reference" (the mean of `values`), or "patch" (`values` themselves).
    """

    by: Literal["zero", "mean", "reference", "patch"]
    values: Any = None
    heads: tuple[int, ...] | None = None
    rows: tuple[int, ...] | None = None
    positions: tuple[int, ...] | None = None
    what: EditedWhat | None = None


def ablate(
    heads: int | Sequence[int] | None = None,
    *,
    by: Literal["zero", "mean"] | Tensor = "zero",
    rows: int | Sequence[int] | None = None,
    positions: int | Sequence[int] | None = None,
    what: EditedWhat | None = None,
) -> Edit:
    """An edit for `zoo.intervene` that removes what activations say about the input.

    heads: query heads, for what="head_output", the default for an attention module, "attention" and "q"; key heads,
    of which there are fewer with grouped queries, for "k" and "v".
    by: "zero"; "mean", over the real tokens of the batch (while decoding: over those of the step); or a tensor, whose
    mean over rows and tokens is taken, such as the activations of many other texts from `zoo.capture`; its padding, all
    zeros, does not count. For attention maps, "mean" gives every key that a query may attend to the same weight, and a
    tensor stands for its mean over rows.
    rows, positions: rows of the batch and places of tokens (for attention maps, of queries; for "k" and "v" of
    cross-attention, of the memory), None for all. Places count from the start of the row, padding and tokens in a cache
    included; -1 is the last token so far.
    what: see `zoo.intervene`.
    """
    if isinstance(by, Tensor):
        return make_edit("reference", by, heads, rows, positions, what)
    if by not in ("zero", "mean"):
        raise ValueError(f"by={by!r}: expected 'zero', 'mean', or a tensor of which the mean is taken")
    return make_edit(by, None, heads, rows, positions, what)


def patch(
    values: Values,
    heads: int | Sequence[int] | None = None,
    *,
    rows: int | Sequence[int] | None = None,
    positions: int | Sequence[int] | None = None,
    what: EditedWhat | None = None,
) -> Edit:
    """An edit for `zoo.intervene` that puts other activations in the place of a module's own.

    values: a tensor as `zoo.capture` returns it for the same module, of this or another input; each of its dimensions
    has the size of the whole, that of the choice, or 1. Or a list of tensors, one for each run of the module (while
    decoding). Or a function of the chosen activations [rows, heads, positions, P], or [rows, positions, D], that
    returns as many, such as `lambda x: 2 * x`.
    heads, rows, positions, what: see `zoo.ablate`.
    """
    several = isinstance(values, list | tuple) and len(values) > 0 and all(isinstance(v, Tensor) for v in values)
    if not (isinstance(values, Tensor) or several or callable(values)):
        raise ValueError(
            f"values: expected a tensor as zoo.capture returns it, a list of tensors (one for each run of the module), "
            f"or a function of the activations, given a {type(values).__name__}"
        )
    return make_edit("patch", values, heads, rows, positions, what)


def make_edit(by: Any, values: Any, heads: Any, rows: Any, positions: Any, what: Any) -> Edit:
    """An Edit, its options checked."""
    if what is not None and what not in EDITED:
        raise ValueError(f"what={what!r}: expected one of {', '.join(map(repr, EDITED))}")
    if heads is not None and what in WITHOUT_HEADS:
        raise ValueError(f"heads={heads!r}: what={what!r} has no heads; what='head_output' has")
    of_heads, of_rows, at = (
        None if choice is None else tuple(as_list(choice, name) or ())
        for choice, name in ((heads, "heads"), (rows, "rows"), (positions, "positions"))
    )
    return Edit(by, values, of_heads, of_rows, at, what)


class AppliedEdit:
    """An edit of the activations of one module.

    runs: how often the module has run. calls: how often the edit was applied, not in runs without the chosen positions.
    """

    def __init__(self, edit: Edit, name: str) -> None:
        self.edit, self.name, self.runs, self.calls = edit, name, 0, 0

    def __call__(self, x: Tensor, layout: Layout, visible: Callable[[], Tensor] | None = None) -> Tensor:
        """x [B, N, D], [B, H, N, P] or, for attention maps, [B, H, N, M] -> the same with the edit.

        visible: for maps, a function that gives their weights for equal queries and keys.
        """
        self.runs += not recomputing()
        index = self.index(x, layout)
        if index is None:  # none of the positions is among these tokens
            return x
        self.calls += not recomputing()
        chosen = x
        for dim, numbers in index.items():
            chosen = chosen.index_select(dim, numbers)
        new = self.new(chosen, x, index, layout, visible)
        if not index:
            return new.to(x.dtype)
        places = [index.get(dim, torch.arange(x.shape[dim], device=x.device)) for dim in range(x.ndim - 1)]
        grid = torch.meshgrid(*places, indexing="ij")
        return x.index_put(grid, new.to(x.dtype))

    def index(self, x: Tensor, layout: Layout) -> dict[int, Tensor] | None:
        """{dimension: chosen indices}, without those of which all are chosen; None for no position among these."""
        edit, tokens = self.edit, x.ndim - 2
        options = {0: ("rows", edit.rows)} | ({1: ("heads", edit.heads)} if x.ndim == 4 else {})
        if edit.heads is not None and x.ndim != 4:
            raise ValueError(f"heads={list(edit.heads)}: {self.name} has no heads to choose from")
        found = {}
        for dim, (option, numbers) in options.items():
            indices = check_indices(None if numbers is None else list(numbers), x.shape[dim], option, self.name)
            if indices is not None:
                found[dim] = torch.tensor(indices, device=x.device)
        if edit.positions is not None:
            if layout.start is None:
                raise ValueError(
                    f"positions={list(edit.positions)}: {self.name} decodes with a static cache, whose rows are at "
                    "places of their own; edit all positions, or decode without optimize"
                )
            places = self.places(x.shape[tokens], layout)
            if not places:
                return None
            found[tokens] = torch.tensor(places, device=x.device)
        return found

    def places(self, count: int, layout: Layout) -> list[int]:
        """The chosen positions among `count` new tokens."""
        numbers, start = list(self.edit.positions or ()), layout.start or 0
        if not layout.decodes:
            return check_indices(numbers, count, "positions", self.name) or []
        absolute = [n + start + count if n < 0 else n for n in numbers]
        return [n - start for n in absolute if start <= n < start + count]

    def new(
        self,
        chosen: Tensor,
        x: Tensor,
        index: dict[int, Tensor],
        layout: Layout,
        visible: Callable[[], Tensor] | None,
    ) -> Tensor:
        """What takes the place of the chosen activations, of the same shape."""
        by, values = self.edit.by, self.edit.values
        if by == "zero":
            return torch.zeros_like(chosen)
        if by == "mean":
            mean = mean_of_tokens(x, layout.real(x.shape[-2])) if visible is None else uniform(visible(), self.name)
            return self.fit(mean, x, index, chosen)
        if by == "reference":
            if values.ndim < x.ndim:  # a mean already
                return self.fit(values, x, index, chosen)
            return self.fit(mean_of_rows(values) if visible is not None else mean_of_real(values), x, index, chosen)
        if isinstance(values, list | tuple):
            values = self.of_this_call(values)
        if isinstance(values, Tensor):
            return self.fit(values, x, index, chosen)
        new = values(chosen)
        if not isinstance(new, Tensor) or new.shape != chosen.shape:
            given = tuple(new.shape) if isinstance(new, Tensor) else type(new).__name__
            raise ValueError(
                f"the function for {self.name} returned {given}: expected a tensor {tuple(chosen.shape)}, as given"
            )
        return new

    def of_this_call(self, values: Sequence[Tensor]) -> Tensor:
        """The tensor for this run of the module."""
        if recomputing():
            raise ValueError(
                f"{self.name}: activation checkpointing runs the module again, so a list of tensors, one for each run, "
                "does not say which; set checkpointing = False on its stack"
            )
        if self.runs > len(values):
            raise ValueError(
                f"{self.name} runs for the {self.runs}. time, and there are {len(values)} tensors to patch: give one "
                "for each run"
            )
        return values[self.runs - 1]

    def fit(self, values: Tensor, x: Tensor, index: dict[int, Tensor], chosen: Tensor) -> Tensor:
        """Values as the chosen part of x: each dimension has the size of x, that of the choice, or 1."""
        given = values.shape
        values = values.to(x.device).reshape(*[1] * (x.ndim - values.ndim), *given)
        fits = values.ndim == x.ndim
        for dim in range(x.ndim if fits else 0):
            size = values.shape[dim]
            if size == x.shape[dim] and dim in index and size != 1:
                values = values.index_select(dim, index[dim])
            fits = fits and size in (x.shape[dim], chosen.shape[dim], 1)
        if not fits:
            raise ValueError(
                f"the values for {self.name} are {tuple(given)}: expected {tuple(x.shape)}, as zoo.capture returns "
                f"them, or {tuple(chosen.shape)} for what is chosen, where any size may also be 1"
            )
        return values.expand(chosen.shape)


def mean_of_tokens(x: Tensor, real: Tensor | None) -> Tensor:
    """x [B, N, D] or [B, H, N, P] -> [1, 1, D] or [1, H, 1, P]: the mean over real tokens, padding being zeros."""
    count = x.shape[0] * x.shape[-2] if real is None else real.sum().clamp(min=1)
    return x.sum((0, x.ndim - 2), keepdim=True) / count


def mean_of_real(values: Tensor) -> Tensor:
    """The mean of captured activations over their tokens, without padding, which is zeros."""
    real = (values != 0).any(-1)
    return mean_of_tokens(values, real if values.ndim == 3 else real.any(1))


def mean_of_rows(maps: Tensor) -> Tensor:
    """Attention maps [B, H, N, M] -> [1, H, N, M]: the mean over the rows that attend to something there."""
    attends = (maps != 0).any(-1, keepdim=True)
    return maps.sum(0, keepdim=True) / attends.sum(0, keepdim=True).clamp(min=1)


def uniform(weights: Tensor, name: str) -> Tensor:
    """Equal weights for all keys that a query may attend to, [B, H, N, M]."""
    seen = weights != 0
    if not seen.any():
        raise ValueError(
            f"{name}: this kind of attention has no weights for equal queries and keys, so there is no mean of them; "
            "patch a map, or give a function of maps"
        )
    return seen / seen.sum(-1, keepdim=True).clamp(min=1)
