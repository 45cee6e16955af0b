"""Twenty questions of the kind "where is X" (tests/where_is.yaml): each is answered by a file under a usual name."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
QUESTIONS: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "tests" / "where_is.yaml").read_text())
LITTLE_WORDS = {"of", "the", "in", "a"}
GOAL = 19


def words_of(name: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", name.lower())) - LITTLE_WORDS


def words_of_path(path: str) -> set[str]:
    """The words of all parts of a path, and each part as one word: rand_augment is also randaugment."""
    parts = Path(path).with_suffix("").parts
    return {word for part in parts for word in words_of(part) | {part.replace("_", "")}}


def is_found_by_name(question: str) -> bool:
    """Whether all words of the question, or of another name for the same, are in the path; a plural may stand there."""
    answer = QUESTIONS[question]
    in_path = words_of_path(answer["path"])
    names = [words_of(name) for name in (question, *answer.get("also", ()))]
    return any(all(any(there.startswith(word.rstrip("s")) for there in in_path) for word in name) for name in names)


def not_found_by_name() -> list[str]:
    return [question for question in QUESTIONS if not is_found_by_name(question)]


def test_there_are_twenty_questions() -> None:
    assert len(QUESTIONS) == 20
    for question, answer in QUESTIONS.items():
        assert {"path", "contains"} <= set(answer) <= {"path", "contains", "also"}, question
        assert all(isinstance(user, str) and user for user in answer.get("also", {}).values()), question


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_file_answers_the_question(question: str) -> None:
    file = ROOT / QUESTIONS[question]["path"]
    assert file.is_file(), f"{question}: {file} does not exist"
    assert re.search(QUESTIONS[question]["contains"], file.read_text()), f"{question}: no answer in {file}"


def test_files_are_found_by_their_names() -> None:
    missing = not_found_by_name()
    assert len(QUESTIONS) - len(missing) >= GOAL, f"not found by the name of the file: {', '.join(missing)}"
