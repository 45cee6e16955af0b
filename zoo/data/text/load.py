"""Labeled texts: SST-2, tables of a user's own, the hub's, or the embedded sentences."""

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
from zoo.data.splits import held_rows
from zoo.data.synthetic import sentences
from zoo.data.text.dataset import Text, TextDataset, TextSplits, groups
from zoo.utils.console import announce
from zoo.utils.errors import DataError, did_you_mean

TEXT_NAMES = ("text", "sentence", "review", "content", "body", "comment", "tweet", "document")
LABEL_NAMES = ("label", "labels", "target", "class", "category", "sentiment", "stars", "rating", "score")
TEST_SHARE = 0.1


def load_texts(settings: TextDataSettings | None = None, *, seed: int = 0) -> TextSplits:
    """Find, read and check a set of labeled texts; see `TextDataSettings` for where from.

    Raises:
        DataError: An unknown name or column, a missing or broken file or line, texts or labels that are missing,
            labels of one class only; says how to mend it.
    """
    s = settings or TextDataSettings()
    sets = _find(s, seed)
    sets = replace(
        sets,
        train=sets.train.subset(s.max_train_samples, seed=seed),
        test=sets.test.subset(s.max_test_samples, seed=seed),
    )
    if sets.notice:
        announce(sets.notice)
    return sets


def _find(s: TextDataSettings, seed: int) -> TextSplits:
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
    raise DataError(f"data {name!r}: no such table or folder, no hub data set (org/name or org/name:config), none of "
                    f"{', '.join(known)}{did_you_mean(name, known)}")  # fmt: skip


def text_cards() -> list[str]:
    """Names of the data sets of labeled texts that have a card and files."""
    return [n for n in list_cards() if (card := load_card(n)).task == "text classification" and card.real]


def synthetic_texts() -> TextSplits:
    """The sentences that the program composes."""
    texts, labels = sentences.make_sentences(sentences.TRAIN + sentences.TEST, seed=0)
    train, test = (
        TextDataset(list(texts[part]), torch.tensor(labels[part]))
        for part in (slice(sentences.TRAIN), slice(sentences.TRAIN, None))
    )
    return TextSplits(
        train,
        None,
        test,
        "single_label_classification",
        list(sentences.CLASSES),
        "synthetic",
        False,
        "sentences made by the program",
    )


# --- where the tables are ---------------------------------------------------------------------------------------------


def _from_card(card: Card, s: TextDataSettings, seed: int) -> TextSplits:
    """A data set with a card: from local files where they are, else from the hub."""
    folder = s.data_dir or os.environ.get("ZOO_DATA_DIR")
    files = {split: Path(folder).expanduser() / file for split, file in card.files.items()} if folder else {}
    absent = [str(file) for file in files.values() if not file.is_file()]
    how = (f"Set ZOO_DATA_DIR (or data_dir=) to a folder that holds {' and '.join(card.files.values())}, "
           f"or use data=synthetic, sentences that the program makes")  # fmt: skip
    if s.data_dir and absent:
        raise DataError(f"data_dir={s.data_dir}: {absent[0]} does not exist. {how}")
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
            raise HubError(f"{error}. {how}") from error
    train = tables["train"]
    named: Any = {
        key: column for key, column in card.columns.items() if column in train.columns and not getattr(s, key)
    }
    sets = _from_tables(tables, replace(s, **named), source, seed, classes=list(card.labels))
    return replace(sets, name=card.name)


def _folder_tables(folder: Path) -> dict[str, Table]:
    """`train.csv` and the like beside each other."""
    found: dict[str, Table] = {}
    for split, names in (("train", ("train",)), ("validation", VALIDATION_NAMES), ("test", ("test",))):
        files = [folder / f"{name}{suffix}" for name in names for suffix in SUFFIXES]
        there = [file for file in files if file.is_file()]
        if len(there) > 1:
            raise DataError(f"{folder} has {there[0].name} and {there[1].name}: expected one table for {split}")
        if there:
            found[split] = read_table(there[0])
    if "train" not in found:
        raise DataError(f"{folder} has no train table: expected train.csv (or {', '.join(SUFFIXES[1:])}), and with it "
                        f"validation and test, if there are such")  # fmt: skip
    return found


def _labeled(tables: dict[str, Table], label: list[str]) -> tuple[dict[str, Table], str | None]:
    """The tables without those whose labels are kept secret (-1 or empty in each row), and what to say of it."""
    secret = [split for split in ("validation", "test") if split in tables and not _tells(tables[split], label)]
    if not secret or not _tells(tables["train"], label):
        return tables, None
    kept = {split: table for split, table in tables.items() if split not in secret}
    where = " and ".join(tables[split].where for split in secret)
    return kept, f"{where}: no row has a label; a part of the training data is held out in its place"


def _tells(table: Table, label: list[str]) -> bool:
    values = (value for name in label for value in table.columns.get(name, [0]))
    return any(value not in (None, "", -1, "-1") for value in values)


# --- from tables to sets ----------------------------------------------------------------------------------------------


def _from_tables(tables: dict[str, Table], s: TextDataSettings, source: str, seed: int,
                 classes: list[str] | None = None) -> TextSplits:  # fmt: skip
    for split in ("validation", "test"):
        if given := getattr(s, split):
            tables = tables | {split: read_table(Path(given).expanduser())}
    text = _columns(tables["train"], s.text, "text", TEXT_NAMES)
    label = _columns(tables["train"], s.label, "label", LABEL_NAMES)
    tables, notice = _labeled(tables, label)
    if len(text) > 2:
        raise DataError(f"text={','.join(text)}: a text is one column, or a pair of two")
    read: dict[str, tuple[list[Text], list[int]]] = {}
    broken: list[str] = []
    for split, table in tables.items():
        for column in {*text, *label} - table.columns.keys():
            raise DataError(f"{table.where}: no column {column!r}, it has {', '.join(table.columns)}")
        read[split] = _texts(table, text, label, s.on_error == "skip", broken)
    if broken:
        announce(f"{len(broken)} rows were skipped: " + "; ".join(broken[:3]) + (" ..." * (len(broken) > 3)))
    rows = {split: kept for split, (_, kept) in read.items()}
    problem_type, names, labels = encode_labels(tables, label, rows, s.problem_type, classes)
    sets = {split: TextDataset(texts, labels[split]) for split, (texts, _) in read.items()}
    if "test" not in sets:
        held = held_rows(groups(sets["train"].labels), TEST_SHARE, seed)
        sets |= {"test": sets["train"].take(held.nonzero()[:, 0]), "train": sets["train"].take((~held).nonzero()[:, 0])}
    return TextSplits(
        sets["train"], sets.get("validation"), sets["test"], problem_type, names, s.name, True, source, notice
    )


def _columns(table: Table, asked: str, role: str, usual: tuple[str, ...]) -> list[str]:
    """The columns of an option, or the one that is called as usual."""
    if asked:
        names = [name.strip() for name in asked.split(",")]
        for name in names:
            if name not in table.columns:
                hint = did_you_mean(name, table.columns)
                has = ", ".join(table.columns)
                raise DataError(f"{role}={asked}: {table.where} has no column {name!r}{hint} (it has {has})")
        return names
    for name in usual:
        if name in table.columns:
            return [name]
    names = [name for name, column in table.columns.items() if role == "label" or isinstance(column[0], str)]
    pairs = f" (or two, for pairs of texts: text={','.join(names[:2])})" if role == "text" and len(names) > 1 else ""
    raise DataError(f"{table.where} has the columns {', '.join(table.columns)}: say which one is the {role}, "
                    f"{role}={[*names, *table.columns][0]}{pairs}")  # fmt: skip


def _texts(table: Table, text: list[str], label: list[str], skip: bool,
           broken: list[str]) -> tuple[list[Text], list[int]]:  # fmt: skip
    """The texts of a table and the rows they come from. A row that lacks something stops, or is left out."""
    texts, kept = [], []
    for row in range(len(table)):
        parts = [table.columns[name][row] for name in text]
        why = next((_what_lacks(value, name) for name, value in zip(text, parts) if _what_lacks(value, name)), "")
        why = why or next((f"no label in {name!r}" for name in label if table.columns[name][row] in (None, "")), "")
        if why and not skip:
            raise DataError(f"{table.place(row)}: {why} (on_error=skip leaves such rows out)")
        if why:
            broken.append(f"{table.place(row)}: {why}")
            continue
        texts.append(parts[0] if len(parts) == 1 else (parts[0], parts[1]))
        kept.append(row)
    if not texts:
        raise DataError(f"{table.where}: no row has a text and a label")
    return texts, kept


def _what_lacks(value: Any, name: str) -> str:
    if value is None or (isinstance(value, str) and not value.strip()):
        return f"the text in {name!r} is empty"
    return "" if isinstance(value, str) else f"the text in {name!r} is {type(value).__name__}, expected a string"
