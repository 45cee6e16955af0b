"""Load pairs of source and target texts: Multi30k, two files of lines, tables, Hub datasets or synthetic sentences."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from zoo.data.sources.columns import announce_skipped, check_column, find_column
from zoo.data.sources.find import SPLIT_NAMES, Read, Source, find_tables, split_tables
from zoo.data.sources.tables import SUFFIXES, Table, read_table, read_text, table_suffix
from zoo.data.splits import Items, Splits, with_test
from zoo.data.synthetic import translations
from zoo.data.text.facts import Fact, read_facts
from zoo.data.text_config import ParallelTextSettings
from zoo.preprocessing.text_cleaning import surrogate_problem
from zoo.utils.console import announce
from zoo.utils.errors import DataError
from zoo.utils.lines import split_lines

SOURCE_NAMES = ("source", "src", "source_text", "input", "input_text")  # common names of columns
TARGET_NAMES = ("target", "tgt", "target_text", "output", "output_text", "translation")
ROLES = ("source_text", "target_text")


@dataclass
class ParallelTexts(Items):
    """Source texts with their target texts, such as translations.

    Attributes:
        sources: The source texts.
        targets: The target text of each source text.
        facts: The facts of each source text that its target text must keep, if the data has them.
    """

    noun: ClassVar[str] = "pairs"

    sources: list[str]
    targets: list[str]
    facts: list[list[Fact]] | None = None

    def __len__(self) -> int:
        return len(self.sources)

    def contents(self) -> list[str]:
        return self.sources

    def take(self, rows: Tensor) -> "ParallelTexts":
        """The pairs of these rows."""
        chosen = rows.tolist()
        facts = None if self.facts is None else [self.facts[i] for i in chosen]
        return ParallelTexts([self.sources[i] for i in chosen], [self.targets[i] for i in chosen], facts)


def load_parallel_texts(settings: ParallelTextSettings | None = None, *, seed: int = 0) -> Splits[ParallelTexts]:
    """Load pairs of source and target texts.

    Args:
        settings: Dataset and options; see `ParallelTextSettings`.
        seed: Seed of splits and subsets.

    Raises:
        DataError: An unknown name or column, a missing or malformed file, two files with different numbers of lines, or
            an empty text. The message names the line and says how to fix it.
    """
    s = settings or ParallelTextSettings()
    if s.name in ("auto", "synthetic", "synthetic_translations"):
        sets = synthetic_translations()
    else:
        source, s = find_tables(s, "translation", read=read_parallel, folder=_tables_of_folder,
                                is_files=lambda name: "," in name)  # fmt: skip
        sets = splits_of_tables(source, s, seed)
    return sets.limited(s.max_train_samples, s.max_test_samples, seed)


def synthetic_translations() -> Splits[ParallelTexts]:
    """The synthetic dataset of translations."""
    sources, targets = translations.make_translations(translations.TRAIN + translations.TEST, seed=0)
    train, test = (
        ParallelTexts(sources[part], targets[part])
        for part in (slice(translations.TRAIN), slice(translations.TRAIN, None))
    )
    return Splits(train, test, "synthetic", False, "generated sentences in English and German")


# --- files ------------------------------------------------------------------------------------------------------------


def read_parallel(file: Path, *, encoding: str = "auto", **table_format: Any) -> Table:
    """Read a table, or two text files whose names are separated by a comma as the columns `source` and `target`.

    Raises: DataError, for files with different numbers of lines with the first line that has no counterpart.
    """
    names = str(file).split(",")
    if len(names) == 1 or file.is_file():
        if file.is_file() and not table_suffix(file):
            raise DataError(f"{file} is one text file: expected a table ({', '.join(SUFFIXES)}), or two text files "
                            f"with the same number of lines, e.g. data=train.en,train.de")  # fmt: skip
        return read_table(file, encoding=encoding, **table_format)
    if len(names) != 2 or any(table_suffix(name) in SUFFIXES for name in names):
        raise DataError(f"{file}: expected one table, or two text files (not tables), of source and of target texts")
    if any(value != "auto" for value in table_format.values()):
        raise DataError(f"{file}: header= and sep= are for CSV files, which text files are not; omit them")
    return read_lines_of(dict(zip(("source", "target"), map(Path, names))), encoding)


def read_lines_of(files: dict[str, Path], encoding: str = "auto") -> Table:
    """The lines of two text files as columns of a table.

    Raises: DataError for a missing file, or different numbers of lines.
    """
    for file in files.values():
        if not file.expanduser().is_file():
            raise DataError(f"{file} does not exist, or is not a file")
    found = {name: split_lines(read_text(file.expanduser(), encoding=encoding)) for name, file in files.items()}
    (short, fewer), (long, more) = sorted(zip(files.values(), found.values()), key=lambda pair: len(pair[1]))
    if len(fewer) != len(more):
        empty = [i for i, (a, b) in enumerate(zip(fewer, more), 1) if bool(a.strip()) != bool(b.strip())]
        hint = f"; line {empty[0]} is empty in one of them, where a line may be missing" if empty else ""
        raise DataError(f"{long} has {len(more):,} lines and {short} has {len(fewer):,}, expected equal numbers: line "
                        f"{len(fewer) + 1} of {long} has no counterpart ({more[len(fewer)]!r:.60}){hint}")  # fmt: skip
    where = " and ".join(map(str, files.values()))
    return Table(dict(found), where, list(range(1, len(more) + 1)))


def _tables_of_folder(folder: Path, read: Read) -> dict[str, Table]:
    if found := split_tables(folder, read):
        return found
    for split, names in SPLIT_NAMES.items():
        files = sorted(file for name in names for file in folder.glob(f"{name}.*") if file.is_file())
        if len(files) == 2:
            found[split] = read_lines_of({file.suffix.removeprefix("."): file for file in files})
        elif files:
            listed = ", ".join(file.name for file in files)
            raise DataError(f"{folder} has {listed} for {split}: expected two files, of source and of target texts")
    if "train" not in found:
        raise DataError(f"{folder} has no train table and no train files: expected train.csv (or "
                        f"{', '.join(SUFFIXES[1:])}), or two files such as train.en and train.de, and optionally "
                        f"validation and test ones")  # fmt: skip
    return found


# --- from tables to pairs ---------------------------------------------------------------------------------------------


def splits_of_tables(
    source: Source,
    s: ParallelTextSettings,
    seed: int,
    source_names: Sequence[str] = SOURCE_NAMES,
    target_names: Sequence[str] = TARGET_NAMES,
    facts: str | None = None,
) -> Splits[ParallelTexts]:
    """The pairs of texts in the tables of a dataset.

    Args:
        source: The tables.
        s: Names of columns, and how to handle incomplete rows.
        seed: Seed of the part that is held out for testing.
        source_names, target_names: Common names of the columns.
        facts: Column of the facts that the targets must keep; "" is `facts`, if there is one, and None is none.

    Raises: DataError.
    """
    tables = {split: _by_language(table) for split, table in source.tables.items()}
    if facts is not None:
        facts = find_column(tables["train"], facts, "facts", ()) if facts else "facts"
        facts = facts if facts in tables["train"].columns else None
    columns = (*_columns(tables["train"], s, source_names, target_names, facts), facts)
    broken: list[str] = []
    sets = {split: _pairs(table, columns, s.on_error == "skip", broken) for split, table in tables.items()}
    announce_skipped(broken, "pairs")
    test_name = (s.test or "") if "test" in sets else f"a held-out part of {source.name}"
    problem = f"{source.where} has too few pairs to hold some out for testing: add some, or give a table (test=)"
    sets = with_test(sets, seed, problem)
    return Splits(sets["train"], sets["test"], source.name, True, source.where, validation=sets.get("validation"),
                  test_name=test_name, skipped=broken)  # fmt: skip


def _by_language(table: Table) -> Table:
    """The table with a column for each language, for datasets of the Hub with one column of {language: text}."""
    column = table.columns.get("translation", [None])
    if not isinstance(column[0], dict):
        return table
    texts = {name: [(row or {}).get(name) for row in column] for name in column[0]}
    return replace(table, columns=texts | {name: v for name, v in table.columns.items() if name != "translation"})


def _columns(table: Table, s: ParallelTextSettings, source_names: Sequence[str], target_names: Sequence[str],
             facts: str | None) -> tuple[str, str]:  # fmt: skip
    """The columns of source and target texts. Raises: DataError."""
    options = {role: getattr(s, role) for role in ROLES}
    given = {role: find_column(table, name, role, ()) for role, name in options.items() if name}
    texts = [name for name in table.columns if name != facts]
    if len(texts) == 2 and len(given) == 1:
        (chosen,) = given.values()
        given = {role: given.get(role) or next(name for name in texts if name != chosen) for role in ROLES}
    common = any(name in texts for name in (*source_names, *target_names))
    if len(texts) == 2 and not given and not common:
        first, second = texts
        announce(f"source texts: column {first!r}, target texts: column {second!r}; for the other direction set "
                 f"source_text={second} target_text={first}")  # fmt: skip
        return first, second
    source = find_column(table, given.get("source_text", ""), "source_text", source_names, given.values())
    target = find_column(table, given.get("target_text", ""), "target_text", target_names, [source])
    if source == target:
        raise DataError(f"source_text={source} and target_text={target}: expected two different columns of "
                        f"{table.where}")  # fmt: skip
    return source, target


def _pairs(table: Table, columns: tuple[str, str, str | None], skip: bool, broken: list[str]) -> ParallelTexts:
    """The pairs of a table. Raises: DataError for an incomplete row, unless `skip`."""
    for role, name in zip((*ROLES, "facts"), columns):
        if name is not None:
            check_column(table, name, role)
    *names, facts = columns
    found = ParallelTexts([], [], None if facts is None else [])
    for row, pair in enumerate(zip(*(table.columns[name] for name in names if name is not None))):
        problem = next(filter(None, map(_problem, pair, ("source", "target"), columns)), "")
        try:
            own = [] if facts is None else read_facts(table.columns[facts][row])
        except ValueError as error:
            own, problem = [], problem or str(error)
        if problem and not skip:
            raise DataError(f"{table.place(row)}: {problem} (on_error=skip skips such pairs)")
        if problem:
            broken.append(f"{table.place(row)}: {problem}")
            continue
        found.sources.append(pair[0])
        found.targets.append(pair[1])
        if found.facts is not None:
            found.facts.append(own)
    if not len(found):
        raise DataError(f"{table.where}: no row has a source and a target text")
    return found


def _problem(value: Any, role: str, column: str | None) -> str:
    place = f"the {role} text" + ("" if column == role else f" in {column!r}")
    if value is None or (isinstance(value, str) and not value.strip()):
        return f"{place} is empty"
    if not isinstance(value, str):
        return f"{place} is {type(value).__name__}, expected a string"
    return f"{place} {problem}" if (problem := surrogate_problem(value)) else ""
