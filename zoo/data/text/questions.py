"""Load questions with contexts that hold their answers: SQuAD files, tables, Hub datasets or synthetic facts."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from zoo.data.sources.columns import announce_skipped, check_column
from zoo.data.sources.find import Read, Source, find_tables, split_tables
from zoo.data.sources.tables import Table, read_table, read_text, table_suffix
from zoo.data.splits import Items, Splits, with_test
from zoo.data.synthetic import questions
from zoo.data.text_config import QuestionSettings
from zoo.preprocessing.text_cleaning import surrogate_problem
from zoo.utils.console import announce
from zoo.utils.errors import DataError

SUFFIXES = (".json", ".jsonl", ".parquet", ".json.gz", ".jsonl.gz")
MIN_CONTEXTS = 3  # one each to train on, to validate and to test
Answers = list[tuple[str, int]]  # (text, the character of the context at which it starts)


@dataclass
class Questions(Items):
    """Questions with contexts.

    Attributes:
        questions: The questions.
        contexts: The context of each question.
        answers: The answers to each question that are right; none if its context does not answer it.
    """

    noun: ClassVar[str] = "questions"

    questions: list[str]
    contexts: list[str]
    answers: list[Answers]

    def __len__(self) -> int:
        return len(self.questions)

    def contents(self) -> list[tuple[str, str]]:
        return list(zip(self.questions, self.contexts))

    def take(self, rows: Tensor) -> "Questions":
        """The questions of these rows."""
        lists: list[list[Any]] = [self.questions, self.contexts, self.answers]
        return Questions(*([column[i] for i in rows.tolist()] for column in lists))

    @property
    def texts(self) -> list[tuple[str, str]]:
        """Pairs (question, context)."""
        return list(zip(self.questions, self.contexts))


def load_questions(settings: QuestionSettings | None = None, *, seed: int = 0) -> Splits[Questions]:
    """Load questions with contexts.

    Args:
        settings: Dataset and options; see `QuestionSettings`.
        seed: Seed of splits and subsets.

    Raises:
        DataError: An unknown name, a missing or malformed file, an empty question or context, or an answer that does
            not stand at its place in the context. The message says how to fix it.
    """
    s = settings or QuestionSettings()
    if s.name in ("auto", "synthetic", "synthetic_questions"):
        sets = synthetic_questions()
    else:
        source, s = find_tables(s, "question answering", read=read_questions, folder=_tables_of_folder)
        sets = _from_tables(source, s, seed)
    return sets.limited(s.max_train_samples, s.max_test_samples, seed)


def synthetic_questions() -> Splits[Questions]:
    """The synthetic dataset of questions."""
    rows = questions.make_questions(questions.TRAIN + questions.TEST, seed=0)
    train, test = (
        Questions([row["question"] for row in part], [row["context"] for row in part],
                  [list(_pairs(row["answers"])) for row in part])
        for part in (rows[: questions.TRAIN], rows[questions.TRAIN :])
    )  # fmt: skip
    return Splits(train, test, "synthetic", False, "generated questions about facts")


def read_questions(file: Path, *, encoding: str = "auto", **table_format: object) -> Table:
    """Read a file of SQuAD (JSON with `data`, `paragraphs`, `qas`), or a table with `question`, `context`, `answers`.

    Raises: DataError.
    """
    kind = table_suffix(file).removesuffix(".gz")
    if kind not in SUFFIXES:
        raise DataError(f"{file}: expected a file of SQuAD (.json) or a table, one of {', '.join(SUFFIXES)}")
    if any(value != "auto" for value in table_format.values()):
        raise DataError(f"{file}: header= and sep= are for CSV files, which {kind} files are not; omit them")
    if kind != ".json" or not file.is_file():
        return read_table(file, encoding=encoding)
    try:
        found = json.loads(read_text(file, encoding=encoding))
    except json.JSONDecodeError as error:
        raise DataError(f"{file}, line {error.lineno}: invalid JSON ({error})") from None
    data = found.get("data") if isinstance(found, dict) else found
    if not isinstance(data, list) or not data or not all(isinstance(entry, dict) for entry in data):
        raise DataError(f"{file}: expected a list of objects, or an object with such a list under 'data', as in SQuAD")
    try:
        rows = list(_squad_rows(data)) if "paragraphs" in data[0] else data
        columns = {name: [row.get(name) for row in rows] for name in ("question", "context", "answers")}
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file}: {error!r} in an entry of 'data': expected paragraphs with context and qas, and qas "
                        f"with question and answers, as in SQuAD") from None  # fmt: skip
    return Table(columns, str(file))


def _squad_rows(data: list[Any]) -> Iterator[dict[str, Any]]:
    for entry in data:
        for paragraph in entry["paragraphs"]:
            for qa in paragraph["qas"]:
                answers = [] if qa.get("is_impossible") else qa["answers"]
                yield {"question": qa["question"], "context": paragraph["context"], "answers": answers}


def _tables_of_folder(folder: Path, read: Read) -> dict[str, Table]:
    found = split_tables(folder, read, suffixes=SUFFIXES)
    if not found:
        raise DataError(f"{folder} has no train file: expected train.json (or {', '.join(SUFFIXES[1:])}), and "
                        f"optionally validation and test files")  # fmt: skip
    return found


def _from_tables(source: Source, s: QuestionSettings, seed: int) -> Splits[Questions]:
    broken: list[str] = []
    sets = {split: _questions(table, s.on_error == "skip", broken) for split, table in source.tables.items()}
    announce_skipped(broken, "questions")
    total, empty = (sum(count) for count in zip(*((len(p), p.answers.count([])) for p in sets.values())))
    announce(f"questions: {total:,}, of which {empty:,} have no answer in their context")
    test_name = (s.test or "") if "test" in sets else f"a held-out part of {source.name}"
    problem = f"{source.where} has too few questions to hold some out for testing: add some, or give a file (test=)"
    _group_by_context(sets["train"], held_out="test" not in sets or "validation" not in sets)
    sets = with_test(sets, seed, problem)
    return Splits(sets["train"], sets["test"], source.name, True, source.where, validation=sets.get("validation"),
                  test_name=test_name)  # fmt: skip


def _group_by_context(train: Questions, held_out: bool) -> None:
    """All questions about a context are held out together: who has read it in training knows more than its words."""
    numbers = {context: number for number, context in enumerate(dict.fromkeys(train.contexts))}
    if len(numbers) >= MIN_CONTEXTS:
        train.group_ids = torch.tensor([numbers[context] for context in train.contexts])
        train.group_option = "context"
    elif held_out:
        announce(f"there are {len(numbers)} different contexts, too few to hold some out: questions for validation or "
                 "testing are about contexts that are trained on")  # fmt: skip


def _questions(table: Table, skip: bool, broken: list[str]) -> Questions:
    for name in ("question", "context", "answers"):
        check_column(table, name, name)
    found = Questions([], [], [])
    columns = [table.columns[name] for name in ("question", "context", "answers")]
    for row, (question, context, answers) in enumerate(zip(*columns)):
        problem = _problem(question, context, answers)
        if problem and not skip:
            raise DataError(f"{table.place(row)}: {problem} (on_error=skip skips such questions)")
        if problem:
            broken.append(f"{table.place(row)}: {problem}")
            continue
        found.questions.append(question)
        found.contexts.append(context)
        found.answers.append(list(_pairs(answers)))
    if not len(found):
        raise DataError(f"{table.where}: no row has a question and a context")
    return found


def _pairs(answers: Any) -> Iterator[tuple[str, int]]:
    """(text, start) of answers as SQuAD writes them in JSON, a list of objects, or in tables, an object of lists."""
    if isinstance(answers, dict):
        yield from zip(answers["text"], answers["answer_start"], strict=True)
    else:
        yield from ((answer["text"], answer["answer_start"]) for answer in answers)


def _problem(question: Any, context: Any, answers: Any) -> str:
    for name, value in (("question", question), ("context", context)):
        if not isinstance(value, str) or not value.strip():
            return f"the {name} is {value!r:.40}, expected a text that is not empty"
        if surrogate := surrogate_problem(value):
            return f"the {name} {surrogate}"
    try:
        pairs = list(_pairs(answers))
    except (KeyError, TypeError, ValueError):
        return f"the answers are {answers!r:.60}, expected {{'text': [...], 'answer_start': [...]}}"
    for text, start in pairs:
        if not isinstance(text, str) or not text or not isinstance(start, int) or start < 0:
            return f"the answer {text!r:.40} at {start!r}, expected a text and the character at which it starts"
        if context[start : start + len(text)] != text:
            return f"the answer {text!r:.40} does not stand at character {start} of the context, which has " \
                   f"{context[start : start + len(text)]!r:.40} there"  # fmt: skip
    return ""
