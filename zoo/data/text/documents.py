"""Documents of text files, JSON lines and parquet files, read one after another in bounded memory."""

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from zoo.data.config import StreamSettings
from zoo.data.sources.columns import TEXT_NAMES
from zoo.data.splits import Splits, values_of_keys
from zoo.data.streams.folder import SPLITS, split_by_name
from zoo.data.streams.records import hash_text
from zoo.data.text.corpus import PLAIN, Corpus
from zoo.preprocessing.text_cleaning import surrogate_problem
from zoo.utils.console import announce
from zoo.utils.errors import DataError, did_you_mean
from zoo.utils.folders import data_files, describe_files

TABLES = (".jsonl", ".jsonl.gz", ".parquet")
IN_MEMORY = 1_000_000_000  # bytes of text files above which a folder is read piece by piece
PIECE = 1 << 20  # characters of a text file that are one document
SAMPLE = 20_000_000  # characters that a new tokenizer is trained on
_FILES = 256  # of the sample
_ROWS = 1024  # of a parquet file at a time


@dataclass(frozen=True)
class Document:
    """A text, with its place for messages and a key, which does not depend on where the folder is."""

    text: str
    place: str
    key: str


@dataclass(frozen=True)
class TextFiles:
    """The text files of one source.

    Attributes:
        folder: The folder.
        files: The files of each split, sorted by path.
    """

    folder: Path
    files: dict[str, list[Path]]

    def documents(self, file: Path, s: StreamSettings) -> Iterator[Document]:
        """The documents of one of the files: rows, or pieces of about a million characters of a text file.

        Raises: DataError for a file that is damaged, of another encoding, or without a column of texts.
        """
        name, suffix = file.relative_to(self.folder).as_posix(), _suffix(file)
        read = {".parquet": _parquet_rows, ".jsonl": _json_rows, ".jsonl.gz": _json_rows}.get(suffix, _pieces)
        for number, (place, text) in enumerate(read(file, s)):
            if problem := surrogate_problem(text):
                raise DataError(f"{place}: the text {problem}")
            if text.strip():
                yield Document(text, place, f"{name}#{number}")


def _suffix(file: Path) -> str:
    name = file.name.lower()
    return next((suffix for suffix in (*PLAIN, *TABLES) if name.endswith(suffix)), "")


def find_documents(s: StreamSettings) -> list[TextFiles]:
    """The sources of texts that are read piece by piece; none for a text that is read into memory.

    `streaming=auto` reads into memory what `load_corpus` can read there, up to 1 GB.

    Raises: DataError for a folder or source without text files, and for options that apply to such folders alone.
    """
    folder = Path(s.name).expanduser()
    if s.sources:
        return [_source(folder / Path(name).expanduser()) for name in s.sources]
    if s.streaming is True and not folder.is_dir():
        raise DataError(f"streaming=true reads folders of text files, and data={s.name} is none")
    if s.streaming is not False and folder.is_dir() and any(map(_suffix, data_files(folder))):
        found = _source(folder)
        if s.streaming is True or _is_large(found):
            return [found]
    if given := s.given_for_shards or ("packing=concatenate" if s.packing != "documents" else ""):
        raise DataError(f"{given} is for folders of text files that are read piece by piece: set streaming=true, or "
                        f"omit it")  # fmt: skip
    return []


def _is_large(found: TextFiles) -> bool:
    files = [file for part in found.files.values() for file in part]
    plain = all(_suffix(file) in PLAIN for file in files)
    return len(found.files) > 1 or not plain or sum(file.stat().st_size for file in files) > IN_MEMORY


def _source(folder: Path) -> TextFiles:
    """The text files of a folder: those of its sub-folders train, val and test if it has them, else all of them.

    Without a folder `train`, tables belong to the split in their names or in that of their folder, else all are train.
    """
    if not folder.is_dir():
        raise DataError(f"sources: {folder} is not a folder; expected folders in data=, or paths of others")
    below = {split: [folder / name for name in names if (folder / name).is_dir()] for split, names in SPLITS.items()}
    if below["train"] and (below["validation"] or below["test"]):
        files = {split: [file for place in places for file in data_files(place) if _suffix(file)]
                 for split, places in below.items()}  # fmt: skip
        used = {file for part in files.values() for file in part}
        if others := [file for file in data_files(folder) if _suffix(file) and file not in used]:
            announce(f"left out, not in a folder of a split: {describe_files(others)}")
    else:
        files = {split: [] for split in SPLITS}
        for file in data_files(folder):
            if suffix := _suffix(file):
                files[_split_of(file, folder) if suffix in TABLES else "train"].append(file)
    files = {split: part for split, part in files.items() if part}
    if "train" not in files:
        has = f", only of {' and '.join(files)}" if files else ""
        raise DataError(f"{folder} contains no text to train on{has}: expected files {', '.join((*PLAIN, *TABLES))}")
    return TextFiles(folder, files)


def _split_of(file: Path, folder: Path) -> str:
    """The split that the folder of a file is named after, else that in its own name, else `train`."""
    top = file.relative_to(folder).parts[0]
    return next((split for split, names in SPLITS.items() if top in names), split_by_name(file))


# --- files ------------------------------------------------------------------------------------------------------------


def _pieces(file: Path, s: StreamSettings) -> Iterator[tuple[str, str]]:
    """Pieces of a text file; they end with a line, if it is not longer than a piece itself."""
    number = 1
    try:
        with open(file, encoding=_encoding(s), newline="\n") as handle:
            while text := handle.read(PIECE):
                text += handle.readline(PIECE)
                yield f"{file}, line {number}", text
                number += text.count("\n")
    except UnicodeDecodeError as error:
        raise _not_decoded(file, number, error) from None


def _encoding(s: StreamSettings) -> str:
    return "utf-8-sig" if s.encoding == "auto" else s.encoding


def _not_decoded(file: Path, number: int, error: UnicodeDecodeError) -> DataError:
    return DataError(f"{file}, after line {number}: not valid {error.encoding} ({error.reason}); set encoding=, or "
                     f"convert the file to UTF-8")  # fmt: skip


def _json_rows(file: Path, s: StreamSettings) -> Iterator[tuple[str, str]]:
    opened, number = gzip.open if file.name.lower().endswith(".gz") else open, 0
    try:
        with opened(file, "rt", encoding=_encoding(s), newline="\n") as handle:
            for number, line in enumerate(handle, 1):
                if line.strip():
                    place = f"{file}, line {number}"
                    yield place, _text_of(json.loads(line), place, s.text)
    except json.JSONDecodeError as error:
        raise DataError(f"{file}, line {number}: invalid JSON ({error})") from None
    except UnicodeDecodeError as error:
        raise _not_decoded(file, number, error) from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{file} is damaged ({error}): copy or write it again") from None


def _text_of(row: object, place: str, column: str) -> str:
    if not isinstance(row, dict):
        raise DataError(f"{place}: expected a JSON object, got {type(row).__name__}")
    name = _column(list(row), place, column)
    value = row[name]
    if value is not None and not isinstance(value, str):
        raise DataError(f"{place}: {name!r} is {type(value).__name__}, expected a string")
    return value or ""


def _column(names: Sequence[str], place: str, column: str) -> str:
    found = column or next((name for name in TEXT_NAMES if name in names), "")
    if found not in names:
        near = did_you_mean(found, names) if found else ""
        missing = f"no column {found!r}" if found else "no column of texts by its name"
        raise DataError(f"{place} has {missing}{near} (it has {', '.join(names)}); name it with text=")
    return found


def _parquet_rows(file: Path, s: StreamSettings) -> Iterator[tuple[str, str]]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(file, memory_map=True) as opened:
            name, row = _column(opened.schema_arrow.names, str(file), s.text), 0
            for batch in opened.iter_batches(_ROWS, columns=[name], use_threads=False):
                for value in batch.column(0).to_pylist():
                    if value is not None and not isinstance(value, str):
                        raise DataError(f"{file}, row {row}: {name!r} is {type(value).__name__}, expected a string")
                    yield f"{file}, row {row}", value or ""
                    row += 1
    except (ArrowException, OSError) as error:
        raise DataError(f"{file} is not a parquet file that can be read ({str(error).splitlines()[0]}): copy or write "
                        f"it again") from None  # fmt: skip


# --- a sample ---------------------------------------------------------------------------------------------------------


def sample_texts(sources: Sequence[TextFiles], s: StreamSettings, val_fraction: float) -> Splits[Corpus]:
    """Some of the training texts, 20 million characters at most from up to 256 files, as if they were all.

    A new tokenizer is trained on them. Documents that are held out for validation are left out.

    Raises: DataError if there is no text.
    """
    files = [(source, file) for source in sources for file in source.files["train"]]
    step = max(1, len(files) // _FILES)
    chosen = files[::step][:_FILES]
    held_out = 0.0 if any("validation" in source.files for source in sources) else val_fraction
    room = SAMPLE // len(chosen)
    texts = [text for source, file in chosen for text in _training_texts(source.documents(file, s), room, held_out)]
    where = ", ".join(str(source.folder) for source in sources)
    if not texts:
        raise DataError(f"{where}: no text to train on: all files are empty, or held out (val_fraction={val_fraction})")
    corpus = Corpus(texts, Path(s.name).expanduser().resolve().name, True, f"{len(files)} files in {where}")
    return Splits(corpus, replace(corpus, texts=[]), corpus.name, True, corpus.source)


def _training_texts(documents: Iterator[Document], room: int, held_out: float) -> Iterator[str]:
    """The first documents that are not held out, `room` characters of them."""
    while room > 0 and (part := list(_first(documents, room))):
        values = values_of_keys(torch.tensor([hash_text(document.key) for document in part]), "validation")
        for document, is_held_out in zip(part, (values < held_out).tolist()):
            if not is_held_out:
                yield document.text[:room]
                room -= len(document.text)


def _first(documents: Iterator[Document], characters: int) -> Iterator[Document]:
    """The next documents, up to the one with which they have so many characters."""
    for document in documents:
        yield document
        characters -= len(document.text)
        if characters <= 0:
            return
