"""Load labeled texts: SST-2, your own tables, Hub datasets or synthetic sentences."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from zoo.data.config import TextDataSettings
from zoo.data.sources.dataset_cards import Card, list_cards, load_card
from zoo.data.sources.hub import HubError, hub_name, hub_tables
from zoo.data.sources.labels import encode_labels
from zoo.data.sources.tables import SUFFIXES, VALIDATION_NAMES, Table, read_table
from zoo.data.splits import Splits, with_test
from zoo.data.synthetic import sentences
from zoo.data.text.dataset import Text, TextDataset
from zoo.preprocessing.text import surrogate_problem
from zoo.utils.console import announce
from zoo.utils.errors import DataError, did_you_mean

TEXT_NAMES = ("text", "sentence", "review", "content", "body", "comment", "tweet", "document")
LABEL_NAMES = ("label", "labels", "target", "class", "category", "sentiment", "stars", "rating", "score")


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
    sets = _find(s, seed).limited(s.max_train_samples, s.max_test_samples, seed)
    if sets.notice:
        announce(sets.notice)
    return sets


def _find(s: TextDataSettings, seed: int) -> Splits[TextDataset]:
    name, path = s.name, Path(s.name).expanduser()
    if name in ("auto", "synthetic", "synthetic_sentences"):
        return synthetic_texts()
    if name in text_cards():
        return _from_card(load_card(name), s, seed)
    if path.suffix.lower() in SUFFIXES or path.is_dir():
        return _from_tables(_folder_tables(path) if path.is_dir() else {"train": read_table(path)}, s, str(path), seed)
    if (found := hub_name(name)) and not path.exists():
        return _from_tables(hub_tables(*found), s, f"hub {name.removeprefix('hf-hub:')}", seed)
    known = ["synthetic", *text_cards()]
    raise DataError(f"data={name!r}: expected an existing table or folder, a hub dataset (org/name or "
                    f"org/name:config), or one of {', '.join(known)}{did_you_mean(name, known)}")  # fmt: skip


def text_cards() -> list[str]:
    """Names of the real text classification datasets that have a card."""
    return [n for n in list_cards() if (card := load_card(n)).task == "text classification" and card.real]


def synthetic_texts() -> Splits[TextDataset]:
    """The synthetic dataset of labeled sentences."""
    texts, labels = sentences.make_sentences(sentences.TRAIN + sentences.TEST, seed=0)
    train, test = (
        TextDataset(list(texts[part]), torch.tensor(labels[part]))
        for part in (slice(sentences.TRAIN), slice(sentences.TRAIN, None))
    )
    return Splits(train, test, "synthetic", False, "generated sentences", classes=list(sentences.CLASSES))


# --- finding tables ---------------------------------------------------------------------------------------------------


def _from_card(card: Card, s: TextDataSettings, seed: int) -> Splits[TextDataset]:
    """A dataset with a card, from local files if they exist, else from the Hub."""
    folder = s.data_dir or os.environ.get("ZOO_DATA_DIR")
    files = {split: Path(folder).expanduser() / file for split, file in card.files.items()} if folder else {}
    absent = [str(file) for file in files.values() if not file.is_file()]
    hint = (f"Set ZOO_DATA_DIR (or data_dir=) to a folder that contains {' and '.join(card.files.values())}, "
            f"or use data=synthetic, generated sentences")  # fmt: skip
    if s.data_dir and absent:
        raise DataError(f"data_dir={s.data_dir}: {absent[0]} does not exist. {hint}")
    if files and not absent:
        tables, source = (
            {split: read_table(file) for split, file in files.items()},
            str(next(iter(files.values())).parent),
        )
    else:
        assert card.hub is not None
        try:
            tables, source = hub_tables(card.hub), f"hub {card.hub}"
        except HubError as error:
            raise HubError(f"{error}. {hint}") from error
    train = tables["train"]
    named: Any = {
        key: column for key, column in card.columns.items() if column in train.columns and not getattr(s, key)
    }
    sets = _from_tables(tables, replace(s, **named), source, seed, classes=list(card.labels))
    return replace(sets, name=card.name)


def _folder_tables(folder: Path) -> dict[str, Table]:
    """The train, validation and test tables of a folder, e.g. `train.csv`."""
    found: dict[str, Table] = {}
    for split, names in (("train", ("train",)), ("validation", VALIDATION_NAMES), ("test", ("test",))):
        files = [folder / f"{name}{suffix}" for name in names for suffix in SUFFIXES]
        present = [file for file in files if file.is_file()]
        if len(present) > 1:
            raise DataError(f"{folder} has {present[0].name} and {present[1].name}: expected one table for {split}")
        if present:
            found[split] = read_table(present[0])
    if "train" not in found:
        raise DataError(f"{folder} has no train table: expected train.csv (or {', '.join(SUFFIXES[1:])}), and "
                        f"optionally validation and test tables")  # fmt: skip
    return found


def _drop_unlabeled_splits(tables: dict[str, Table], label: list[str]) -> tuple[dict[str, Table], str | None]:
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


# --- from tables to datasets ------------------------------------------------------------------------------------------


def _from_tables(tables: dict[str, Table], s: TextDataSettings, source: str, seed: int,
                 classes: list[str] | None = None) -> Splits[TextDataset]:  # fmt: skip
    for split in ("validation", "test"):
        if file := getattr(s, split):
            tables = tables | {split: read_table(Path(file).expanduser())}
    text = _find_columns(tables["train"], s.text, "text", TEXT_NAMES)
    label = _find_columns(tables["train"], s.label, "label", LABEL_NAMES)
    tables, notice = _drop_unlabeled_splits(tables, label)
    if len(text) > 2:
        raise DataError(f"text={','.join(text)}: expected one column, or two for text pairs")
    read: dict[str, tuple[list[Text], list[int]]] = {}
    broken: list[str] = []
    for split, table in tables.items():
        for column in {*text, *label} - table.columns.keys():
            raise DataError(f"{table.where}: no column {column!r}, the columns are {', '.join(table.columns)}")
        read[split] = _texts(table, text, label, s.on_error == "skip", broken)
    if broken:
        announce(f"skipped {len(broken)} rows: " + "; ".join(broken[:3]) + (" ..." * (len(broken) > 3)))
    rows = {split: kept for split, (_, kept) in read.items()}
    problem_type, names, labels = encode_labels(tables, label, rows, s.problem_type, classes)
    sets = {split: TextDataset(texts, labels[split]) for split, (texts, _) in read.items()}
    test_name = (s.test or "") if "test" in sets else f"a held-out part of {s.name}"
    problem = (f"{source} has too few texts of each label to hold some out for testing: add texts, or give a table to "
               f"test on (test=)")  # fmt: skip
    sets = with_test(sets, seed, problem, names if problem_type == "single_label_classification" else ())
    return Splits(sets["train"], sets["test"], s.name, True, source, validation=sets.get("validation"), classes=names,
                  problem_type=problem_type, notice=notice, test_name=test_name)  # fmt: skip


def _find_columns(table: Table, requested: str, role: str, defaults: tuple[str, ...]) -> list[str]:
    """The requested columns, or the first default that exists."""
    if requested:
        names = [name.strip() for name in requested.split(",")]
        for name in names:
            if name not in table.columns:
                hint = did_you_mean(name, table.columns)
                columns = ", ".join(table.columns)
                raise DataError(f"{role}={requested}: {table.where} has no column {name!r}{hint} (it has {columns})")
        return names
    for name in defaults:
        if name in table.columns:
            return [name]
    names = [name for name, column in table.columns.items() if role == "label" or isinstance(column[0], str)]
    pairs = f" (or two, for text pairs: text={','.join(names[:2])})" if role == "text" and len(names) > 1 else ""
    raise DataError(f"{table.where} has the columns {', '.join(table.columns)}: name the {role} column, "
                    f"e.g. {role}={[*names, *table.columns][0]}{pairs}")  # fmt: skip


def _texts(table: Table, text: list[str], label: list[str], skip: bool,
           broken: list[str]) -> tuple[list[Text], list[int]]:  # fmt: skip
    """(texts, their rows) of a table. Raises: DataError for an incomplete row, unless `skip`."""
    texts, kept = [], []
    for row in range(len(table)):
        parts = [table.columns[name][row] for name in text]
        problem = next((_problem(value, name) for name, value in zip(text, parts) if _problem(value, name)), "")
        if not problem:
            problem = next((f"no label in {name!r}" for name in label if table.columns[name][row] in (None, "")), "")
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
