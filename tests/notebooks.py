"""Notebooks of examples/: their cells, the names of the library that they use, and how they are run."""

import ast
import inspect
import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import zoo

FOLDER = Path(__file__).parents[1] / "examples"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
QUICK = "steps = 4\ncount = 300"  # what a run in seconds has in place of the values of a notebook


def cells(file: Path, kind: str) -> list[dict[str, Any]]:
    """The cells of a kind, `code` or `markdown`."""
    return [cell for cell in json.loads(file.read_text())["cells"] if cell["cell_type"] == kind]


def source(cell: dict[str, Any]) -> str:
    """The text of a cell, which is a string or a list of lines."""
    return "".join(cell["source"])


def wrong_names(code: str) -> list[str]:
    """What the code names of `zoo` that does not exist, is private, or is an argument that a function does not take.

    Followed are names that are imported (`import zoo`, `from zoo.x import y`) with the attributes after them.
    """
    tree = ast.parse(code)
    known: dict[str, Any] = {}
    wrong = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            known |= {each.asname or each.name: zoo for each in node.names if each.name == "zoo"}
            wrong += [f"import {each.name}: write import zoo" for each in node.names if each.name.startswith("zoo.")]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "zoo":
            module = import_module(node.module or "")
            for each in node.names:
                problem, value = member(module, each.name)
                wrong += [problem] if problem else []
                known[each.asname or each.name] = value
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            problem, _ = resolved(node, known)
            wrong += [problem] if problem else []
        elif isinstance(node, ast.Call):
            wrong += unknown_arguments(node, known)
    return list(dict.fromkeys(wrong))


def member(owner: Any, name: str) -> tuple[str, Any]:
    """(what is wrong, the attribute) of a module or class."""
    place = getattr(owner, "__name__", type(owner).__name__)
    public = getattr(owner, "__all__", None) if isinstance(owner, ModuleType) else None
    if name.startswith("_") or (public is not None and name not in public):
        return f"{place}.{name} is not public", None
    try:
        return "", getattr(owner, name)
    except AttributeError:
        pass
    try:
        return "", import_module(f"{place}.{name}")
    except ImportError:
        return f"{place}.{name} does not exist", None


def resolved(node: ast.expr, known: dict[str, Any]) -> tuple[str, Any]:
    """(what is wrong, the value) of a name or of a chain of attributes after one; ("", None) if it is not known."""
    if isinstance(node, ast.Name):
        return "", known.get(node.id)
    if isinstance(node, ast.Attribute):
        problem, owner = resolved(node.value, known)
        if problem or not isinstance(owner, ModuleType | type):
            return problem, None
        return member(owner, node.attr)
    return "", None


def unknown_arguments(call: ast.Call, known: dict[str, Any]) -> Iterator[str]:
    """Keywords of a call that its function does not take."""
    problem, function = resolved(call.func, known)
    if problem or not callable(function):
        return
    parameters = inspect.signature(function).parameters
    if any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        return
    for keyword in call.keywords:
        if keyword.arg and keyword.arg not in parameters:
            yield f"{function.__name__}() has no argument {keyword.arg}"


def run(file: Path, folder: Path, values: str = QUICK) -> Any:
    """The notebook after all its cells ran in `folder`; `values` follow its cell that is tagged `parameters`."""
    import nbclient
    import nbformat

    notebook = nbformat.read(file, as_version=4)
    place = next(i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ()))
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(values))
    client = nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    return client.execute()
