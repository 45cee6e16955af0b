"""`zoo.embed`: the pictures, texts and sounds of a folder to one file of vectors, which `zoo.search` looks through.

Work goes on where it was stopped: what is done stands beside the file, in a journal of batches, and a run that is
killed and started again writes the bytes that it would have written.
"""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from zoo.preprocessing.modality import MODALITIES, file_modality
from zoo.retrieval.embeddings_file import DTYPES, PARQUET, Embeddings, Item, Items
from zoo.retrieval.encode import Encoder, fingerprint
from zoo.retrieval.journal import EmbeddingJournal
from zoo.utils.errors import did_you_mean

OnError = Literal["raise", "skip"]
AHEAD = 2  # batches that are decoded while one is computed


class EmbedError(ValueError):
    """A file that cannot be embedded; it is named."""


def embed(
    model: Any,
    items: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    modalities: Sequence[str] | None = None,
    on_error: OnError = "raise",
    dtype: str = "float32",
    batch_size: int = 32,
    workers: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Embeddings:
    """Write the vectors of a folder's pictures, texts (.txt) and sounds to one file, and return it, memory-mapped.

    Args:
        model: One of several towers (`zoo.contrast`, CLIP, SigLIP), or of one with head="pool".
        items: A folder, looked through with its sub-folders; or a list of paths and of texts. A string that ends like
            a picture, a sound or .txt is a path.
        out: A file of safetensors, or of parquet where its name ends so. One that is there already is brought up to
            date: files that have not changed since are not computed again.
        modalities: Which of "image", "text", "audio"; default those that the model has towers for.
        on_error: What a missing or broken file does: "stop" raises and names it (what is done is kept), "skip" leaves
            it out and lists it in the result's `broken`.
        dtype: "float32", or "float16", "bfloat16" for half the size.
        workers: Threads that decode files; default as many as there are cores, 8 at most.
        overwrite: Replace a file that was made by another model, or is something else.
        progress: A bar, where there is a terminal.

    Raises:
        ValueError: Nothing to embed; `out` made by another model; a kind that the model has no tower for.
        EmbedError: A broken file with "stop", or none that is not with "skip".
    """
    towers, out = Encoder(model), Path(out)
    check_options(towers, modalities, on_error, dtype, batch_size, out)
    folder = Path(items) if isinstance(items, str | Path) else None
    listed = items_of_folder(folder, modalities or towers.modalities) if folder else items_of_list(items, towers)  # type: ignore[arg-type]
    mark = fingerprint(model)
    old = None if overwrite or not out.exists() else former(out, mark, dtype)
    work = EmbeddingJournal(out.with_name(f".{out.name}.unfinished"), {"fingerprint": mark, "dtype": dtype})
    with work.held():
        known = {} if old is None else {item: i for i, item in enumerate(old.items)}
        todo = [item for item in dict.fromkeys(listed) if item not in known]
        compute(towers, folder, todo, work, Options(on_error, batch_size, workers, progress, DTYPES[dtype]))
        kept = [item for item in listed if item in known or item in work.rows]
        if not kept:
            raise EmbedError(f"none of {len(listed)} files can be read; the first: {next(iter(work.broken.values()))}")
        broken = [work.broken[item] for item in listed if item in work.broken]
        root = None if folder is None else folder.resolve()
        if old is not None and (kept, broken, root) == (list(old.items), old.broken, old.folder):
            done = old
        else:
            vectors = gathered(kept, old, known, work)
            done = Embeddings(vectors, Items.of(kept), mark, root, source_of(model), broken).save(out)
        work.remove()
    return done


@dataclass(frozen=True)
class Options:
    """How the work is done."""

    on_error: OnError
    batch_size: int
    workers: int | None
    progress: bool
    dtype: torch.dtype


# --- What there is to embed -------------------------------------------------------------------------------------------


def items_of_folder(folder: Path, modalities: Sequence[str]) -> list[Item]:
    """The files of these kinds in a folder and below it, in the order of their names; hidden ones are left out."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise ValueError(
            f"{folder} {what}: expected a folder of {' or '.join(MODALITIES[k].plural for k in modalities)}, or a list"
        )
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            if not name.startswith(".") and (kind := file_modality(name)) in modalities:
                path = Path(parent, name)
                found.append(stamped(kind, path.relative_to(folder).as_posix(), path))
    if not found:
        endings = ", ".join(suffix for kind in modalities for suffix in MODALITIES[kind].suffixes)
        raise ValueError(
            f"{folder} has no {' or '.join(MODALITIES[k].plural for k in modalities)} in it "
            f"(files that end with {endings})"
        )
    return sorted(found, key=lambda item: item.name)


def items_of_list(items: Sequence[str | Path], towers: Encoder) -> list[Item]:
    """Paths and texts as items."""
    if not len(items):
        raise ValueError("nothing to embed: an empty list")
    found = []
    for thing in items:
        if not isinstance(thing, str | Path):
            raise ValueError(f"expected paths or texts, given {type(thing).__name__}")
        kind = file_modality(thing)
        if kind is None and (isinstance(thing, Path) or not thing.strip()):
            raise ValueError(f"{str(thing)!r}: expected a text, or a file that ends like a picture, a sound or .txt")
        towers.need(kind or "text", str(thing))
        found.append(stamped(kind, str(thing), Path(thing)) if kind else Item("text", str(thing)))
    return found


def stamped(kind: str | None, name: str, path: Path) -> Item:
    try:
        told = path.stat()
    except OSError:  # missing: it is told when it is its turn
        return Item(str(kind), name)
    return Item(str(kind), name, told.st_size, told.st_mtime_ns)


def check_options(
    towers: Encoder, modalities: Sequence[str] | None, on_error: str, dtype: str, batch_size: int, out: Path
) -> None:
    for kind in modalities or ():
        if kind not in MODALITIES:
            raise ValueError(
                f"modalities: {kind!r} is not one of {', '.join(MODALITIES)}{did_you_mean(kind, MODALITIES)}"
            )
        towers.need(kind)
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error={on_error!r}: expected 'raise' or 'skip'")
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r}: expected one of {', '.join(DTYPES)}{did_you_mean(dtype, DTYPES)}")
    if dtype == "bfloat16" and out.suffix in PARQUET:
        raise ValueError("parquet has no bfloat16: write float16 or float32, or a file of safetensors")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: expected at least 1")
    if out.is_dir():
        raise ValueError(
            f"{out} is a folder: expected the name of a file to write, such as {out / 'vectors.safetensors'}"
        )


def former(out: Path, mark: str, dtype: str) -> Embeddings | None:
    """What an earlier call wrote, or ValueError where it is not this model's."""
    try:
        old = Embeddings.open(out)
        old.check(mark)
    except ValueError as error:
        raise ValueError(f"{error}. Give another out=, or overwrite=True to replace it") from None
    return old if old.vectors.dtype == DTYPES[dtype] else None


def source_of(model: Any) -> str:
    """Where a model was loaded from, if it was."""
    said = str(getattr(getattr(model, "load_report", None), "source", "") or "")
    return str(Path(said).resolve()) if said and Path(said).exists() else said if "/" in said else ""


def gathered(kept: list[Item], old: Embeddings | None, known: dict[Item, int], work: EmbeddingJournal) -> Tensor:
    """The vectors of all items in their order, [N, D]."""
    new = work.vectors()
    rows = [work.rows.get(item, -1) for item in kept]
    if new is not None and rows == list(range(len(new))):
        return new
    parts = [] if new is None else [new]
    if old is not None:
        if parts and parts[0].shape[1] != old.width:
            raise ValueError(f"the model gives {parts[0].shape[1]} numbers, {old.file} has vectors of {old.width}")
        parts.append(old.vectors)
    behind = 0 if new is None else len(new)
    return torch.cat(parts)[[row if row >= 0 else behind + known[item] for row, item in zip(rows, kept)]]


# --- Computing --------------------------------------------------------------------------------------------------------


def compute(towers: Encoder, folder: Path | None, todo: list[Item], work: EmbeddingJournal, options: Options) -> None:
    """Vectors of all items into `work`. Batches are cut from the whole list, whatever of it is done already."""
    size = options.batch_size
    batches = [todo[i : i + size] for i in range(0, len(todo), size)]
    left = [[item for item in batch if item not in work.rows and item not in work.broken] for batch in batches]
    done = len(todo) - sum(map(len, left))
    workers = options.workers or min(8, os.cpu_count() or 1)
    with shown(options.progress, len(todo), done) as advance, ThreadPoolExecutor(workers) as pool:
        try:
            for batch, loaded in ahead(pool, towers, folder, [batch for batch in left if batch]):
                for kind in MODALITIES:
                    mine = [item for item in batch if item.kind == kind]
                    compute_kind(towers, kind, mine, loaded, work, options)
                work.commit()
                advance(len(batch))
        finally:
            work.commit(now=True)
            pool.shutdown(cancel_futures=True)


def ahead(
    pool: ThreadPoolExecutor, towers: Encoder, folder: Path | None, batches: list[list[Item]]
) -> Iterator[tuple[list[Item], dict[Item, Any]]]:
    """Batches with what their files hold, or the error that they gave; decoded while earlier ones are computed."""
    waiting: deque[tuple[list[Item], list[Future]]] = deque()
    for batch in batches:
        waiting.append((batch, [pool.submit(loaded_item, towers, folder, item) for item in batch]))
        if len(waiting) > AHEAD:
            first, futures = waiting.popleft()
            yield first, {item: future.result() for item, future in zip(first, futures)}
    for first, futures in waiting:
        yield first, {item: future.result() for item, future in zip(first, futures)}


def loaded_item(towers: Encoder, folder: Path | None, item: Item) -> Any:
    """A picture or a sound as the model takes it ({name: [1, ...]}), a text as it is, or what went wrong."""
    path = folder / item.name if folder else Path(item.name)
    is_file = item.kind != "text" or file_modality(item.name) == "text"
    try:
        if is_file and not path.is_file():
            return ValueError("there is no such file")
        if item.kind == "text":
            text = MODALITIES["text"].load(path) if is_file else item.name
            return text.strip() if text.strip() else ValueError("it is empty")
        return towers.prepare(item.kind, [path])
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # decoders raise errors of many kinds for broken files, SyntaxError among them
        return error


def compute_kind(
    towers: Encoder, kind: str, batch: list[Item], loaded: dict[Item, Any], work: EmbeddingJournal, options: Options
) -> None:
    """The vectors of those items of a batch that can be read; the others are refused or listed."""
    if kind == "text":
        loaded = loaded | prepared_texts(towers, {item: loaded[item] for item in batch})
    for item in batch:
        if isinstance(loaded[item], Exception):
            refuse(item, loaded[item], work, options)
    good = [item for item in batch if not isinstance(loaded[item], Exception)]
    groups: dict[Any, list[Item]] = {}
    for item in good:  # what is of one shape is computed together
        groups.setdefault(str({name: x.shape[1:] for name, x in loaded[item].items()}), []).append(item)
    for group in groups.values():
        together = {name: torch.cat([loaded[item][name] for item in group]) for name in loaded[group[0]]}
        rows = towers.encode(kind, together)
        finite = rows.isfinite().all(1).tolist()
        for item in (item for item, fine in zip(group, finite) if not fine):
            refuse(item, ValueError("the model gives numbers that are not finite"), work, options)
        fine = [item for item, ok in zip(group, finite) if ok]
        work.add(fine, rows[torch.tensor(finite)].to(options.dtype))


def prepared_texts(towers: Encoder, texts: dict[Item, Any]) -> dict[Item, Any]:
    """Texts as the model takes them, {name: [1, N]} each: tokenized together, padded alike."""
    good = [item for item, text in texts.items() if isinstance(text, str)]
    try:
        batch = towers.prepare("text", [texts[item] for item in good]) if good else {}
        return {item: {name: x[i : i + 1] for name, x in batch.items()} for i, item in enumerate(good)}
    except ValueError as error:
        if len(good) == 1:
            return {good[0]: error}
        made: dict[Item, Any] = {}
        for item in good:
            made |= prepared_texts(towers, {item: texts[item]})
        return made


def refuse(item: Item, error: Exception, work: EmbeddingJournal, options: Options) -> None:
    reason = " ".join(str(error).split()) or type(error).__name__
    said = reason if item.name in reason else f"{item.name}: {reason}"
    if options.on_error == "raise":
        raise EmbedError(
            f"{said}. Mend or remove it, or leave such files out with on_error='skip' (zoo embed --skip); what is done "
            "is kept"
        ) from error
    work.note(item, said)


@contextmanager
def shown(progress: bool, total: int, done: int) -> Iterator[Any]:
    """A bar on the terminal, moved by what it is called with; none where there is no terminal."""
    from rich.console import Console

    console = Console(stderr=True)
    if not progress or not console.is_terminal:
        yield lambda count: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    with Progress("embedding", MofNCompleteColumn(), BarColumn(None), TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task("", total=total, completed=done)
        yield lambda count: bar.advance(task, count)
