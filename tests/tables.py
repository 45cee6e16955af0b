"""The tables of the documentation, made from the code: `python tests/tables.py --write [NAME ...]`. A test compares."""

import ast
import re
import runpy
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs" / "reference"
RECIPES = sorted((ROOT / "recipes").glob("*.py"))


def models() -> str:
    """One row per variant: parameters, what goes in, default source."""
    from zoo.models.registry import build, families
    from zoo.preprocessing.modality import MODALITIES, of_family

    rows = ["| name | parameters | input | published weights |", "|---|---|---|---|"]
    order = [*(record.family for record in MODALITIES.values()), "multimodal", "text_to_image"]
    for family in sorted(families(), key=lambda family: order.index(family.modality)):
        modality = of_family(family.modality)
        for name, overrides in family.variants.items():
            config = family.config(**overrides)
            count = sum(p.numel() for p in build(family, config).parameters())
            source = family.sources.get(name, "").removeprefix("hf-hub:")
            towers = [MODALITIES[tower].describe(part) for tower, part in config.parts.items()]
            takes = modality.describe(config) if modality else "; ".join(towers)
            if hasattr(config, "image_grid"):
                takes = f"{MODALITIES['text'].describe(config)}; {config.image_length} tokens of an image"
            rows.append(f"| `{name}` | {count / 1e6:,.1f} M | {takes} | {f'`{source}`' if source else '-'} |")
    return "\n".join(rows)


def kinds() -> str:
    """One row per attention kind and mixer: what it can do and what it costs, found by running it."""
    from zoo.inference.attention_kinds import attention_kinds
    from zoo.nn.registry import BUILT_IN, BUILT_IN_MIXERS

    return str(attention_kinds(*BUILT_IN, *BUILT_IN_MIXERS))


def recipes() -> str:
    """One row per recipe: the first line of its docstring."""
    rows = ["| command | what it does |", "|---|---|"]
    for file in RECIPES:
        text = ast.get_docstring(ast.parse(file.read_text())) or ""
        rows.append(f"| `python recipes/{file.name}` | {text.splitlines()[0].rstrip('.')} |")
    return "\n".join(rows)


def trains(recipe: Path) -> bool:
    """Whether a recipe trains a model, and so has settings."""
    return "def train(" in recipe.read_text()


def settings_of(recipe: Path) -> type:
    """The settings class of a recipe, which it passes to `main`."""
    name = re.search(r"main\(\w+, (\w+)", recipe.read_text())
    assert name, f"{recipe} calls no main(train, Settings)"
    return runpy.run_path(str(recipe), run_name="recipe")[name[1]]


def options() -> str:
    """The options of the recipes from their settings classes: those that all share, then those of each recipe."""
    from zoo.training.config import MODEL_FIELDS, RunSettings
    from zoo.utils.options import options as options_of

    shared = [o for o in options_of(RunSettings) if o.path != "model.overrides"]
    model = [f"| `model.{name}` | | per model | {meaning} |" for name, meaning in MODEL_FIELDS.items()]
    parts = ["## All recipes", "", *HEAD, *map(option_row, shared), *model]
    paths = {option.path for option in options_of(RunSettings)}
    for file in filter(trains, RECIPES):
        cls = settings_of(file)
        own = [option for option in options_of(cls) if option.path not in paths]
        parts += ["", f"## {file.stem}", "", *changed_defaults(file, cls), *HEAD, *map(option_row, own)]
    return "\n".join(parts)


HEAD = ("| option | values | default | meaning |", "|---|---|---|---|")


def option_row(option: Any) -> str:
    """One row of the table of options."""
    from zoo.training.parse import _expected, _show

    values = _expected(option.kind).replace("|", "\\|")
    return f"| `{option.path}` | {values} | {_show(option.default) or '-'} | {option.meaning} |"


def changed_defaults(recipe: Path, cls: type) -> Iterable[str]:
    """A sentence with what the YAML file of a recipe sets."""
    from zoo.training.parse import read_yaml, shortest

    values = read_yaml(ROOT / "configs" / f"{recipe.stem}.yaml", cls)
    words = ", ".join(f"`{shortest(path, cls)}={value}`" for path, value in values.items())
    return (f"`configs/{recipe.stem}.yaml` sets {words}.", "") if words else ()


TABLES: dict[str, tuple[Path, Callable[[], str]]] = {
    "models": (REFERENCE / "models.md", models),
    "kinds": (REFERENCE / "attention_kinds.md", kinds),
    "recipes": (REFERENCE / "recipes.md", recipes),
    "options": (REFERENCE / "options.md", options),
}


def section(name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- {name}: python tests/tables.py --write -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def written(name: str) -> str:
    """The table as it stands on its page."""
    file = TABLES[name][0]
    found = section(name).search(file.read_text())
    assert found, f"{file} has no section for the table {name!r}"
    return found[2].strip()


def main(names: Iterable[str]) -> None:
    for name in names:
        file, make = TABLES[name]
        table = make()
        file.write_text(section(name).sub(lambda m, table=table: f"{m[1]}\n{table}\n\n{m[3]}", file.read_text()))


if __name__ == "__main__":
    if sys.argv[1:2] != ["--write"] or not TABLES.keys() >= set(sys.argv[2:]):
        sys.exit(f"usage: python tests/tables.py --write [NAME ...]; the names are {', '.join(TABLES)}")
    main(sys.argv[2:] or TABLES)
