"""The table of measurements on CPUs in docs/figures.md: a row for each measure, a column for each machine.

    python benchmarks/measures.py --run            run all benchmarks on this machine, keep the values, write the table
    python benchmarks/measures.py --run --only ast,vit
    python benchmarks/measures.py --run --machine NAME    into results/NAME.yaml, whatever the processor is called
    python benchmarks/measures.py --write          write the table from the values that are kept

measures.yaml has the measures: text, command, target, and where the values are in what the command records. Values are
kept in results/<machine>.yaml, one file a machine: a run adds its own, or replaces the measures that it has measured.
Run it on an idle machine: all benchmarks take about an hour on two cores. Exit status: 1 if a benchmark fails. What a
GPU is measured by is in gpu.py.
"""

import argparse
import datetime
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
HERE = ROOT / "benchmarks"
PAGE = ROOT / "docs" / "figures.md"
RESULTS = HERE / "results"
BEGIN, END = "<!-- benchmarks: python benchmarks/measures.py --write -->", "<!-- end -->"
MISSING = "not measured"
Measures = dict[str, dict[str, Any]]
Records = list[dict[str, Any]]


def read_measures() -> Measures:
    """{name: measure} with a unit each, in the order of the table."""
    measures = yaml.safe_load((HERE / "measures.yaml").read_text())
    return {name: {"unit": "x"} | measure for name, measure in measures.items()}


def read_results(device: str = "cpu") -> list[dict[str, Any]]:
    """The machines, in alphabetical order of their files. device: `cpu`, or `cuda` for what benchmarks/gpu.py keeps."""
    machines = [yaml.safe_load(file.read_text()) for file in sorted(RESULTS.glob("*.yaml"))]
    return [machine for machine in machines if machine.get("device", "cpu") == device]


# --- measuring --------------------------------------------------------------------------------------------------------


def run(measures: Measures) -> tuple[Records, list[str]]:
    """(what the benchmarks of these measures record, commands that failed); each command runs once, beside nothing."""
    records: Records = []
    failed = []
    for command in dict.fromkeys(measure["command"] for measure in measures.values()):
        script, *options = shlex.split(command)
        with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
            done = subprocess.run([sys.executable, str(HERE / script), *options], cwd=ROOT, env=environment(file.name))
            if done.returncode:
                failed.append(f"{command} (exit status {done.returncode})")
            for line in Path(file.name).read_text().splitlines():
                records.append({"command": command} | json.loads(line))
    return records, failed


def environment(results: str) -> dict[str, str]:
    """The environment of a benchmark of this checkout: one thread, unless it sets more."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(paths), "ZOO_BENCHMARK_RESULTS": results,
        "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
    }  # fmt: skip


def value_of(records: Records, command: str, unit: str, place: Sequence[str]) -> float:
    """A value of a measure. Raises KeyError if the benchmark did not record it."""
    title, name, *baseline = place
    for record in records:
        values = record["values"]
        if (record["command"], record["title"]) != (command, title) or name not in values:
            continue
        if unit == "1/":
            return values["baseline"] / values[name]
        if unit != "x":
            return values[name]
        first = values[baseline[0] if baseline else next(iter(values))]
        return statistics.median(base / own for base, own in zip(first, values[name], strict=True))
    raise KeyError(f"{command} recorded no value of {name!r} in {title!r}")


def keep(measures: Measures, records: Records, failed: Iterable[str], machine: str = "") -> Path | None:
    """Write the measured values to the file of this machine; None if nothing was measured."""
    if not records:
        return None
    hardware, versions = records[-1]["machine"].split(", Python ")
    file = RESULTS / f"{machine or re.sub(r'[^a-z0-9]+', '_', hardware.lower()).strip('_')}.yaml"
    kept: dict[str, Any] = {"column": hardware.partition(",")[0], "machine": hardware, "values": {}}
    if file.exists():
        kept |= yaml.safe_load(file.read_text())
    kept["versions"] = f"Python {versions}"
    today, commands = datetime.date.today(), [text.partition(" (")[0] for text in failed]
    for name, measure in measures.items():
        if measure["command"] in commands or not any(r["command"] == measure["command"] for r in records):
            continue
        values = [value_of(records, measure["command"], measure["unit"], place) for place in measure["values"]]
        kept["values"][name] = {"date": today, "values": [float(f"{value:.3g}") for value in values]}
    RESULTS.mkdir(exist_ok=True)
    file.write_text(yaml.safe_dump(kept, sort_keys=False, width=1000, default_flow_style=None))
    return file


# --- the table --------------------------------------------------------------------------------------------------------


def shown(value: float | None, unit: str) -> str:
    """`2.14x`, `1/12`, `0.07 s`."""
    if value is None:
        return MISSING
    if unit == "x":
        return f"{value:g}x"
    return f"1/{value:.0f}" if unit == "1/" else f"{value:g} {unit}"


def cell(measure: dict[str, Any], measured: dict[str, Any] | None) -> str:
    """The values of a machine; bold are those that fall short of the target."""
    if measured is None:
        return MISSING
    unit, values = measure["unit"], measured["values"]
    targets = measured.get("target") or measure["target"]
    parts = []
    for value, target in zip(values, targets, strict=False):
        short = None not in (value, target) and (value < target if unit in ("x", "1/") else value > target)
        parts.append(f"**{shown(value, unit)}**" if short else shown(value, unit))
    text = " / ".join(parts)
    if own := measured.get("target"):
        text += f" (target {' / '.join('-' if t is None else shown(t, unit) for t in own)})"
    return text


def target_of(measure: dict[str, Any]) -> str:
    """The target, once if it is the same for all values."""
    texts = ["-" if each is None else shown(each, measure["unit"]) for each in measure["target"]]
    return texts[0] if len(set(texts)) == 1 else " / ".join(texts)


def table(measures: Measures, machines: list[dict[str, Any]]) -> str:
    """The table, and a line for each machine."""
    head = ["measure", *(machine["column"] for machine in machines), "target", "`python benchmarks/...`"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, measure in measures.items():
        cells = [cell(measure, machine["values"].get(name)) for machine in machines]
        row = [measure["text"], *cells, target_of(measure), f"`{measure['command']}`"]
        lines.append("| " + " | ".join(row) + " |")
    lines += ["", "Bold values fall short of the target.", ""]
    for machine in machines:
        dates = sorted(str(each["date"]) for each in machine["values"].values())
        span = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
        notes = f" {machine['notes']}" if machine.get("notes") else ""
        lines.append(f"- **{machine['column']}**: {machine['machine']}; {machine['versions']}; {span}.{notes}")
    return "\n".join(lines)


def written(page: str, begin: str = BEGIN) -> str:
    """What the page has between the two marks. Raises ValueError if they are not there."""
    found = re.search(f"{re.escape(begin)}\n(.*?)\n{re.escape(END)}", page, re.DOTALL)
    if found is None:
        raise ValueError(f"{PAGE.name} has no lines {begin} and {END}: put them where the table belongs")
    return found[1]


def put(page: Path, begin: str, new: str) -> None:
    """Put a table into the page, between its marks."""
    text = page.read_text()
    page.write_text(text.replace(f"{begin}\n{written(text, begin)}\n{END}", f"{begin}\n{new}\n{END}"))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="store_true", help="measure on this machine")
    parser.add_argument("--write", action="store_true", help="write the table of the values that are kept")
    parser.add_argument("--only", default="", metavar="A,B", help="names of measures (default: all)")
    parser.add_argument("--machine", default="", metavar="NAME", help="keep the values in results/NAME.yaml")
    options = parser.parse_args(argv)
    measures = read_measures()
    only = [name for name in options.only.split(",") if name]
    if unknown := [name for name in only if name not in measures]:
        parser.error(f"--only {unknown[0]}: expected some of {', '.join(measures)}")
    if not (options.run or options.write):
        parser.error("expected --run or --write")
    failed: list[str] = []
    if options.run:
        records, failed = run({name: m for name, m in measures.items() if not only or name in only})
        print(f"\nkept in {keep(measures, records, failed, options.machine)}")
    put(PAGE, BEGIN, table(read_measures(), read_results()))
    for text in failed:
        print(f"failed: {text}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
