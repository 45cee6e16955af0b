"""Columns and rows of a table: the ones that the user names, or those with common names; rows without a value."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from zoo.data.sources.tables import Table
from zoo.preprocessing.modality import Modality
from zoo.utils.console import announce
from zoo.utils.errors import DataError, did_you_mean

# Common names of columns.
TEXT_NAMES = ("text", "sentence", "review", "content", "body", "comment", "tweet", "document")
SMILES_NAMES = ("smiles", "SMILES", "Smiles", "canonical_smiles", "mol", "molecule", "structure")
SEQUENCE_NAMES = ("sequence", "seq", "protein", "protein_sequence", "primary")
LABEL_NAMES = ("label", "labels", "target", "class", "category", "sentiment", "stars", "rating", "score")
MEDIA_FILE = re.compile(r".+\.(wav|flac|mp3|ogg|opus|m4a|png|jpe?g|webp|gif|bmp|tiff?|heic|avif)", re.I)
IMAGE_NAMES = ("image", "img", "picture", "photo", "pixel_values", "jpg", "png")
FILE_NAMES = ("file", "file_name", "filename", "path", "file_path", "filepath")

INPUT_NAMES = {"text": TEXT_NAMES, "molecule": SMILES_NAMES, "protein": SEQUENCE_NAMES}  # by modality


def input_names(modality: Modality) -> tuple[str, ...]:
    """Common names of the column with the inputs of a modality; of those without names of their own, also of files."""
    own = (modality.name, *FILE_NAMES) if modality.files_only else (modality.name,)
    return INPUT_NAMES.get(modality.name, own)


def find_column(table: Table, requested: str, role: str, defaults: Sequence[str], taken: Collection[str] = ()) -> str:
    """The requested column, or the first default that exists, or of labels the only column with class names.

    Args:
        role: The option that names the column, for messages.
        taken: Columns that other roles have, which are neither found by their names nor proposed.

    Raises: DataError that lists the columns, and names the closest one or the one that looks like the role.
    """
    if requested:
        check_column(table, requested, role, f"{role}={requested}: ")
    named = list(table.names) if role == "label" and len(table.names) == 1 else []
    common = (name for name in (*defaults, *named) if name in table.columns and name not in taken)
    found = requested or next(common, "")
    if not found and role == "label" and len(table.columns) == 1:
        raise DataError(f"{table.where} has a single column, {_listed(table)}: expected one of labels beside it. If "
                        f"its cells have another separator, set sep={_header_hint(table)}")  # fmt: skip
    if not found:
        raise DataError(f"{table.where} has the columns {_listed(table)}: name the {role} column, e.g. {role}="
                        f"{_likely(table, role, taken)}{_pair_hint(table, role)}{_header_hint(table)}")  # fmt: skip
    return found


def check_column(table: Table, name: str, role: str, prefix: str = "") -> None:
    """Raise DataError if a table has no column of this name, with the closest one. role: what it is, for messages."""
    if name not in table.columns:
        what = "" if prefix else f" for the {role}"
        near = did_you_mean(name, table.columns)
        raise DataError(f"{prefix}{table.where} has no column {name!r}{what}{near} (it has {_listed(table)})"
                        f"{_header_hint(table)}")  # fmt: skip


def _listed(table: Table) -> str:
    names = list(table.columns)
    return ", ".join(names[:30]) + (f" and {len(names) - 30} more" if len(names) > 30 else "")


def _header_hint(table: Table) -> str:
    """How to read a table whose first row was taken for a header; empty if its names look like a header's."""
    odd = table.found_header and any(len(name.split()) > 2 or not re.search(r"[^\W\d]", name) for name in table.columns)
    return ". If its first row is data, set header=false" if odd else ""


def _likely(table: Table, role: str, taken: Collection[str] = ()) -> str:
    """The column that looks most like the role: the longest texts, the fewest labels, files; else the first."""
    samples = {name: [v for v in values[:200] if v not in (None, "")] for name, values in table.columns.items()
               if name not in taken}  # fmt: skip
    media = [name for name, values in samples.items() if values and all(map(_is_media, values))]
    rest = [name for name, values in samples.items() if values and name not in media]
    strings = [name for name in rest if all(isinstance(value, str) for value in samples[name])]
    if role in ("image", "images", "audio"):
        found = media
    elif role == "label":
        different = {name: len({str(value) for value in samples[name]}) for name in rest}
        found = list(table.names) or sorted((name for name in rest if different[name] > 1), key=different.__getitem__)
    else:
        found = sorted(strings, key=lambda name: -sum(map(len, samples[name])) / len(samples[name]))
    return next(iter([*found, *samples, *table.columns]), "name")


def _is_media(value: Any) -> bool:
    return isinstance(value, bytes | dict) or (isinstance(value, str) and bool(MEDIA_FILE.fullmatch(value)))


def find_columns(table: Table, requested: str, role: str, defaults: Sequence[str]) -> list[str]:
    """The requested columns, separated by commas, or the first default that exists; see `find_column`."""
    return [find_column(table, name.strip(), role, defaults) for name in requested.split(",")]


def _pair_hint(table: Table, role: str) -> str:
    """How to name the two columns of text pairs, for a table with two columns of strings."""
    strings = [name for name, values in table.columns.items() if isinstance(values[0], str)]
    return f" (or two, for text pairs: text={','.join(strings[:2])})" if role == "text" and len(strings) > 1 else ""


def with_values(table: Table, name: str, on_error: str, role: str) -> list[int]:
    """Rows with a value in a column. Raises: DataError for an empty value, unless on_error is "skip".

    on_error: "raise", "skip", or "" where the user has no such option.
    """
    check_column(table, name, role)
    values = table.columns[name]
    empty = [i for i, v in enumerate(values) if v is None or (isinstance(v, str) and not v.strip())]
    if empty and on_error != "skip":
        hint = " (on_error=skip skips such rows)" if on_error else ""
        raise DataError(f"{table.place(empty[0])}: no {role} in {name!r}{hint}")
    if len(empty) == len(values):
        raise DataError(f"{table.where}: no row has a {role}")
    announce_skipped([f"{table.place(i)}: no {role} in {name!r}" for i in empty], "rows")
    skipped = set(empty)
    return [i for i in range(len(values)) if i not in skipped]


def refuse_skipped(messages: Sequence[str], noun: str) -> None:
    """Raises: DataError that lists the items which cannot be used; nothing if there are none."""
    if messages:
        listed = "\n  ".join(messages[:20]) + (f"\n  and {len(messages) - 20} more" * (len(messages) > 20))
        raise DataError(f"{len(messages)} {noun} cannot be used; fix or remove them, or pass on_error=skip to skip "
                        f"them:\n  {listed}")  # fmt: skip


def announce_skipped(messages: Sequence[str], noun: str) -> None:
    """Say how many items were skipped, with the first three messages; nothing if there are none."""
    if messages:
        announce(f"skipped {len(messages)} {noun}: {'; '.join(messages[:3])}{' ...' * (len(messages) > 3)}")


def encoded_item(value: Any, base: Path) -> tuple[bytes | Path | None, str]:
    """(encoded item, problem) of a cell: bytes, {bytes, path}, a Path, or the name of a file relative to `base`."""
    if isinstance(value, Path):
        return value, ""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return value, "" if value else "contains no bytes"
    if not isinstance(value, str) or not value:
        return None, "no file name" if value in (None, "") else f"expected a file, got {type(value).__name__}"
    file = base / Path(value).expanduser()
    return (file, "") if file.is_file() else (None, f"{file} does not exist")


def drop_unlabeled_splits(tables: dict[str, Table], label: list[str]) -> tuple[dict[str, Table], str | None]:
    """(tables, notice) without splits whose labels are withheld, i.e. -1 or empty in all rows."""
    unlabeled = [split for split in ("validation", "test") if split in tables and not _has_labels(tables[split], label)]
    if not unlabeled or not _has_labels(tables["train"], label):
        return tables, None
    kept = {split: table for split, table in tables.items() if split not in unlabeled}
    where = " and ".join(tables[split].where for split in unlabeled)
    return kept, f"{where}: no row has a label; a part of the training data is held out instead"


def _has_labels(table: Table, label: list[str]) -> bool:
    values = (value for name in label for value in table.columns.get(name, [0]))
    return any(value not in (None, "", -1, "-1") for value in values)


_DIGITS = re.compile(r"\s*[-+]?[\d.,']*\d[\d.,']*\s*")
_WITH_COMMA = re.compile(r"\s*[-+]?(\d+|\d*,\d+)\s*")
_THOUSANDS = re.compile(r"\s*[-+]?\d{1,3}(,\d{3})+(\.\d+)?\s*")


def with_decimal_points(tables: Mapping[str, Table], column: str) -> dict[str, Table]:
    """The tables with numbers like "3,5" in a column of labels as "3.5", which is announced; other columns as they are.

    Raises: DataError for numbers with decimal commas beside numbers with points, or with separators of thousands.
    """
    cells = [(table, row, v) for table in tables.values() for row, v in enumerate(table.columns.get(column, []))
             if isinstance(v, str) and v.strip()]  # fmt: skip
    commas = [cell for cell in cells if "," in cell[2]]
    lists = any(v.count(",") > 1 and not _THOUSANDS.fullmatch(v) for _, _, v in commas)  # such as 1,2,3
    if not commas or lists or not all(_DIGITS.fullmatch(v) for _, _, v in cells):
        return dict(tables)
    wrong = [cell for cell in cells if not _WITH_COMMA.fullmatch(cell[2])]
    if not wrong and all(_THOUSANDS.fullmatch(v) for _, _, v in commas):
        wrong = commas
    if wrong:
        table, row, value = wrong[0]
        raise DataError(f"{table.place(row)}: the number {value!r} in {column!r} can be read in two ways: write all "
                        f"numbers as 3.5 or all as 3,5, without separators of thousands. If they are names of classes, "
                        f"set problem_type=single_label_classification")  # fmt: skip
    announce(f"{column}: the commas of its numbers are decimal points (3,5 is 3.5). If they are names of classes, set "
             f"problem_type=single_label_classification")  # fmt: skip
    points = {
        split: [v.replace(",", ".") if isinstance(v, str) else v for v in table.columns.get(column, [])]
        for split, table in tables.items()
    }
    return {
        split: replace(table, columns=table.columns | {column: points[split]}) if column in table.columns else table
        for split, table in tables.items()
    }
