"""Exact search among vectors: `zoo.search`, and `Index`, the k best rows of a matrix that may be larger than memory.

The answer is that of exact arithmetic on the stored numbers, whatever the chunks, the threads and the library: the
scores of all rows are products in float32, whose error is bounded; what may be among the best within that error is
computed again in float64. Equal scores come in the order of their rows.
"""

import hashlib
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .embedding import embed
from .encoding import KINDS, Towers, fingerprint, thing_kind
from .errors import LoadError, did_you_mean
from .vector_files import Embeddings

Engine = Literal["exact", "faiss"]
SCORES = 1 << 22  # that are in memory at once: below what the allocator takes from the system anew each time
CONVERTED = 1 << 20  # numbers of a half-precision matrix that are made float32 at once, to stay in the cache
UNIT = 1.01  # the greatest length of a row that was of length 1 before it was stored in half precision


class Hit(NamedTuple):
    """One answer. name: a path as the file of embeddings has it, or a text; score: the cosine; path: None of a text."""

    name: str
    score: float
    kind: str
    path: Path | None


def search(
    query: Any,
    inside: str | Path | Embeddings,
    model: Any = None,
    *,
    k: int = 10,
    kinds: Sequence[str] | None = None,
    engine: Engine = "exact",
    on_error: Literal["stop", "skip"] = "skip",
    page: str | Path | None = None,
    progress: bool = True,
) -> Any:
    """The k things most like a query, best first: [(name, score, kind, path), ...]; for a list of queries one for each.

    Args:
        query: A text, a picture or a sound (a path, a PIL image, (waveform, rate)), or a vector float [D]. A string
            that ends like a picture or a sound is a path.
        inside: What `zoo.embed` wrote, or a folder. A folder is embedded into the user's cache, and when it has changed
            only what is new in it.
        model: Of the same fingerprint as the vectors; a folder or hub name is loaded. Default: where the file of
            embeddings says that its model came from.
        kinds: Which of "image", "text", "audio" to look among; default all but texts, unless there are texts alone.
        engine: "faiss" looks in an index of faiss (an extra: pip install attention-zoo[search]); the answers are equal.
        on_error: Of a folder: broken files are left out with a warning, or "stop" raises at the first.
        page: Where to write the answers as one HTML file.

    Raises:
        ValueError: An empty query, k < 1, vectors of another model, or a kind that the model has no tower for.
    """
    many = isinstance(query, list)
    queries = query if many else [query]
    check_queries(queries, k, kinds)
    if not queries:
        return []
    found, towers = opened(inside, model, queries, on_error, progress)
    vectors = torch.cat([vector_of(each, towers, found) for each in queries])
    index = Index(found.vectors, longest=UNIT, engine=engine)
    scores, rows = index.top(vectors, k, where=rows_of(found, kinds))
    hits = [[hit_of(found, i, s) for s, i in zip(*pair)] for pair in zip(scores, rows)]
    if page is not None:
        from .page import write_page

        where = found.folder.name if found.folder else found.file.name if found.file else "memory"
        pairs = list(zip(queries, hits))
        write_page(page, pairs, title="Search", note=f"{len(found):,} things in {where}, scores are cosines")
    return hits if many else hits[0]


def check_queries(queries: list[Any], k: int, kinds: Sequence[str] | None) -> None:
    if k < 1:
        raise ValueError(f"k={k}: expected at least 1")
    for kind in kinds or ():
        if kind not in KINDS:
            raise ValueError(f"kinds: {kind!r} is not one of {', '.join(KINDS)}{did_you_mean(kind, KINDS)}")
    for query in queries:
        if isinstance(query, str) and not query.strip():
            raise ValueError("the query is empty: expected a text, or the path of a picture or a sound")
        if isinstance(query, str | Path) and thing_kind(query) != "text" and not Path(query).is_file():
            raise ValueError(f"there is no file {query} to search with")


def opened(
    inside: str | Path | Embeddings, model: Any, queries: list[Any], on_error: Literal["stop", "skip"], progress: bool
) -> tuple[Embeddings, Towers | None]:
    """The vectors to look through, and the towers for the queries (None where all are vectors)."""
    found = inside if isinstance(inside, Embeddings) else None
    is_folder = found is None and Path(inside).is_dir()  # type: ignore[arg-type]
    if found is None and not is_folder:
        found = Embeddings.open(inside)  # type: ignore[arg-type]
    if found is not None and model is None and all(isinstance(query, Tensor) for query in queries):
        return found, None
    model = loaded(model, found)
    if found is None:
        folder = Path(inside)  # type: ignore[arg-type]
        file = cached(folder, model)
        found = embed(model, folder, file, on_error=on_error, overwrite=not readable(file), progress=progress)
        if found.broken:
            more = f" and {len(found.broken) - 3} more" if len(found.broken) > 3 else ""
            warnings.warn(f"left out: {'; '.join(found.broken[:3])}{more}", stacklevel=3)
    else:
        found.check(fingerprint(model))
    return found, Towers(model)


def loaded(model: Any, found: Embeddings | None) -> Any:
    """The model itself, or that of a folder or hub name, or the one the vectors were made by."""
    from .loading import load

    if model is None and found is not None and found.source:
        model = found.source
    if model is None:
        raise ValueError(
            "which model? give model=: a model, a folder or a name of the hub"
            + (", the one that the embeddings were made by" if found is not None else "")
        )
    return load(model) if isinstance(model, str | Path) else model


def cached(folder: Path, model: Any) -> Path:
    """Where the vectors of a folder by a model are kept, in the user's cache."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    key = hashlib.blake2b(f"{folder.resolve()}|{fingerprint(model)}".encode("utf-8", "surrogateescape"), digest_size=16)
    return Path(home) / "attention-zoo" / "embeddings" / f"{key.hexdigest()}.safetensors"


def readable(file: Path) -> bool:
    """Whether a file of the cache can be used; one that cannot is made anew."""
    try:
        return bool(Embeddings.open(file).fingerprint)
    except LoadError:
        return False


def vector_of(query: Any, towers: Towers | None, found: Embeddings) -> Tensor:
    """float32 [1, D] of length 1."""
    if isinstance(query, Tensor) and query.ndim == 1:
        return F.normalize(query.detach().float().cpu()[None], dim=-1)
    assert towers is not None
    kind = thing_kind(query)
    towers.need(kind, f"a query by {kind}")
    if kind == "text" and isinstance(query, Path):
        query = query.read_text(encoding="utf-8")
    return towers.vectors(kind, [query])


def rows_of(found: Embeddings, kinds: Sequence[str] | None) -> Tensor | None:
    """Which rows to look among, bool [N]; None is all of them."""
    numbers = getattr(found.items, "kinds", None)
    if numbers is None:
        numbers = torch.tensor([KINDS.index(item.kind) for item in found.items], dtype=torch.uint8)
    text = KINDS.index("text")
    if kinds is None:
        chosen = numbers != text
        return None if not chosen.any() or chosen.all() else chosen
    chosen = torch.isin(numbers, torch.tensor([KINDS.index(kind) for kind in kinds], dtype=torch.uint8))
    if not chosen.any():
        there = ", ".join(KINDS[i] for i in numbers.unique().tolist())
        raise ValueError(f"{found.file or 'the embeddings'} has no {' or '.join(kinds)}: it has {there}")
    return chosen


def hit_of(found: Embeddings, row: int, score: float) -> Hit:
    item = found.items[row]
    return Hit(item.name, score, item.kind, found.path(row))


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
