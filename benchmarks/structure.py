"""How the package is built, in numbers: a Markdown table of measures, their values and the goals.

    python benchmarks/structure.py [recipes=1]
    PYTHONPATH=CHECKOUT python benchmarks/structure.py      of another checkout; older layouts are understood

Rules of counting:
    cycle           modules that import each other, directly or through others; imports inside functions count, those
                    for type checkers and the package's own `__init__` do not
    frame           a Python frame of a function of the package on the stack when scaled_dot_product_attention of torch
                    is called; frames of torch do not count. The deepest such call of one forward
    function        a name (file and qualified name): methods, properties, lambdas and comprehensions count, bodies of
                    modules and classes do not. Counted when entered, in the second of two equal forwards
    one block       from the first entry of Block.forward to its return, itself included
    one token       entries of functions in zoo.generate for 20 new tokens less those for 10, divided by 10
    core            the files directly in zoo/nn but __init__, heads and conformance; a code line is not blank, not a
                    comment and not in a docstring
    modality        a file branches on it that compares with, or keys a dict by, names of two modalities or more (image,
                    vision, text, audio; pixel_values, input_ids, input_values). Their own packages are left out:
                    nn/frontends, preprocessing, data, training/recipes, families of models
    recipe run      functions as above, in a process of its own, after the recipe's imports: two steps on few synthetic
                    items on the CPU, with validation, test, plots and saving
    words           hits of the list of tests/test_words.py in code, recipes, examples, configs and README
"""

import ast
import inspect
import io
import os
import re
import runpy
import subprocess
import sys
import tempfile
import threading
import tokenize
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from _measure import options

import zoo

HERE = Path(__file__).resolve().parents[1]
ROOT = Path(zoo.__file__).parent
OLD = (ROOT / "run").is_dir()  # the layout before the packages
Row = tuple[str, str, str]
Function = tuple[str, str]  # file, qualified name

# --- files --------------------------------------------------------------------------------------------------------


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def files() -> dict[str, Path]:
    """Module name -> file, of the whole package."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def entries() -> Row:
    names = {path.name for path in ROOT.iterdir()} - {"__init__.py", "py.typed", "__pycache__"}
    loose = sorted(name for name in names if name.endswith(".py"))
    shown = f"{len(names)}, of which loose modules: {len(loose)}" + f" ({', '.join(loose[:3])}, ...)" * bool(loose)
    return "entries directly under zoo/", shown, "<= 14, no loose module"


def imports(name: str, path: Path, modules: dict[str, Path]) -> Iterator[str]:
    """Modules of the package that a file imports, wherever the import stands."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    skipped = [
        node for node in ast.walk(tree(path)) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
    ]
    hidden = {id(child) for node in skipped for child in ast.walk(node)}
    for node in ast.walk(tree(path)):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            inner = {f"{base}.{alias.name}" for alias in node.names} & set(modules)
            yield from inner or {base} & set(modules)


def cycles() -> Row:
    modules = files()
    graph = {name: set(imports(name, path, modules)) - {"zoo", name} for name, path in modules.items() if name != "zoo"}

    def reached(start: str) -> set[str]:
        seen, left = set[str](), [start]
        while left:
            new = graph.get(left.pop(), set()) - seen
            seen |= new
            left += new
        return seen

    reach = {name: reached(name) for name in graph}
    components = {frozenset(other for other in reach[name] if name in reach[other]) for name in graph} - {frozenset()}
    largest = max(map(len, components), default=0)
    shown = f"{len(components)}" + f" (largest {largest} files)" * bool(components)
    return "import cycles, imports inside functions counted", shown, "0"


def code_lines(path: Path) -> int:
    """Lines that are not blank, not comments and not docstrings."""
    documented: set[int] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node
        ):
            documented |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    quiet = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.type not in quiet:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - documented)


def core() -> Row:
    parts = [
        path
        for path in (ROOT / "nn").glob("*.py")
        if path.stem.split("_mixers")[0] not in ("__init__", "heads", "conformance")
    ]
    return "core, code lines", f"{sum(map(code_lines, parts)):,} in {len(parts)} files", "<= 1,500"


MODALITIES = {
    "image": "image", "vision": "image", "pixel_values": "image", "text": "text", "input_ids": "text",
    "audio": "audio", "input_values": "audio",
}  # fmt: skip
OWN_PACKAGES = ("nn/frontends/", "frontends/", "preprocessing/", "data/", "training/recipes/")


def literals(node: ast.AST | None) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.Tuple | ast.List | ast.Set):
        for element in node.elts:
            yield from literals(element)


def modalities_of(path: Path) -> set[str]:
    """The modalities whose names a file compares with or keys a dict by."""
    found: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Compare):
            parts: list[Any] = [node.left, *node.comparators]
        elif isinstance(node, ast.Dict):
            parts = list(node.keys)
        else:
            parts = [node.value] if isinstance(node, ast.MatchValue) else []
        found |= {MODALITIES[name] for part in parts for name in literals(part) if name in MODALITIES}
    return found


def branches() -> Row:
    found = []
    for path in files().values():
        place = path.relative_to(ROOT).as_posix()
        in_family = place.startswith("models/") and (place.count("/") > 1 or "FAMILY = " in path.read_text())
        if not place.startswith(OWN_PACKAGES) and not in_family and len(modalities_of(path)) > 1:
            found.append(place)
    return "files that branch on the modality", f"{len(found)}: {', '.join(found)}", "<= 6"


# --- calls --------------------------------------------------------------------------------------------------------


def is_ours(code: CodeType) -> bool:
    return code.co_filename.startswith(f"{ROOT}{os.sep}") and bool(code.co_flags & inspect.CO_OPTIMIZED)


class Calls:
    """Counts entries of the package's functions while it is open, of all threads that begin meanwhile.

    within: count only from the first entry of this function to its return.
    """

    def __init__(self, within: str = "") -> None:
        self.counts: Counter[Function] = Counter()
        self.within, self.done = within, False
        self.frame: FrameType | None = None

    def profile(self, frame: FrameType, event: str, argument: object) -> None:
        if event == "return" and frame is self.frame:
            self.frame, self.done = None, True
        if event != "call" or not is_ours(frame.f_code):
            return
        if self.within and not self.done and self.frame is None and frame.f_code.co_qualname == self.within:
            self.frame = frame
        if not self.within or self.frame is not None:
            self.counts[frame.f_code.co_filename, frame.f_code.co_qualname] += 1

    def __enter__(self) -> Counter[Function]:
        threading.setprofile(self.profile)
        sys.setprofile(self.profile)
        return self.counts

    def __exit__(self, *error: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)


def functions(call: Callable[[], object], within: str = "") -> int:
    """Distinct functions entered in the second of two calls."""
    call()
    with Calls(within) as counts:
        call()
    return len(counts)


def frames(call: Callable[[], object]) -> int:
    """Frames of the package above the deepest call of the kernel."""
    real, depths = F.scaled_dot_product_attention, [0]

    def counting(*args: Any, **options: Any) -> torch.Tensor:
        frame: FrameType | None = sys._getframe(1)
        depth = 0
        while frame is not None:
            depth += is_ours(frame.f_code)
            frame = frame.f_back
        depths.append(depth)
        return real(*args, **options)

    F.scaled_dot_product_attention = counting
    try:
        call()
    finally:
        F.scaled_dot_product_attention = real
    return max(depths)


def forwards() -> dict[str, Callable[[], object]]:
    """One forward of each of the small models, as a call."""
    names = {"ViT": "vit_cifar", "BERT": "bert_tiny", "GPT-2": "gpt_nano", "CLIP": "clip_tiny"}
    models = {kind: zoo.create_model(name).eval() for kind, name in names.items()}
    ids = torch.arange(16).view(2, 8) + 5
    ended = torch.cat([ids, torch.ones(2, 1, dtype=ids.dtype)], 1)  # 1 is the end token of clip_tiny
    mask = torch.ones_like(ids)
    padded = mask.masked_fill(torch.tensor([[8], [5]]) <= torch.arange(8), 0)
    pixels = torch.linspace(-2, 2, 2 * 3 * 64 * 64).view(2, 3, 64, 64)
    return {
        "ViT": lambda: models["ViT"](pixel_values=pixels[..., :32, :32]),
        "BERT": lambda: models["BERT"](input_ids=ids, attention_mask=mask),
        "BERT padded": lambda: models["BERT"](input_ids=ids, attention_mask=padded),
        "GPT-2": lambda: models["GPT-2"](input_ids=ids),
        "CLIP": lambda: models["CLIP"](pixel_values=pixels, input_ids=ended),
    }


def call_rows() -> list[Row]:
    with torch.inference_mode():
        calls = forwards()
        depth = ", ".join(f"{kind} {frames(call)}" for kind, call in calls.items())
        entered = ", ".join(
            f"{kind} {functions(calls[kind])} / {functions(calls[kind], 'Block.forward')}"
            for kind in ("ViT", "BERT padded")
        )
    return [
        ("frames from the model's call to scaled_dot_product_attention", depth, "ViT, BERT, GPT-2 <= 7"),
        ("functions entered in one forward / in one block", entered, "<= 25 / <= 12"),
        ("calls for one greedy token of a 6-layer decoder", f"{token_calls():g}", "<= 120"),
    ]


def token_calls() -> float:
    model, ids = zoo.create_model("gpt_nano").eval(), torch.arange(8)[None] + 5
    totals = []
    for count in (10, 10, 20):  # the first warms up
        with Calls() as counts:
            zoo.generate(model, ids, max_new_tokens=count, eos_token_id=None)
        totals.append(sum(counts.values()))
    return (totals[2] - totals[1]) / 10


# --- recipes ------------------------------------------------------------------------------------------------------

SHORT = ("steps=2", "accelerator=cpu", "precision=fp32")
TOWERS = [f"{tower}.{word}" for tower in ("image", "text") for word in ("width=16", "depth=1", "heads=2")]
WORDS = {
    "vit_cifar": ["width=16", "depth=1", "heads=2", "batch_size=16"]
    + (["data=embedded", "train_size=96", "test_size=40"] if OLD
       else ["data=synthetic", "max_train_samples=96", "max_test_samples=40"]),
    "clip_pairs": [*TOWERS, "text.vocab_size=300", "model.width=16", "batch_size=8",
                   "image.hidden=32" if OLD else "image.mlp_dim=32"],
}  # fmt: skip


def shrink_synthetic_data() -> None:
    """Few items of all synthetic data: those that recipes use take seconds to make."""
    for name, path in files().items():
        if name.startswith("zoo.data.") and re.search(r"^TRAIN\b", path.read_text(), re.MULTILINE):
            module = import_module(name)
            for part, count in (("TRAIN", 100), ("VALIDATION", 20), ("TEST", 20)):
                if hasattr(module, part):
                    setattr(module, part, count)


def run_recipe(name: str) -> None:
    """Run a recipe in this process and print how many functions it entered and how often it parsed its settings."""
    recipe = str(ROOT.parent / "recipes" / f"{name}.py")
    shrink_synthetic_data()
    with tempfile.TemporaryDirectory() as folder:
        sys.argv = [f"{name}.py", *WORDS[name], *SHORT, f"run_dir={folder}/run"]
        runpy.run_path(recipe)  # the imports
        with Calls() as counts, suppress(SystemExit):
            runpy.run_path(recipe, run_name="__main__")
        if not Path(folder, "run", "model").is_dir():
            raise SystemExit(f"{name}: the run left no model")
    parsed = sum(count for (_, name), count in counts.items() if name == "make_settings")
    print(f"\n{len(counts)} {parsed}")


def recipe_row() -> Row:
    found = []
    for name in WORDS:
        command = [sys.executable, __file__, f"recipe={name}"]
        environment = os.environ | {"PYTHONPATH": str(ROOT.parent)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode:
            found.append(f"{name} failed ({(done.stderr.strip() or done.stdout.strip()).splitlines()[-1]})")
        else:
            count, parsed = done.stdout.split()[-2:]
            found.append(f"{name} {count} (settings parsed {parsed} times)")
    return "functions entered by a recipe run of 2 steps", ", ".join(found), "<= 250, parsed once"


# --- names --------------------------------------------------------------------------------------------------------


def tests_module(name: str, root: Path) -> ModuleType | None:
    """A file of tests/ of this checkout that reads the folders of `root`; None where it is missing."""
    file = HERE / "tests" / f"{name}.py"
    spec = spec_from_file_location(name, file) if file.is_file() else None
    if spec is None or spec.loader is None:
        return None
    module = module_from_spec(spec)
    module.__file__ = str(root / "tests" / f"{name}.py")
    spec.loader.exec_module(module)
    return module


def questions() -> Row:
    measure, goal = "twenty questions answered by the name of a file", "19 of 20"
    if not (ROOT.parent / "tests" / "where_is.yaml").is_file():
        return measure, "-", goal
    module = tests_module("test_where_is", ROOT.parent)
    if module is None:
        return measure, "-", goal
    missing = module.not_found_by_name()
    shown = f"{len(module.QUESTIONS) - len(missing)} of {len(module.QUESTIONS)}"
    return measure, shown + f" (not {', '.join(missing)})" * bool(missing), goal


def words() -> Row:
    module = tests_module("test_words", ROOT.parent)
    if module is None:
        return "words that are not the field's own", "-", "0"
    hits = [hit for path in module.CODE for _, text, is_text in module.parts(path)
            for hit in module.found(text, sentence=is_text)]  # fmt: skip
    for path in filter(Path.is_file, module.TEXTS):
        hits += module.found(path.read_text(), sentence=True)
    return "words that are not the field's own", f"{len(hits):,} hits", "0"


def main() -> None:
    o = options(dict(recipes=0), recipes=1, recipe="")
    if o.recipe:
        return run_recipe(o.recipe)
    rows = [entries(), cycles(), *call_rows(), core(), branches()]
    rows += [recipe_row()] if o.recipes else []
    rows += [questions(), words()]
    print(f"\n{ROOT}\n\n| measure | value | goal |\n|---|---|---|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
