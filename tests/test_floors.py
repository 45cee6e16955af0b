"""How the package is built: the order of its packages, the cost of imports, sizes of files and functions."""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import zoo

ROOT = Path(zoo.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# A file imports from its own package and from those before it, imports inside functions included.
PACKAGES = (
    "utils", "nn", "parallel", "preprocessing", "models", "checkpoints", "inference", "interpret", "retrieval", "data",
    "tasks", "training", "cli",
)  # fmt: skip
# The same within a package: a file imports nothing from the parts that are named after its own.
PARTS = {
    "nn": ("", "frontends", "losses"),
    "checkpoints": ("formats", ""),
    "data": (
        "",
        "synthetic",
        "sources",
        "streams",
        "image",
        "text",
        "audio",
        "pairs",
        "image_text",
        "point_cloud",
        "alignments",
        "graph",
    ),
    "training": ("", "planner", "recipes", "sweep", "scaling"),
}
HEAVY = ("lightning", "torchvision", "torchaudio", "timm", "transformers", "datasets", "matplotlib", "torchmetrics",
         "open_clip", "jsonargparse", "rich", "huggingface_hub")  # fmt: skip
# Importing these brings neither torch nor anything heavy: `--help`, `zoo list` and the like answer at once.
WITHOUT_TORCH = (
    "zoo", "zoo.utils.console", "zoo.utils.distributed", "zoo.utils.errors", "zoo.utils.lazy", "zoo.utils.options",
    "zoo.data", "zoo.data.augment_config", "zoo.data.base_config", "zoo.data.config", "zoo.data.image_text_config",
    "zoo.data.sources.dataset_cards",
    "zoo.parallel", "zoo.parallel.config",
    "zoo.tasks", "zoo.tasks.config", "zoo.training",
    "zoo.training.config", "zoo.training.main", "zoo.training.parse", "zoo.training.recipes.config",
    "zoo.training.recipes.image_text_config",
    "zoo.training.result", "zoo.training.run", "zoo.training.run_dir", "zoo.training.sweep.check",
    "zoo.training.sweep.compare", "zoo.training.devices",
    "zoo.training.sweep.results", "zoo.cli.main", "zoo.cli.export", "zoo.cli.audio", "zoo.cli.models",
    "zoo.cli.predict", "zoo.cli.retrieval", "zoo.cli.doctor", "zoo.cli.chat", "zoo.cli.serve", "zoo.cli.info",
    "zoo.cli.explore", "zoo.cli.infill", "zoo.cli.plan", "zoo.cli.scaling",
)  # fmt: skip
# What is counted below, and may only become less; a new command adds one import.
IMPORTS_IN_FUNCTIONS, NAMES_THROUGH_PACKAGES, IMPORT_MODULE_STRINGS = 46, 0, 12
# Longer than the limits, for a reason.
LONG_FUNCTIONS: dict[str, str] = {}
LONG_FILES: dict[str, str] = {}
MANY_PARAMETERS = {
    "zoo.inference.generation.generate.generate": "keyword options under the names that people know from elsewhere",
    "zoo.checkpoints.load.load": "keyword options, each of which is for another kind of checkpoint or of use",
    "zoo.nn.frontends.image.PatchEmbedding.__init__": "one keyword for each way in which published image models begin",
}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in FILES}


def order(name: str) -> tuple[int, int]:
    """The place of a module's package, and of its part within the package."""
    _, package, *rest = name.split(".")
    parts = PARTS.get(package, ("",))
    part = rest[0] if rest and rest[0] in parts else ""
    return PACKAGES.index(package), parts.index(part)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def imports(path: Path) -> tuple[tuple[str, str, bool], ...]:
    """(module, name or "", whether inside a function) of each import; what serves type checkers alone is left out."""
    found: list[tuple[str, str, bool]] = []

    def visit(node: ast.AST, deferred: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Import):
                found.extend((alias.name, "", deferred) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert not child.level, f"{path}: relative import"
                for alias in child.names:
                    whole = f"{child.module}.{alias.name}"
                    module, name = (whole, "") if whole in MODULES else (child.module or "", alias.name)
                    found.append((module, name, deferred))
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            visit(child, deferred or inside)

    visit(tree(path), False)
    return tuple(found)


def own_imports(path: Path) -> set[str]:
    """Modules of this package that a file imports, wherever the import stands."""
    return {module for module, _, _ in imports(path) if module.split(".")[0] == "zoo"}


def test_nothing_lies_loose():
    entries = sorted(path.name for path in ROOT.iterdir() if path.name != "__pycache__")
    assert entries == sorted([*PACKAGES, "__init__.py", "py.typed"])


def test_imports_go_one_way():
    wrong = [
        f"{own} imports {'the whole package' if other == 'zoo' else other + ', which stands above it'}"
        for own, path in MODULES.items()
        if own != "zoo"
        for other in own_imports(path)
        if other == "zoo" or order(other) > order(own)
    ]
    assert not wrong, "\n".join(wrong)


def test_there_are_no_cycles():
    """Imports inside functions count."""
    graph = {name: own_imports(path) for name, path in MODULES.items() if name != "zoo"}
    done: set[str] = set()

    def walk(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail[trail.index(name) :], name))
        if name not in done:
            for other in graph.get(name, ()):
                walk(other, (*trail, name))
            done.add(name)

    for name in graph:
        walk(name, ())


def test_imports_that_hide_are_counted():
    deferred = [
        f"{name}: {module}"
        for name, path in MODULES.items()
        for module, _, inside in imports(path)
        if inside and module.split(".")[0] == "zoo"
    ]
    assert len(deferred) <= IMPORTS_IN_FUNCTIONS, deferred
    free = [entry for entry in deferred if entry.split(":")[0] not in WITHOUT_TORCH]
    assert not free, f"imported inside a function without need (the module imports torch anyhow): {free}"


def test_names_come_from_where_they_stand():
    """And not through a package's `__init__`, which would tie a file to all of the package."""
    through = [
        f"{name}: {module}.{taken}"
        for name, path in MODULES.items()
        for module, taken, _ in imports(path)
        if path.name != "__init__.py" and taken and module in MODULES and MODULES[module].name == "__init__.py"
    ]
    assert len(through) <= NAMES_THROUGH_PACKAGES, through


def test_modules_named_in_strings_are_counted():
    found = [
        f"{name}: {match}"
        for name, path in MODULES.items()
        for match in re.findall(r"import_module\(.*", path.read_text())
    ]
    assert len(found) <= IMPORT_MODULE_STRINGS, found


def test_tests_mirror_the_package():
    folders = {p.parent.relative_to(ROOT.parent / "tests") for p in (ROOT.parent / "tests").rglob("test_*.py")}
    extra = {Path(), Path("recipes"), Path("faults")}
    missing = [str(folder) for folder in folders - extra if not (ROOT / folder / "__init__.py").is_file()]
    assert not missing, f"tests/ has folders that zoo/ has not: {missing}"


def test_heavy_packages_are_imported_where_they_are_used():
    wrong = []
    for name, path in MODULES.items():
        package = name.split(".")[1] if "." in name else ""
        heavy = [(module, inside) for module, _, inside in imports(path) if module.split(".")[0] in HEAVY]
        if package == "nn":
            wrong += [f"{name} needs torch and nothing else, not {module}" for module, _ in heavy]
        elif package not in ("data", "tasks", "training") or name in WITHOUT_TORCH:  # the others are Lightning's ground
            wrong += [f"{name} imports {module} at its head" for module, inside in heavy if not inside]
    assert not wrong, "\n".join(wrong)


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


def test_what_help_needs_brings_no_torch():
    """In one process: the first that brings torch is named."""
    code = f"""
import importlib, sys
for name in {WITHOUT_TORCH}:
    importlib.import_module(name)
    if 'torch' in sys.modules:
        print(name)
        break
"""
    assert python(code) == ""


def test_models_bring_torch_and_nothing_heavy():
    code = f"""
import sys
from zoo.nn import frontends, heads
import zoo
zoo.create_model('vit_cifar_tiny')
print([m for m in {HEAVY} if m in sys.modules])
"""
    assert python(code) == "[]\n"


def test_no_package_is_called_like_a_public_function():
    """Importing the package would put it in the place of the function."""
    assert not set(PACKAGES) & set(zoo._WHERE)


def test_all_public_names_are_there():
    missing = []
    for name in zoo.__all__:
        try:
            getattr(zoo, name)
        except (AttributeError, ImportError) as error:
            missing.append(f"{name}: {error}")
    assert not missing


@cache
def functions(path: Path) -> list[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef, bool]]:
    """(qualified name, node, is a method)."""
    found = []
    for parent in ast.walk(tree(path)):
        for node in ast.iter_child_nodes(parent):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                owner = parent.name if isinstance(parent, ast.ClassDef) else ""
                found.append((f"{name_of(path)}.{owner + '.' if owner else ''}{node.name}", node, bool(owner)))
    return found


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef, is_method: bool) -> list[ast.arg]:
    """Those that a caller gives, without `self` or `cls`."""
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return arguments[1:] if is_method and arguments and arguments[0].arg in ("self", "cls") else arguments


def test_files_and_functions_are_short():
    wrong = []
    for path in FILES:
        lines = len(path.read_text().splitlines())
        if lines > 400 and name_of(path) not in LONG_FILES:
            wrong.append(f"{name_of(path)}: {lines} lines")
        for name, node, is_method in functions(path):
            length, count = node.end_lineno - node.lineno + 1, len(parameters(node, is_method))
            if length > 60 and name not in LONG_FUNCTIONS:
                wrong.append(f"{name}: {length} lines")
            if count > 10 and name not in MANY_PARAMETERS:
                wrong.append(f"{name}: {count} parameters")
    assert not wrong, "\n".join(wrong)


def test_everything_is_annotated_and_every_file_says_what_it_is():
    wrong = [
        f"{name_of(path)}: no docstring" for path in FILES if tree(path).body and not ast.get_docstring(tree(path))
    ]
    for path in FILES:
        for name, node, is_method in functions(path):
            given = parameters(node, is_method)
            bare = [argument.arg for argument in given if argument.annotation is None]
            # a constructor returns nothing
            if bare or (node.returns is None and not (node.name == "__init__" and given)):
                wrong.append(f"{name}: {bare or 'result'} without annotation")
    assert not wrong, "\n".join(wrong)


PUBLIC = [zoo.__name__, *(f"zoo.{p}" for p in ("nn", "nn.losses", "data", "tasks", "training"))]


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
