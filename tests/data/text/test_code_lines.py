"""Held-out lines of code."""

import pytest

from zoo.data.text.code_lines import lines_of_code, sample_lines
from zoo.utils.errors import DataError

FILE = '''"""About this file.

value = 1
"""
import os

# a comment
def f(x):
    """Text."""
    if x:
        return (
            os.name
        )
    else:
        pass
    text = """
    name
    """
    return
'''


def test_lines_with_a_name() -> None:
    lines = FILE.split("\n")
    assert [lines[i].strip() for i in lines_of_code(FILE)] == [
        "import os",
        "def f(x):",
        "if x:",
        "os.name",
        'text = """',
    ]
    assert lines_of_code("x = (\n") == [] and lines_of_code("x = 1\n  y = 2\n z = 3\n") == []


def test_a_sample_of_lines() -> None:
    texts = [FILE.replace("value", f"value{i}") for i in range(5)]
    lines = sample_lines(texts, ["        os.name\n"], 12, seed=0)
    assert len(lines) == 12 and lines == sample_lines(texts, ["        os.name\n"], 12, seed=0)
    assert lines != sample_lines(texts, [], 12, seed=1)
    for one in lines:
        assert one.before + one.line + one.after in texts and one.before.endswith("\n")
        assert one.after.startswith("\n") and one.is_known == (one.line.strip() == "os.name")
    assert len(sample_lines(texts, [], 100, seed=0)) == 25 and sample_lines(texts, [], 0, seed=0) == []
    with pytest.raises(DataError, match="no line of code"):
        sample_lines(["# a comment\n"], [], 3, seed=0)
