"""Exact search in a matrix of vectors that may be larger than memory.

faiss may do the products, but not the whole search: it ranks by float32 scores, whose rounding depends on the number of
threads and queries, and needs a float32 copy of the matrix.
"""

from typing import Any, Literal

import torch
from torch import Tensor

from zoo.utils.errors import did_you_mean

Engine = Literal["exact", "faiss"]
SCORES = 1 << 22  # that are in memory at once: below what the allocator requests from the system each time
CONVERTED = 1 << 20  # numbers of a half-precision matrix that are made float32 at once, to stay in the cache
UNIT = 1.01  # the greatest length of a row that was of length 1 before it was stored in half precision


# --- The best rows of a matrix ----------------------------------------------------------------------------------------


class Index:
    """The k rows of a matrix [N, D] with the greatest products with a query, exactly.

    vectors: float32, float16 or bfloat16, on the CPU, memory-mapped or not. longest: a bound of the rows' lengths, if
    one is known; else it is computed. engine: who multiplies; faiss keeps a float32 copy in memory.
    """

    def __init__(self, vectors: Tensor, *, longest: float | None = None, engine: Engine = "exact") -> None:
        if vectors.ndim != 2 or not vectors.is_floating_point():
            raise ValueError(
                f"expected vectors as a matrix of floats [N, D], got {vectors.dtype} {list(vectors.shape)}"
            )
        if engine not in ("exact", "faiss"):
            raise ValueError(
                f"engine={engine!r}: expected 'exact' or 'faiss'{did_you_mean(engine, ('exact', 'faiss'))}"
            )
        self.vectors = vectors
        self.longest = longest if longest is not None else self.measured()
        self.faiss: Any = self.indexed() if engine == "faiss" else None

    def top(self, queries: Tensor, k: int, where: Tensor | None = None) -> tuple[list[list[float]], list[list[int]]]:
        """(scores, rows) of each query, best first: k of each, or as many as there are.

        queries: float [Q, D]. where: which rows to look among, bool [N]. Raises ValueError for another width, k < 1,
        and products that are not numbers.
        """
        if queries.ndim != 2 or queries.shape[1] != self.vectors.shape[1]:
            raise ValueError(
                f"queries {list(queries.shape)} do not fit vectors {list(self.vectors.shape)}: expected [Q, width]"
            )
        if k < 1:
            raise ValueError(f"k={k}: expected at least 1")
        queries = queries.detach().float().cpu().contiguous()
        candidates = self.near_faiss if self.faiss is not None and where is None else self.near
        answers = [self.ranked(q, rows, k) for q, rows in zip(queries, candidates(queries, k, where))]
        return [scores for scores, _ in answers], [rows for _, rows in answers]

    def slack(self, queries: Tensor) -> Tensor:
        """Twice what the float32 products of each query may be off by, [Q]."""
        unit = 2.0**-24 if torch.get_float32_matmul_precision() == "highest" else 2.0**-8
        return 2 * unit * (queries.shape[1] + 2) * queries.norm(dim=1) * self.longest

    def near(self, queries: Tensor, k: int, where: Tensor | None) -> list[Tensor]:
        """For each query the rows that may be among its k best."""
        count, slack = len(queries), self.slack(queries)[:, None]
        best = torch.empty(count, 0)
        floor = torch.full((count, 1), -torch.inf)
        kept: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(count)]
        step = self.step(count)
        for start in range(0, len(self.vectors), step):
            scores = product(self.vectors[start : start + step], queries)
            if where is not None:
                scores.masked_fill_(~where[start : start + step], -torch.inf)
            best = torch.cat([best, scores.topk(min(k, scores.shape[1])).values], 1)
            best = best.topk(min(k, best.shape[1])).values
            if best.isnan().any():
                raise ValueError("some products are not numbers: the vectors or the queries have NaN or inf in them")
            floor = best[:, -1:] if best.shape[1] == k else floor
            for q in range(count):
                rows = (scores[q] >= (floor - slack)[q]).nonzero()[:, 0]
                kept[q].append((rows + start, scores[q, rows]))
        chosen = []
        for q in range(count):
            rows, values = (torch.cat(parts) for parts in zip(*kept[q]))
            chosen.append(rows[(values >= (floor - slack)[q]) & (values > -torch.inf)])
        return chosen

    def step(self, count: int) -> int:
        """Rows to multiply at once."""
        whole = max(1, SCORES // count)
        return whole if self.vectors.dtype == torch.float32 else max(1, min(whole, CONVERTED // self.vectors.shape[1]))

    def ranked(self, query: Tensor, rows: Tensor, k: int) -> tuple[list[float], list[int]]:
        """The k best of some rows, by products in float64."""
        parts = [
            (self.vectors[part].double() * query.double()).sum(1) for part in rows.split(max(1, SCORES // len(query)))
        ]
        scores = torch.cat(parts) if parts else torch.empty(0, dtype=torch.float64)
        order = scores.sort(descending=True, stable=True).indices[:k]
        return scores[order].tolist(), rows[order].tolist()

    def measured(self) -> float:
        """The length of the longest row."""
        lengths = [part.float().norm(dim=1).max() for part in self.vectors.split(1 << 14)]
        return float(torch.stack(lengths).max()) if lengths else 0.0

    # --- faiss ----------------------------------------------------------------------------------------------------

    def indexed(self) -> Any:
        try:
            import faiss
        except ImportError:
            raise ImportError('engine="faiss" needs faiss: pip install "attention-zoo[search]"') from None
        index = faiss.IndexFlatIP(self.vectors.shape[1])
        for part in self.vectors.split(1 << 16):
            index.add(part.float().numpy())
        return index

    def near_faiss(self, queries: Tensor, k: int, where: Tensor | None = None) -> list[Tensor]:
        """What `near` gives: all rows within the error of the k-th best."""
        k = min(k, len(self.vectors))
        best, _ = self.faiss.search(queries.numpy(), k)
        chosen = []
        for query, floor, slack in zip(queries, best[:, -1].tolist(), self.slack(queries).tolist()):
            _, _, rows = self.faiss.range_search(query[None].numpy(), floor - slack)
            chosen.append(torch.from_numpy(rows).sort().values)
        return chosen


def product(x: Tensor, queries: Tensor) -> Tensor:
    """Products of rows [n, D] with queries [Q, D], float32 [Q, n]."""
    x = x if x.dtype == torch.float32 else x.float()
    if torch.backends.mkldnn.is_available():  # on this shape twice as fast as BLAS (benchmarks/search.py)
        scores = torch.ops.mkldnn._linear_pointwise(x, queries, None, "none", [], "")
    else:
        scores = x @ queries.T
    return scores.T.contiguous()
