"""The tables of the README, made from the code. `python tests/tables.py --write` puts them there; a test compares."""

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"


def models() -> str:
    """One row per variant: parameters, what goes in, default source."""
    from zoo.models.registry import build, families
    from zoo.preprocessing.modality import MODALITIES, of_family

    rows = ["| name | parameters | input | published weights |", "|---|---|---|---|"]
    order = [*(record.family for record in MODALITIES.values()), "multimodal"]
    for family in sorted(families(), key=lambda family: order.index(family.modality)):
        modality = of_family(family.modality)
        for name, overrides in family.variants.items():
            config = family.config(**overrides)
            count = sum(p.numel() for p in build(family, config).parameters())
            source = family.sources.get(name, "").removeprefix("hf-hub:")
            towers = [MODALITIES[tower].describe(part) for tower, part in config.parts.items()]
            takes = modality.describe(config) if modality else "; ".join(towers)
            rows.append(f"| `{name}` | {count / 1e6:,.1f} M | {takes} | {f'`{source}`' if source else '-'} |")
    return "\n".join(rows)


def kinds() -> str:
    """One row per attention kind: what it can honor, found by trying."""
    from zoo.nn.conformance import table

    return table()


def recipes() -> str:
    """One row per recipe: the first line of its docstring."""
    rows = ["| command | what it trains |", "|---|---|"]
    for file in sorted((ROOT / "recipes").glob("*.py")):
        text = ast.get_docstring(ast.parse(file.read_text())) or ""
        rows.append(f"| `python recipes/{file.name}` | {text.splitlines()[0].rstrip('.')} |")
    return "\n".join(rows)


TABLES = {"models": models, "kinds": kinds, "recipes": recipes}


def section(name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- {name}: python tests/tables.py --write -->\n)(.*?)(\n<!-- end -->)", re.DOTALL)


def written(name: str) -> str:
    """The table as it stands in the README."""
    found = section(name).search(README.read_text())
    assert found, f"README.md has no section for the table {name!r}"
    return found[2]


def main() -> None:
    text = README.read_text()
    for name, make in TABLES.items():
        table = make()
        text = section(name).sub(lambda m, table=table: m[1] + table + m[3], text)
    README.write_text(text)


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("usage: python tests/tables.py --write")
    main()
