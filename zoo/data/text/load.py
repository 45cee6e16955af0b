"""Load labeled texts: SST-2, your own tables, Hub datasets or synthetic sentences."""

from pathlib import Path
from typing import Any

import torch

from zoo.data.config import TextDataSettings
from zoo.data.sources.columns import (
    LABEL_NAMES,
    TEXT_NAMES,
    announce_skipped,
    check_column,
    drop_unlabeled_splits,
    find_columns,
)
from zoo.data.sources.find import Read, Source, find_tables, split_tables
from zoo.data.sources.groups import assign_groups
from zoo.data.sources.label_columns import clean_labels, encode_columns, missing_label, notes_on_missing
from zoo.data.sources.tables import SUFFIXES, Table
from zoo.data.splits import Splits, with_test
from zoo.data.synthetic import sentences
from zoo.data.text.dataset import Text, TextDataset
from zoo.preprocessing.text_cleaning import surrogate_problem
from zoo.utils.console import announce
from zoo.utils.errors import DataError


def load_texts(settings: TextDataSettings | None = None, *, seed: int = 0) -> Splits[TextDataset]:
    """Load a labeled text dataset.

    Args:
        settings: Dataset and options; see `TextDataSettings`.
        seed: Seed of splits and subsets.

    Raises:
        DataError: An unknown name or column, a missing or malformed file, missing texts or labels, or labels of a
            single class. The message says how to fix it.
    """
    s = settings or TextDataSettings()
    if s.name in ("auto", "synthetic", "synthetic_sentences"):
        sets = synthetic_texts()
    else:
        source, s = find_tables(s, "text classification", folder=_tables_of_folder)
        sets = _from_tables(source, s, seed)
    sets = sets.limited(s.max_train_samples, s.max_test_samples, seed)
    if sets.notice:
        announce(sets.notice)
    return sets


def synthetic_texts() -> Splits[TextDataset]:
    """The synthetic dataset of labeled sentences."""
    texts, labels = sentences.make_sentences(sentences.TRAIN + sentences.TEST, seed=0)
    train, test = (
        TextDataset(list(texts[part]), torch.tensor(labels[part]))
        for part in (slice(sentences.TRAIN), slice(sentences.TRAIN, None))
    )
    return Splits(train, test, "synthetic", False, "generated sentences", classes=list(sentences.CLASSES))


# --- from tables to datasets ------------------------------------------------------------------------------------------


def _tables_of_folder(folder: Path, read: Read) -> dict[str, Table]:
    found = split_tables(folder, read)
    if not found:
        raise DataError(f"{folder} has no train table: expected train.csv (or {', '.join(SUFFIXES[1:])}), and "
                        f"optionally validation and test tables")  # fmt: skip
    return found


def _from_tables(source: Source, s: TextDataSettings, seed: int) -> Splits[TextDataset]:
    text = find_columns(source.tables["train"], s.text, "text", TEXT_NAMES)
    label = find_columns(source.tables["train"], s.label, "label", LABEL_NAMES)
    tables, notice = drop_unlabeled_splits(source.tables, label)
    tables, notes = clean_labels(tables, label, s)
    if len(text) > 2:
        raise DataError(f"text={','.join(text)}: expected one column, or two for text pairs")
    read: dict[str, tuple[list[Text], list[int]]] = {}
    broken: list[str] = []
    for split, table in tables.items():
        for role, column in [*(("text", name) for name in text), *(("label", name) for name in label)]:
            check_column(table, column, role)
        read[split] = _texts(table, text, label, s.on_error == "skip", broken)
    announce_skipped(broken, "rows")
    rows = {split: kept for split, (_, kept) in read.items()}
    problem_type, names, labels = encode_columns(tables, label, rows, s, source.classes)
    sets = {split: TextDataset(texts, labels[split]) for split, (texts, _) in read.items()}
    notes += notes_on_missing(names, labels)
    notes = [*notes, *assign_groups(sets, tables, rows, s, source.where)]
    test_name = (s.test or "") if "test" in sets else f"a held-out part of {source.name}"
    problem = (f"{source.where} has too few texts of each label to hold some out for testing: add texts, or give a "
               f"table to test on (test=)")  # fmt: skip
    sets = with_test(sets, seed, problem, names if problem_type == "single_label_classification" else ())
    return Splits(sets["train"], sets["test"], source.name, True, source.where, validation=sets.get("validation"),
                  classes=names, problem_type=problem_type, notice=notice, test_name=test_name,
                  notes=notes)  # fmt: skip


def _texts(table: Table, text: list[str], label: list[str], skip: bool,
           broken: list[str]) -> tuple[list[Text], list[int]]:  # fmt: skip
    """(texts, their rows) of a table. Raises: DataError for an incomplete row, unless `skip`."""
    texts, kept = [], []
    for row in range(len(table)):
        parts = [table.columns[name][row] for name in text]
        problem = next((_problem(value, name) for name, value in zip(text, parts) if _problem(value, name)), "")
        if not problem:
            problem = missing_label(table, row, label)
        if problem and not skip:
            raise DataError(f"{table.place(row)}: {problem} (on_error=skip skips such rows)")
        if problem:
            broken.append(f"{table.place(row)}: {problem}")
            continue
        texts.append(parts[0] if len(parts) == 1 else (parts[0], parts[1]))
        kept.append(row)
    if not texts:
        raise DataError(f"{table.where}: no row has a text and a label")
    return texts, kept


def _problem(value: Any, name: str) -> str:
    if value is None or (isinstance(value, str) and not value.strip()):
        return f"the text in {name!r} is empty"
    if not isinstance(value, str):
        return f"the text in {name!r} is {type(value).__name__}, expected a string"
    return f"the text in {name!r} {problem}" if (problem := surrogate_problem(value)) else ""
