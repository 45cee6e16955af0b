"""Retrieval: at what place the right answer stands, both ways, over everything that was evaluated."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torchmetrics import Metric

_OWN = -(1 << 63)  # stands for a number that nothing else has
_ENTRIES = 1 << 22  # scores that are held at a time


class RetrievalMetrics(Metric):
    """R@k and median rank of two modalities that share a space, from a to b and from b to a.

        metric = Retrieval("image", "text")
        metric.update(image_features, text_features)
        metric.compute()        # {"image_to_text_r1": 0.4, ..., "text_to_image_median_rank": 2.0}

    A query's rank is one more than the number of wrong answers that score at least as high as its best right one: a
    model whose features are all alike comes last, not first, and so does one whose features are no numbers.
    R@k is the share of queries of rank k or better. A query without a right answer counts as an answer only.

    States are lists of rows, gathered from all processes before anything is computed.

    Args:
        a, b: What the two sides are called.
        at: The k of R@k.
        loss: Called with the rows of both sides [R, D] and the ids of the first [R]; what it gives is `loss` there.
        options: Of torchmetrics.Metric.
    """

    full_state_update = False
    higher_is_better = True
    a_rows: list[Tensor]
    b_rows: list[Tensor]
    a_ids: list[Tensor]
    b_ids: list[Tensor]
    a_items: list[Tensor]
    b_items: list[Tensor]

    def __init__(self, a: str = "image", b: str = "text", *, at: Sequence[int] = (1, 5, 10),
                 loss: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None, **options: Any):  # fmt: skip
        super().__init__(**options)
        if not at or min(at) < 1:
            raise ValueError(f"at={list(at)}: expected places from 1 on")
        self.names, self.at, self.loss = (a, b), tuple(at), loss
        for side in "ab":
            for what in ("rows", "ids", "items"):
                self.add_state(f"{side}_{what}", [], dist_reduce_fx="cat")

    def update(self, a: Tensor, b: Tensor, *, a_ids: Tensor | None = None, b_ids: Tensor | None = None,
               a_items: Tensor | None = None, b_items: Tensor | None = None) -> None:  # fmt: skip
        """Take in features a [A, D] and b [B, D], L2-normalized as a rule.

        Args:
            a_ids, b_ids: Integers; a row of one side is a right answer to those of the other with its id. Without
                them row i belongs to row i, and to no other.
            a_items, b_items: Integers; rows of a side with equal ones are one thing, entered once, such as a picture
                that stands beside each of its captions. Its ids are those of all its rows.

        Raises: ValueError for shapes that do not fit.
        """
        if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
            raise ValueError(f"features of {list(a.shape)} and {list(b.shape)}: expected [A, D] and [B, D]")
        if a_ids is None and b_ids is None and len(a) != len(b):
            raise ValueError(f"{len(a)} rows and {len(b)}: which belong together? give a_ids and b_ids")
        if (a_ids is None) != (b_ids is None):
            raise ValueError("ids of one side alone: give a_ids and b_ids, or neither")
        for side, rows, ids, items in (("a", a, a_ids, a_items), ("b", b, b_ids, b_items)):
            getattr(self, f"{side}_rows").append(rows.detach().to(torch.promote_types(rows.dtype, torch.float32)))
            for what, numbers in (("ids", ids), ("items", items)):
                if numbers is not None and numbers.shape != rows.shape[:1]:
                    raise ValueError(f"{side}_{what} of {list(numbers.shape)} for {len(rows)} rows")
                own = torch.full((len(rows),), _OWN, device=rows.device)
                getattr(self, f"{side}_{what}").append(own if numbers is None else numbers.long())

    def sync(self, *args: Any, **options: Any) -> None:
        """Gather from all processes; one that saw no batch joins in with no rows, of the width that the others have."""
        if options.get("should_sync", True) and dist.is_available() and dist.is_initialized():
            width = torch.tensor(self.a_rows[0].shape[1] if len(self.a_rows) else 0, device=self.device)
            dist.all_reduce(width, dist.ReduceOp.MAX, group=self.process_group)
            if not len(self.a_rows) and width:
                none = torch.empty(0, int(width), device=self.device)
                for side in "ab":
                    getattr(self, f"{side}_rows").append(none)
                    getattr(self, f"{side}_ids").append(none[:, 0].long())
                    getattr(self, f"{side}_items").append(none[:, 0].long())
        super().sync(*args, **options)

    def compute(self) -> dict[str, Tensor]:
        """{"a_to_b_r1": [], ..., "a_to_b_median_rank": [], "b_to_a_r1": [], ...}; shares are between 0 and 1."""
        if not len(self.a_rows) or not len(_joined(self.a_rows)):
            raise ValueError("nothing to retrieve: call update first")
        ids = numbered(_joined(self.a_ids), _joined(self.b_ids))
        one = _Side(_joined(self.a_rows), ids[0], _joined(self.a_items))
        other = _Side(_joined(self.b_rows), ids[1], _joined(self.b_items))
        found: dict[str, Tensor] = {}
        sides = [(self.names[0], one), (self.names[1], other)]
        for (name, queries), (target, answers) in (sides, sides[::-1]):
            ranks = ranks_of(queries, answers)
            found |= {f"{name}_to_{target}_r{k}": (ranks <= k).float().mean() for k in self.at}
            found[f"{name}_to_{target}_median_rank"] = ranks.double().quantile(0.5).float()
        if self.loss is not None:
            found["loss"] = self.loss(one.rows, other.rows, one.ids)
        return found


class _Side:
    """The rows of one side [R, D], the ids that match them with the other side, and what of them are distinct things:
    `items` [T, D], `thing` [R], the one that a row holds; `sorted` and `order` find the rows of an id."""

    def __init__(self, rows: Tensor, ids: Tensor, items: Tensor):
        self.rows, self.ids = rows, ids
        self.sorted, self.order = ids.sort()
        distinct, self.thing = numbered(items)[0].unique(return_inverse=True)
        first = torch.full((len(distinct),), len(rows), device=rows.device)
        first = first.scatter_reduce(0, self.thing, torch.arange(len(rows), device=rows.device), "amin")
        self.items = rows[first]


def numbered(*sides: Tensor) -> list[Tensor]:
    """Numbers from 0 on in the place of any; rows without one get -1, -2, ..., the same on each side."""
    _, dense = torch.cat(sides).unique(return_inverse=True)
    owns = [side == _OWN for side in sides]
    parts = zip(owns, dense.split([len(side) for side in sides]), strict=True)
    return [torch.where(own, -own.long().cumsum(0), part) for own, part in parts]


def ranks_of(queries: _Side, answers: _Side) -> Tensor:
    """Ranks from 1 on of the queries that have a right answer, int64."""
    ranks = []
    for start in range(0, len(queries.items), max(1, _ENTRIES // max(1, len(answers.items)))):
        stop = start + max(1, _ENTRIES // max(1, len(answers.items)))
        scores = queries.items[start:stop] @ answers.items.T
        right = _right(queries, answers, start, len(scores))
        best = scores.masked_fill(~right, -torch.inf).amax(1, keepdim=True)
        ahead = ~(scores < best) & ~right  # what cannot be compared is ahead
        ranks.append((1 + ahead.sum(1))[right.any(1)])
    return torch.cat(ranks)


def _right(queries: _Side, answers: _Side, start: int, count: int) -> Tensor:
    """bool [count, T]: which things are right answers to queries `start`, `start + 1`, ..."""
    rows = ((queries.thing >= start) & (queries.thing < start + count)).nonzero()[:, 0]
    wanted = queries.ids[rows]
    low, high = (torch.searchsorted(answers.sorted, wanted, right=right) for right in (False, True))
    many = high - low  # rows of the other side with the id of each
    before = many.cumsum(0) - many
    place = torch.arange(int(many.sum()), device=rows.device) + (low - before).repeat_interleave(many)
    right = torch.zeros(count, len(answers.items), dtype=torch.bool, device=rows.device)
    right[(queries.thing[rows] - start).repeat_interleave(many), answers.thing[answers.order[place]]] = True
    return right


def _joined(state: Any) -> Tensor:
    """A state before it was gathered from other processes, or after."""
    return torch.cat(state) if isinstance(state, list) else state
