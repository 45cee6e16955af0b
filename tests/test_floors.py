"""How the package is built: floors, cost of imports, sizes of files and functions."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import zoo

ROOT = Path(zoo.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# A file imports from its own floor and the floors below. Where a folder or a file is not named, it is on floor 3.
FLOOR = {"errors": 0, "nn": 1, "frontends": 2, "heads": 2, "losses": 2, "data": 4, "tasks": 4, "run": 4, "recipes": 4}
TOP = ("cli", "cli_search", "compare", "comparison", "doctor")  # what ties all together
HEAVY = ("lightning", "torchvision", "torchaudio", "timm", "transformers", "datasets", "matplotlib", "torchmetrics",
         "open_clip", "jsonargparse", "rich", "huggingface_hub")  # fmt: skip
# Longer than the limits, for a reason.
LONG_FUNCTIONS: dict[str, str] = {}
LONG_FILES: dict[str, str] = {}
MANY_PARAMETERS = {
    "zoo.generating.generate": "keyword options under the names that people know from elsewhere",
    "zoo.frontends.patches.Patches.__init__": "one keyword for each way in which published image models begin",
}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def floor(name: str) -> int:
    part = name.split(".")[1] if "." in name else ""
    return 5 if part in TOP else FLOOR.get(part, 3)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imported(path: Path, *, lazily: bool) -> set[str]:
    """Modules that a file imports, of this package by their full names; `lazily`: inside functions, too."""
    found: set[str] = set()
    modules = {name_of(p) for p in FILES}
    package = name_of(path) if path.name == "__init__.py" else name_of(path).rpartition(".")[0]

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not lazily:
                continue
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Import):
                found.update(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = child.module or ""
                if child.level:
                    above = package.split(".")[: len(package.split(".")) - child.level + 1]
                    base = ".".join([*above, base] if base else above)
                inner = {f"{base}.{alias.name}" for alias in child.names}
                found.update((inner & modules) or {base})
            visit(child)

    visit(tree(path))
    return found


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_go_down(path):
    own = name_of(path)
    if own == "zoo":
        return
    for other in imported(path, lazily=False):
        if other.split(".")[0] == "zoo" and other != "zoo":
            assert floor(other) <= floor(own), f"{own} (floor {floor(own)}) imports {other} (floor {floor(other)})"
    if floor(own) <= 2:
        for other in imported(path, lazily=True):
            if other.split(".")[0] == "zoo" and other != "zoo":
                assert floor(other) <= floor(own), f"{own} (floor {floor(own)}) imports {other}, in a function"


def test_there_are_no_cycles():
    graph = {name_of(p): {m for m in imported(p, lazily=False) if m.startswith("zoo.")} for p in FILES}
    done: set[str] = set()

    def walk(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail[trail.index(name) :], name))
        if name not in done:
            for other in graph.get(name, ()):
                walk(other, (*trail, name))
            done.add(name)

    for name in graph:
        walk(name, ())


@pytest.mark.parametrize("path", [p for p in FILES if floor(name_of(p)) <= 3], ids=name_of)
def test_heavy_packages_are_imported_where_they_are_used(path):
    heavy = {m.split(".")[0] for m in imported(path, lazily=False)} & set(HEAVY)
    assert not heavy, f"{name_of(path)} imports {heavy} at its head"
    if floor(name_of(path)) <= 2:
        used = {m.split(".")[0] for m in imported(path, lazily=True)} & set(HEAVY)
        assert not used, f"{name_of(path)} needs torch and nothing else, not {used}"


def python(code: str) -> str:
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_importing_the_package_is_quick_and_brings_no_torch():
    code = """
import sys, time
start = time.process_time()
import zoo
print(time.process_time() - start)
print([m for m in sys.modules if m.split('.')[0] in ('torch', 'numpy', 'yaml', 'PIL')])
"""
    seconds, brought = zip(*(python(code).splitlines() for _ in range(3)))
    assert set(brought) == {"[]"}
    assert min(map(float, seconds)) <= 0.1


def test_settings_and_names_bring_no_torch():
    """What `--help` needs."""
    code = "import sys, zoo.run.settings, zoo.data.settings, zoo.errors; print('torch' in sys.modules)"
    assert python(code) == "False\n"


def test_models_bring_torch_and_nothing_heavy():
    code = f"""
import sys
from zoo import nn, frontends, heads
import zoo
zoo.create_model('vit_cifar_tiny')
print([m for m in {HEAVY} if m in sys.modules])
"""
    assert python(code) == "[]\n"


def test_no_file_is_called_like_a_public_function():
    """Importing zoo.draw would put the module in the place of the function."""
    files = {file.stem for file in ROOT.glob("*.py")}
    assert not files & set(zoo._WHERE)


def test_all_public_names_are_there():
    missing = []
    for name in zoo.__all__:
        try:
            getattr(zoo, name)
        except (AttributeError, ImportError) as error:
            missing.append(f"{name}: {error}")
    assert not missing


def functions(path: Path):
    """(qualified name, node, is a method)."""
    for parent in ast.walk(tree(path)):
        for node in ast.iter_child_nodes(parent):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                owner = parent.name if isinstance(parent, ast.ClassDef) else ""
                yield f"{name_of(path)}.{owner + '.' if owner else ''}{node.name}", node, bool(owner)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_and_functions_are_short(path):
    lines = len(path.read_text().splitlines())
    assert lines <= 400 or name_of(path) in LONG_FILES, f"{lines} lines"
    for name, node, is_method in functions(path):
        length = node.end_lineno - node.lineno + 1
        assert length <= 60 or name in LONG_FUNCTIONS, f"{name}: {length} lines"
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        count = len(arguments) - (is_method and bool(arguments) and arguments[0].arg in ("self", "cls"))
        assert count <= 10 or name in MANY_PARAMETERS, f"{name}: {count} parameters"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_everything_is_annotated_and_every_file_says_what_it_is(path):
    assert ast.get_docstring(tree(path)) or not tree(path).body, "no docstring"
    for name, node, is_method in functions(path):
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        if is_method and arguments and arguments[0].arg in ("self", "cls"):
            arguments = arguments[1:]
        bare = [a.arg for a in arguments if a.annotation is None]
        said = node.returns is not None or (node.name == "__init__" and arguments)  # a constructor returns nothing
        assert not bare and said, f"{name}: {bare or 'result'} without annotation"


PUBLIC = [zoo.__name__, *(f"zoo.{p}" for p in ("nn", "losses", "data", "tasks"))]


def test_what_is_public_has_a_docstring():
    from importlib import import_module

    silent = []
    for module_name in PUBLIC:
        module = import_module(module_name)
        for name in getattr(module, "__all__", ()):
            thing = getattr(module, name)
            if callable(thing) and not (thing.__doc__ or "").strip():
                silent.append(f"{module_name}.{name}")
    assert not silent


def test_the_wheel_holds_the_package_alone():
    import tomllib

    settings = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())
    assert settings["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["zoo"]
    assert (ROOT / "py.typed").exists()
