"""`zoo.embed`: embed the images, texts and audio clips of a folder into one file, which `zoo.search` searches.

An interrupted run resumes where it stopped: finished batches stand in a journal beside the file, and a run that is
killed and restarted writes the same bytes as an uninterrupted one.
"""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from zoo.preprocessing.modality import MODALITIES, file_modality, of_file
from zoo.retrieval.embeddings_file import DTYPES, PARQUET, Embeddings, Item, Items, split_name
from zoo.retrieval.encode import Encoder, fingerprint
from zoo.retrieval.journal import EmbeddingJournal
from zoo.retrieval.records import items_of_records, record_of
from zoo.utils.atomic import remove_leftovers
from zoo.utils.console import announce
from zoo.utils.errors import did_you_mean
from zoo.utils.folders import data_files, describe_files
from zoo.utils.journal import journal_folder
from zoo.utils.progress import progress

OnError = Literal["raise", "skip"]
AHEAD = 2  # batches that are decoded while one is computed


class EmbedError(ValueError):
    """A file that cannot be embedded; the message names it."""


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
    """Embed a folder's images, texts (.txt) and audio clips into one file; returns it, memory-mapped.

    Args:
        model: One of several towers (`zoo.contrast`, CLIP, SigLIP), or of one with head="pool".
        items: A folder, searched recursively; or a list of paths and texts. A string that ends like an image file, an
            audio file or .txt is a path. For a model of proteins also a FASTA file; its records are "FILE#NAME".
        out: A .safetensors or .parquet file. An existing one is updated: unchanged files are not embedded again.
        modalities: Which of "image", "text", "audio", "protein"; default: all that the model takes.
        on_error: For a missing or broken file: "raise" names it (finished work is kept), "skip" omits it and lists it
            in the result's `broken`.
        dtype: "float32", or "float16", "bfloat16" for half the size.
        workers: Threads that decode files; default: the number of cores, at most 8.
        overwrite: Replace a file that another model wrote, or that is not a file of embeddings.
        progress: Show a progress bar in a terminal.

    Raises:
        ValueError: Nothing to embed; `out` written by another model; a modality without a tower.
        EmbedError: A broken file with "raise", or only broken files with "skip".
    """
    encoder, out = Encoder(model), Path(out)
    if isinstance(items, str | Path) and split_name(str(items))[0] and Path(items).is_file():
        items = [items]  # one file of several records
    check_options(encoder, modalities, on_error, dtype, batch_size, out)
    folder = Path(items) if isinstance(items, str | Path) else None
    kinds = modalities or encoder.modalities
    listed = items_of_folder(folder, kinds, out) if folder else items_of_list(items, encoder)  # type: ignore[arg-type]
    mark = fingerprint(model)
    old = None if overwrite or not out.exists() else former(out, mark, dtype)
    journal = EmbeddingJournal(journal_folder(out), {"fingerprint": mark, "dtype": dtype})
    with journal.held():
        known = {} if old is None else {item: i for i, item in enumerate(old.items)}
        todo = [item for item in dict.fromkeys(listed) if item not in known]
        compute(encoder, folder, todo, journal, Options(on_error, batch_size, workers, progress, DTYPES[dtype]))
        kept = [item for item in listed if item in known or item in journal.rows]
        if not kept:
            first = next(iter(journal.broken.values()))
            raise EmbedError(f"none of {len(listed)} files can be read; the first: {first}")
        broken = [journal.broken[item] for item in listed if item in journal.broken]
        root = None if folder is None else folder.resolve()
        if old is not None and (kept, broken, root) == (list(old.items), old.broken, old.folder):
            done = old
            remove_leftovers(out.parent, out.name)  # of a run that was killed when the file was complete
        else:
            vectors = gathered(kept, old, known, journal)
            done = Embeddings(vectors, Items.of(kept), mark, root, source_of(model), broken).save(out)
        journal.remove()
    return done


@dataclass(frozen=True)
class Options:
    """Options of one run."""

    on_error: OnError
    batch_size: int
    workers: int | None
    progress: bool
    dtype: torch.dtype


# --- What there is to embed -------------------------------------------------------------------------------------------


def items_of_folder(folder: Path, modalities: Sequence[str], out: Path | None = None) -> list[Item]:
    """The files of these kinds in a folder and below it, in the order of their names.

    Hidden files are left out; others that are left out, except `out`, are counted in a notice.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise ValueError(
            f"{folder} {what}: expected a folder of {' or '.join(MODALITIES[k].plural for k in modalities)}, or a list"
        )
    found, others = [], []
    for path in data_files(folder):
        if (kind := file_modality(path.name, modalities)) is not None and kind in modalities:
            found += stamped(kind, path.relative_to(folder).as_posix(), path)
        elif out is None or path.resolve() != out.resolve():
            others.append(path)
    if not found:
        endings = ", ".join(suffix for kind in modalities for suffix in MODALITIES[kind].suffixes)
        raise ValueError(
            f"{folder} has no {' or '.join(MODALITIES[k].plural for k in modalities)} in it "
            f"(files that end with {endings})"
        )
    if others:
        announce(f"not embedded, no {' or '.join(MODALITIES[k].plural for k in modalities)}: {describe_files(others)}")
    return sorted(found, key=lambda item: split_name(item.name)[0] or item.name)  # records in the order of their file


def items_of_list(items: Sequence[str | Path], encoder: Encoder) -> list[Item]:
    """Paths and texts as items."""
    if not len(items):
        raise ValueError("nothing to embed: an empty list")
    found = []
    for item in items:
        if not isinstance(item, str | Path):
            raise ValueError(f"expected paths or texts, given {type(item).__name__}")
        kind = file_modality(item, encoder.modalities)
        if kind is None and (isinstance(item, Path) or not item.strip()):
            raise ValueError(f"{str(item)!r}: expected a text, or the path of an image, an audio file or a .txt file")
        if kind is None and encoder.single and not any(MODALITIES[own].strings for own in encoder.modalities):
            records = [MODALITIES[own] for own in encoder.modalities]
            endings = ", ".join(suffix for record in records for suffix in record.suffixes)
            raise ValueError(f"{str(item)!r}: the model takes {' and '.join(record.plural for record in records)}: "
                             f"expected a file that ends with {endings}")  # fmt: skip
        encoder.need(kind or encoder.string_modality, str(item))
        found += stamped(kind, str(item), Path(item)) if kind else [Item(encoder.string_modality, str(item))]
    return found


def stamped(kind: str, name: str, path: Path) -> list[Item]:
    """The item of a file, or those of its records."""
    if MODALITIES[kind].records is not None:
        return items_of_records(kind, name, path)
    try:
        stat = path.stat()
    except OSError:  # missing: reported when it is its turn
        return [Item(kind, name)]
    return [Item(kind, name, stat.st_size, stat.st_mtime_ns)]


def check_options(
    encoder: Encoder, modalities: Sequence[str] | None, on_error: str, dtype: str, batch_size: int, out: Path
) -> None:
    for kind in modalities or ():
        if kind not in MODALITIES:
            raise ValueError(
                f"modalities: {kind!r} is not one of {', '.join(MODALITIES)}{did_you_mean(kind, MODALITIES)}"
            )
        encoder.need(kind)
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
    """The path or hub name that a model was loaded from, or an empty string."""
    message = str(getattr(getattr(model, "load_report", None), "source", "") or "")
    return str(Path(message).resolve()) if message and Path(message).exists() else message if "/" in message else ""


def gathered(kept: list[Item], old: Embeddings | None, known: dict[Item, int], journal: EmbeddingJournal) -> Tensor:
    """The vectors of all items in their order, [N, D]."""
    new = journal.vectors()
    rows = [journal.rows.get(item, -1) for item in kept]
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


def compute(
    encoder: Encoder, folder: Path | None, todo: list[Item], journal: EmbeddingJournal, options: Options
) -> None:
    """Vectors of all items into `journal`. Batches are cut from the whole list, whatever of it is done already."""
    size = options.batch_size
    batches = [todo[i : i + size] for i in range(0, len(todo), size)]
    left = [[item for item in batch if item not in journal.rows and item not in journal.broken] for batch in batches]
    done = len(todo) - sum(map(len, left))
    workers = options.workers or min(8, os.cpu_count() or 1)
    with progress("embedding", len(todo), done, options.progress) as advance, ThreadPoolExecutor(workers) as pool:
        try:
            for batch, loaded in ahead(pool, encoder, folder, [batch for batch in left if batch]):
                for kind in MODALITIES:
                    mine = [item for item in batch if item.kind == kind]
                    compute_kind(encoder, kind, mine, loaded, journal, options)
                journal.commit()
                advance(len(batch))
        finally:
            journal.commit(now=True)
            pool.shutdown(cancel_futures=True)


def ahead(
    pool: ThreadPoolExecutor, encoder: Encoder, folder: Path | None, batches: list[list[Item]]
) -> Iterator[tuple[list[Item], dict[Item, Any]]]:
    """Batches with what their files hold, or the error that they gave; decoded while earlier ones are computed."""
    waiting: deque[tuple[list[Item], list[Future]]] = deque()
    for batch in batches:
        waiting.append((batch, [pool.submit(loaded_item, encoder, folder, item) for item in batch]))
        if len(waiting) > AHEAD:
            first, futures = waiting.popleft()
            yield first, {item: future.result() for item, future in zip(first, futures)}
    for first, futures in waiting:
        yield first, {item: future.result() for item, future in zip(first, futures)}


def loaded_item(encoder: Encoder, folder: Path | None, item: Item) -> Any:
    """The model inputs of an image or audio clip ({name: [1, ...]}) or of a graph, a text or SMILES string, or the
    exception that was raised."""
    path = folder / item.name if folder else Path(item.name)
    record = MODALITIES[item.kind]
    is_file = not record.strings or of_file(item.name, [item.kind]) is record
    try:
        if record.records is not None:
            return record_of(item, folder)
        if is_file and not path.is_file():
            return ValueError("there is no such file")
        if record.strings:
            text = record.load(path) if is_file else item.name
            return text.strip() if text.strip() else ValueError("it is empty")
        return encoder.prepare(item.kind, [path])
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # decoders raise errors of many kinds for broken files, SyntaxError among them
        return error


def compute_kind(
    encoder: Encoder, kind: str, batch: list[Item], loaded: dict[Item, Any], journal: EmbeddingJournal, options: Options
) -> None:
    """The vectors of those items of a batch that can be read; the others are refused or listed."""
    join = MODALITIES[kind].join
    if MODALITIES[kind].strings:
        loaded = loaded | prepared_texts(encoder, kind, {item: loaded[item] for item in batch})
    for item in batch:
        if isinstance(loaded[item], Exception):
            refuse(item, loaded[item], journal, options)
    good = [item for item in batch if not isinstance(loaded[item], Exception)]
    groups: dict[Any, list[Item]] = {}
    for item in good:  # what is of one shape is computed together
        shapes = "" if join else str({name: x.shape[1:] for name, x in loaded[item].items()})
        groups.setdefault(shapes, []).append(item)
    for group in groups.values():
        parts = [loaded[item] for item in group]
        together = join(parts) if join else {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        rows = encoder.encode(kind, together)
        finite = rows.isfinite().all(1).tolist()
        for item in (item for item, fine in zip(group, finite) if not fine):
            refuse(item, ValueError("the model gives numbers that are not finite"), journal, options)
        fine = [item for item, ok in zip(group, finite) if ok]
        journal.add(fine, rows[torch.tensor(finite)].to(options.dtype))


def prepared_texts(encoder: Encoder, kind: str, texts: dict[Item, Any]) -> dict[Item, Any]:
    """Texts as the model takes them, {name: [1, N]} each: tokenized together, padded alike. SMILES strings alone."""
    good = [item for item, text in texts.items() if isinstance(text, str)]
    try:
        if len(good) == 1:
            return {good[0]: encoder.prepare(kind, [texts[good[0]]])}
        if MODALITIES[kind].join is None:
            batch = encoder.prepare(kind, [texts[item] for item in good]) if good else {}
            return {item: {name: x[i : i + 1] for name, x in batch.items()} for i, item in enumerate(good)}
    except ValueError as error:
        if len(good) == 1:
            return {good[0]: error}
    made: dict[Item, Any] = {}
    for item in good:
        made |= prepared_texts(encoder, kind, {item: texts[item]})
    return made


def refuse(item: Item, error: Exception, journal: EmbeddingJournal, options: Options) -> None:
    reason = " ".join(str(error).split()) or type(error).__name__
    message = reason if item.name in reason else f"{item.name}: {reason}"
    if options.on_error == "raise":
        raise EmbedError(
            f"{message}. Fix or remove it, or omit such files with on_error='skip' (zoo embed --on-error skip); "
            "finished work is kept"
        ) from error
    journal.note(item, message)
