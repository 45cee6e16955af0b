"""`zoo.search`: exact nearest-neighbor search by text, image, audio clip or vector.

The result is that of exact arithmetic on the stored numbers, whatever the chunk size, thread count or library: scores
are computed in float32, whose error is bounded, and the candidates within that error again in float64. Equal scores
are ordered by row.
"""

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.checkpoints.load import load
from zoo.preprocessing.modality import MODALITIES, NAMES, file_modality, item_modality
from zoo.retrieval.embed import embed
from zoo.retrieval.embeddings_file import Embeddings
from zoo.retrieval.encode import Encoder, fingerprint
from zoo.retrieval.html_page import write_page
from zoo.retrieval.index import UNIT, Engine, Index
from zoo.utils.cache import cache_folder
from zoo.utils.errors import LoadError, did_you_mean
from zoo.utils.escape import printable


class Hit(NamedTuple):
    """One result. name: a path as in the file of embeddings, or a text; score: cosine similarity; no path: a text."""

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
    modalities: Sequence[str] | None = None,
    engine: Engine = "exact",
    on_error: Literal["raise", "skip"] = "skip",
    html: str | Path | None = None,
    progress: bool = True,
) -> Any:
    """The k nearest items, best first: [(name, score, kind, path), ...]; for a list of queries, a list of these.

    Args:
        query: A text, an image or an audio clip (a path, a PIL image, (waveform, sampling rate)), or a vector float
            [D]. A string that ends like an image or audio file is a path.
        inside: A file of `zoo.embed`, or a folder. A folder is embedded into the user's cache; later only new and
            changed files are.
        model: The model that made the vectors (compared by fingerprint); a folder or hub name is loaded. Default: the
            source that the file of embeddings names.
        modalities: Which of "image", "text", "audio" to search; default: all but texts, unless there are only texts.
        engine: "exact", or "faiss" (an extra: pip install attention-zoo[search]) with the same results.
        on_error: For a folder: "skip" omits broken files with a warning, "raise" stops at the first.
        html: Path of an HTML page to write with the results.

    Raises:
        ValueError: An empty query, k < 1, vectors of another model, or a modality without a tower.
    """
    many = isinstance(query, list)
    queries = query if many else [query]
    check_queries(queries, k, modalities)
    if not queries:
        return []
    found, encoder = opened(inside, model, queries, on_error, progress)
    vectors = torch.cat([vector_of(each, encoder, found) for each in queries])
    index = Index(found.vectors, longest=UNIT, engine=engine)
    scores, rows = index.top(vectors, k, where=rows_of(found, modalities))
    hits = [[hit_of(found, i, s) for s, i in zip(*pair)] for pair in zip(scores, rows)]
    if html is not None:
        where = found.folder.name if found.folder else found.file.name if found.file else "memory"
        pairs = list(zip(queries, hits))
        write_page(html, pairs, title="Search", note=f"{len(found):,} items in {where}; scores are cosine similarities")
    return hits if many else hits[0]


def check_queries(queries: list[Any], k: int, modalities: Sequence[str] | None) -> None:
    if k < 1:
        raise ValueError(f"k={k}: expected at least 1")
    for kind in modalities or ():
        if kind not in NAMES:
            raise ValueError(f"modalities: {kind!r} is not one of {', '.join(NAMES)}{did_you_mean(kind, NAMES)}")
    for query in queries:
        if isinstance(query, str) and not query.strip():
            raise ValueError("the query is empty: expected a text, or the path of an image or audio file")
        if isinstance(query, str | Path) and item_modality(query) != "text" and not Path(query).is_file():
            raise ValueError(f"there is no file {query} to search with")


def opened(
    inside: str | Path | Embeddings, model: Any, queries: list[Any], on_error: Literal["raise", "skip"], progress: bool
) -> tuple[Embeddings, Encoder | None]:
    """The vectors to search, and the encoder of the queries (None where all are vectors)."""
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
            warnings.warn(f"left out: {printable('; '.join(found.broken[:3]))}{more}", stacklevel=3)
    else:
        found.check(fingerprint(model))
    return found, Encoder(model)


def loaded(model: Any, found: Embeddings | None) -> Any:
    """The model itself, or that of a folder or hub name, or the one the vectors were made by."""
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
    key = hashlib.blake2b(f"{folder.resolve()}|{fingerprint(model)}".encode("utf-8", "surrogateescape"), digest_size=16)
    return cache_folder("embeddings") / f"{key.hexdigest()}.safetensors"


def readable(file: Path) -> bool:
    """Whether a cached file can be used; a damaged one is written again."""
    try:
        return bool(Embeddings.open(file).fingerprint)
    except LoadError:
        return False


def vector_of(query: Any, encoder: Encoder | None, found: Embeddings) -> Tensor:
    """float32 [1, D] of length 1."""
    if isinstance(query, Tensor) and query.ndim == 1:
        return F.normalize(query.detach().float().cpu()[None], dim=-1)
    assert encoder is not None
    kind = (file_modality(query, encoder.modalities) if isinstance(query, str | Path) else "") or item_modality(query)
    kind = encoder.string_modality if kind == "text" and isinstance(query, str) else kind
    encoder.need(kind, f"a query by {kind}")
    record = MODALITIES[kind]
    # a string that ends like a text file is a text
    is_file = isinstance(query, Path) or (
        isinstance(query, str) and kind != "text" and file_modality(query, [kind]) == kind
    )
    if record.strings and record.records is None and is_file:
        query = record.load(Path(query))
    return encoder.vectors(kind, [query])


def rows_of(found: Embeddings, modalities: Sequence[str] | None) -> Tensor | None:
    """Which rows to look among, bool [N]; None is all of them."""
    numbers = getattr(found.items, "kinds", None)
    if numbers is None:
        numbers = torch.tensor([NAMES.index(item.kind) for item in found.items], dtype=torch.uint8)
    text = NAMES.index("text")
    if modalities is None:
        chosen = numbers != text
        return None if not chosen.any() or chosen.all() else chosen
    chosen = torch.isin(numbers, torch.tensor([NAMES.index(kind) for kind in modalities], dtype=torch.uint8))
    if not chosen.any():
        there = ", ".join(NAMES[i] for i in numbers.unique().tolist())
        raise ValueError(f"{found.file or 'the embeddings'} has no {' or '.join(modalities)}: it has {there}")
    return chosen


def hit_of(found: Embeddings, row: int, score: float) -> Hit:
    item = found.items[row]
    return Hit(item.name, score, item.kind, found.path(row))
