"""Load sentences whose words have tags: CoNLL files, tables, Hub datasets or synthetic sentences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from zoo.data.sources.columns import announce_skipped, find_column
from zoo.data.sources.find import Read, Source, find_tables, split_tables
from zoo.data.sources.tables import Table
from zoo.data.splits import Items, Splits, with_test
from zoo.data.synthetic import entities
from zoo.data.text.conll import SUFFIXES, TABLES, read_tagged
from zoo.data.text_config import TaggedTextSettings
from zoo.models.load_report import listed
from zoo.preprocessing.tags import from_bilou, has_prefix, scheme_of, split_tag, tag_order
from zoo.preprocessing.text_cleaning import surrogate_problem
from zoo.utils.console import announce
from zoo.utils.errors import DataError

TOKEN_NAMES = ("tokens", "words")
TAG_NAMES = ("ner_tags", "tags", "labels", "ner", "pos_tags")


@dataclass
class TaggedSentences(Items):
    """Sentences whose words have tags.

    Attributes:
        words: The words of each sentence.
        tags: The index of the tag of each word.
    """

    noun: ClassVar[str] = "sentences"

    words: list[list[str]]
    tags: list[list[int]]

    def __len__(self) -> int:
        return len(self.words)

    def contents(self) -> list[tuple[str, ...]]:
        return [tuple(words) for words in self.words]

    def take(self, rows: Tensor) -> "TaggedSentences":
        """The sentences of these rows."""
        return TaggedSentences([self.words[i] for i in rows.tolist()], [self.tags[i] for i in rows.tolist()])

    @property
    def texts(self) -> list[str]:
        """The sentences as texts, with a blank between the words."""
        return [" ".join(words) for words in self.words]


def load_tagged(settings: TaggedTextSettings | None = None, *, seed: int = 0) -> Splits[TaggedSentences]:
    """Load sentences with tags; `classes` are the names of the tags.

    What the tags are is printed: the scheme of entities (IOB1, IOB2, BIOES; BILOU is read as BIOES) and their types, or
    the number of classes of words.

    Args:
        settings: Dataset and options; see `TaggedTextSettings`.
        seed: Seed of splits and subsets.

    Raises:
        DataError: An unknown name or column, a missing or malformed file, a sentence without words or with another
            number of tags. The message says how to fix it.
    """
    s = settings or TaggedTextSettings()
    if s.name in ("auto", "synthetic", "synthetic_entities"):
        sets = synthetic_entities()
    else:
        source, s = find_tables(s, "token classification", read=read_tagged, folder=_tables_of_folder)
        sets = _from_tables(source, s, seed)
    return sets.limited(s.max_train_samples, s.max_test_samples, seed)


def synthetic_entities() -> Splits[TaggedSentences]:
    """The synthetic dataset of sentences with entities."""
    words, names = entities.make_entities(entities.TRAIN + entities.TEST, seed=0)
    index = {name: i for i, name in enumerate(entities.TAGS)}
    tags = [[index[name] for name in row] for row in names]
    train, test = (
        TaggedSentences(words[part], tags[part]) for part in (slice(entities.TRAIN), slice(entities.TRAIN, None))
    )
    return Splits(train, test, "synthetic", False, "generated sentences with entities", classes=list(entities.TAGS))


# --- from tables to datasets ------------------------------------------------------------------------------------------


def _tables_of_folder(folder: Path, read: Read) -> dict[str, Table]:
    found = split_tables(folder, read, suffixes=(*SUFFIXES, *TABLES))
    if not found:
        raise DataError(f"{folder} has no train file: expected train.conll, train.txt (or "
                        f"{', '.join([*SUFFIXES[3:-1], *TABLES])}), and optionally validation and test "
                        f"files")  # fmt: skip
    return found


def _from_tables(source: Source, s: TaggedTextSettings, seed: int) -> Splits[TaggedSentences]:
    train = source.tables["train"]
    columns = (find_column(train, s.tokens, "tokens", TOKEN_NAMES), find_column(train, s.tags, "tags", TAG_NAMES))
    broken: list[str] = []
    read = {split: _rows(table, *columns, train.names.get(columns[1]), s.on_error == "skip", broken)
            for split, table in source.tables.items()}  # fmt: skip
    announce_skipped(broken, "sentences")
    stored = train.names.get(columns[1])
    classes = _classes(source.name, {split: tags for split, (_, tags) in read.items()}, stored)
    index = {name: i for i, name in enumerate(classes)}
    sets = {split: TaggedSentences(words, [[index[from_bilou(tag)] for tag in row] for row in tags])
            for split, (words, tags) in read.items()}  # fmt: skip
    test_name = (s.test or "") if "test" in sets else f"a held-out part of {source.name}"
    problem = f"{source.where} has too few sentences to hold some out for testing: add some, or give a file (test=)"
    sets = with_test(sets, seed, problem)
    return Splits(sets["train"], sets["test"], source.name, True, source.where, validation=sets.get("validation"),
                  classes=classes, test_name=test_name)  # fmt: skip


def _rows(table: Table, tokens: str, tags: str, names: Sequence[str] | None, skip: bool,
          broken: list[str]) -> tuple[list[list[str]], list[list[str]]]:  # fmt: skip
    """(words, names of their tags) of each row. Raises: DataError for an incomplete row, unless `skip`."""
    for name, role in ((tokens, "tokens"), (tags, "tags")):
        find_column(table, name, role, ())
    found: tuple[list[list[str]], list[list[str]]] = ([], [])
    for row in range(len(table)):
        words, values = table.columns[tokens][row], table.columns[tags][row]
        problem = _problem(words, values, tokens, tags, table.names.get(tags) or names)
        if problem and not skip:
            raise DataError(f"{table.place(row)}: {problem} (on_error=skip skips such sentences)")
        if problem:
            broken.append(f"{table.place(row)}: {problem}")
            continue
        own = table.names.get(tags) or names
        found[0].append(list(words))
        found[1].append([own[tag] if own and isinstance(tag, int) else str(tag) for tag in values])
    if not found[0]:
        raise DataError(f"{table.where}: no row has words and their tags")
    return found


def _problem(words: Any, tags: Any, token_column: str, tag_column: str, names: Sequence[str] | None) -> str:
    for value, column in ((words, token_column), (tags, tag_column)):
        if not isinstance(value, list):
            return f"{column!r} is {type(value).__name__}, expected a list"
    if not words:
        return "the sentence has no words"
    if len(words) != len(tags):
        return f"{len(words)} words and {len(tags)} tags, expected one tag for each word"
    for word, tag in zip(words, tags):
        if not isinstance(word, str) or not word.strip():
            return f"the word {word!r}, expected a string that is not empty"
        if surrogate := surrogate_problem(word):
            return f"the word {word!r} {surrogate}"
        if isinstance(tag, bool) or not isinstance(tag, str | int) or tag == "":
            return f"the tag {tag!r}, expected a name or the number of one"
        if names and isinstance(tag, int) and not 0 <= tag < len(names):
            return f"the tag {tag}, expected 0 to {len(names) - 1}"
    return ""


def _classes(name: str, tags: Mapping[str, Sequence[Sequence[str]]], stored: Sequence[str] | None) -> list[str]:
    """The names of all tags, O first; says what they are. Raises: DataError for tags that are no tags of one scheme."""
    rows = [row for part in tags.values() for row in part]
    used = {tag for row in rows for tag in row}
    scheme = scheme_of(rows)
    bare = sorted(tag for tag in used if tag != "O" and not has_prefix(tag))
    if scheme and bare:
        raise DataError(f"{name}: the tag {bare[0]!r} has no prefix, and others have, such as "
                        f"{min(filter(has_prefix, used))!r}: write entities as B-{bare[0]}, "
                        f"I-{bare[0]}")  # fmt: skip
    if used == {"O"}:
        raise DataError(f"{name}: all words have the tag O, so that there is nothing to learn")
    names = stored if stored and used <= set(stored) else sorted({from_bilou(tag) for tag in used}, key=tag_order)
    classes = list(dict.fromkeys(from_bilou(tag) for tag in names))
    if scheme:
        types = sorted({split_tag(tag)[1] for tag in classes} - {""})
        meaning = {"IOB": "IOB (neither IOB1 nor IOB2 throughout)", "BILOU": "BILOU, read as BIOES"}.get(scheme, scheme)
        announce(f"tags: {meaning}, {len(types)} types of entities ({listed(types)})")
    else:
        announce(f"tags: {len(classes)} classes of words ({listed(classes)}), without prefixes such as B- and I-")
    trained = {from_bilou(tag) for row in tags["train"] for tag in row}
    if untrained := sorted({from_bilou(tag) for tag in used} - trained):
        announce(f"no word of the training sentences has the tags {listed(untrained)}, so that they are not learned")
    return classes
