"""Retrieval metrics: recall at k and median rank in both directions, over a whole evaluation set."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torchmetrics import Metric

from zoo.utils.distributed import in_group

RECALL_AT = (1, 5, 10)
_UNIQUE = -(1 << 63)  # id of a row that shares its id with no other row
_MAX_SCORES = 1 << 22  # scores that are in memory at a time


class RetrievalMetrics(Metric):
    """R@k and median rank of two modalities in a shared embedding space, from a to b and from b to a.

        metric = RetrievalMetrics("image", "text")
        metric.update(image_features, text_features)
        metric.compute()        # {"image_to_text_r1": 0.4, ..., "text_to_image_median_rank": 2.0}

    The rank of a query is one plus the number of wrong results that score at least as high as its best correct one.
    Ties therefore count against the model: constant features, or features that are not finite, rank last. R@k is the
    fraction of queries with rank k or better. Queries without a correct result are not counted.

    States are lists of rows, gathered from all processes before the metrics are computed.

    Args:
        a, b: Names of the two modalities.
        at: The values of k for R@k.
        loss: Optional function of the rows of both sides [R, D] and the ids of the first [R]; its value is reported as
            `loss`.
        options: Further arguments of torchmetrics.Metric.
    """

    full_state_update = False
    higher_is_better = True
    a_rows: list[Tensor]
    b_rows: list[Tensor]
    a_ids: list[Tensor]
    b_ids: list[Tensor]
    a_items: list[Tensor]
    b_items: list[Tensor]

    def __init__(self, a: str = "image", b: str = "text", *, at: Sequence[int] = RECALL_AT,
                 loss: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None, **options: Any):  # fmt: skip
        super().__init__(**options)
        if not at or min(at) < 1:
            raise ValueError(f"at={list(at)}: expected values of k of at least 1")
        self.names, self.at, self.loss = (a, b), tuple(at), loss
        for side in "ab":
            for state in ("rows", "ids", "items"):
                self.add_state(f"{side}_{state}", [], dist_reduce_fx="cat")

    def update(self, a: Tensor, b: Tensor, *, a_ids: Tensor | None = None, b_ids: Tensor | None = None,
               a_items: Tensor | None = None, b_items: Tensor | None = None) -> None:  # fmt: skip
        """Add features a [A, D] and b [B, D], usually L2-normalized.

        Args:
            a_ids, b_ids: Integers; rows of the two sides with the same id match. Default: row i matches row i only.
            a_items, b_items: Integers; rows of one side with the same number are one item, which is retrieved once,
                e.g. an image that is repeated for each of its captions. An item has the ids of all its rows.

        Raises: ValueError for inconsistent shapes.
        """
        if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
            raise ValueError(f"features of {list(a.shape)} and {list(b.shape)}: expected [A, D] and [B, D]")
        if a_ids is None and b_ids is None and len(a) != len(b):
            raise ValueError(f"got {len(a)} and {len(b)} rows: give a_ids and b_ids to say which rows match")
        if (a_ids is None) != (b_ids is None):
            raise ValueError("got ids of one side only: give both a_ids and b_ids, or neither")
        for side, rows, ids, items in (("a", a, a_ids, a_items), ("b", b, b_ids, b_items)):
            getattr(self, f"{side}_rows").append(rows.detach().to(torch.promote_types(rows.dtype, torch.float32)))
            for state, numbers in (("ids", ids), ("items", items)):
                if numbers is not None and numbers.shape != rows.shape[:1]:
                    raise ValueError(f"{side}_{state} of {list(numbers.shape)} for {len(rows)} rows")
                unique = torch.full((len(rows),), _UNIQUE, device=rows.device)
                getattr(self, f"{side}_{state}").append(unique if numbers is None else numbers.long())

    def sync(self, *args: Any, **options: Any) -> None:
        """Gather the states of all processes; a process without batches takes part with zero rows."""
        if options.get("should_sync", True) and in_group():
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
        """{"a_to_b_r1": [], ..., "a_to_b_median_rank": [], "b_to_a_r1": [], ...}; recalls are between 0 and 1."""
        if not len(self.a_rows) or not len(_cat(self.a_rows)):
            raise ValueError("nothing to retrieve: call update first")
        ids = dense_ids(_cat(self.a_ids), _cat(self.b_ids))
        a = _Side(_cat(self.a_rows), ids[0], _cat(self.a_items))
        b = _Side(_cat(self.b_rows), ids[1], _cat(self.b_items))
        metrics: dict[str, Tensor] = {}
        sides = [(self.names[0], a), (self.names[1], b)]
        for (source, queries), (target, candidates) in (sides, sides[::-1]):
            ranks = compute_ranks(queries, candidates)
            metrics |= {f"{source}_to_{target}_r{k}": (ranks <= k).float().mean() for k in self.at}
            metrics[f"{source}_to_{target}_median_rank"] = ranks.double().quantile(0.5).float()
        if self.loss is not None:
            metrics["loss"] = self.loss(a.rows, b.rows, a.ids)
        return metrics


class _Side:
    """The rows of one modality [R, D] and their ids, with duplicates merged into items.

    `items` [T, D] are the distinct items, `item_of_row` [R] the item of each row; `sorted_ids` and `order` find the
    rows with an id.
    """

    def __init__(self, rows: Tensor, ids: Tensor, items: Tensor):
        self.rows, self.ids = rows, ids
        self.sorted_ids, self.order = ids.sort()
        distinct, self.item_of_row = dense_ids(items)[0].unique(return_inverse=True)
        first = torch.full((len(distinct),), len(rows), device=rows.device)
        first = first.scatter_reduce(0, self.item_of_row, torch.arange(len(rows), device=rows.device), "amin")
        self.items = rows[first]


def dense_ids(*sides: Tensor) -> list[Tensor]:
    """Renumber arbitrary ids from 0 on; rows without an id get -1, -2, ... in order, the same on each side."""
    _, dense = torch.cat(sides).unique(return_inverse=True)
    unique = [side == _UNIQUE for side in sides]
    parts = zip(unique, dense.split([len(side) for side in sides]), strict=True)
    return [torch.where(alone, -alone.long().cumsum(0), part) for alone, part in parts]


def compute_ranks(queries: _Side, candidates: _Side) -> Tensor:
    """Ranks (int64, from 1 on) of the queries that have a correct result."""
    ranks = []
    chunk = max(1, _MAX_SCORES // max(1, len(candidates.items)))
    for start in range(0, len(queries.items), chunk):
        scores = queries.items[start : start + chunk] @ candidates.items.T
        correct = _matches(queries, candidates, start, len(scores))
        best = scores.masked_fill(~correct, -torch.inf).amax(1, keepdim=True)
        ahead = ~(scores < best) & ~correct  # nan compares false and so counts as ahead
        ranks.append((1 + ahead.sum(1))[correct.any(1)])
    return torch.cat(ranks)


def _matches(queries: _Side, candidates: _Side, start: int, count: int) -> Tensor:
    """bool [count, T]: which items are correct results for the queries `start`, `start + 1`, ..."""
    rows = ((queries.item_of_row >= start) & (queries.item_of_row < start + count)).nonzero()[:, 0]
    ids = queries.ids[rows]
    low, high = (torch.searchsorted(candidates.sorted_ids, ids, right=right) for right in (False, True))
    counts = high - low  # candidate rows with the id of each query row
    before = counts.cumsum(0) - counts
    position = torch.arange(int(counts.sum()), device=rows.device) + (low - before).repeat_interleave(counts)
    matches = torch.zeros(count, len(candidates.items), dtype=torch.bool, device=rows.device)
    query = (queries.item_of_row[rows] - start).repeat_interleave(counts)
    matches[query, candidates.item_of_row[candidates.order[position]]] = True
    return matches


def _cat(state: Any) -> Tensor:
    """A state as one tensor: a list before the processes were synchronized, a tensor after."""
    return torch.cat(state) if isinstance(state, list) else state
