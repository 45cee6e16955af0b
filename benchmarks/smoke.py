"""Whether every benchmark runs: each in its smallest size, by `--smoke`, must end well and print a table.

    python benchmarks/smoke.py [NAME ...]

Also, what measures.yaml reads must be recorded: the candidates and values of each command. The times that it prints are
those of processes, most of which goes to imports. Exit status: 1 if a benchmark fails.
"""

import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measures import HERE, ROOT, environment, read_measures

NO_BENCHMARKS = ("_measure.py", "_gpu_table.py", "_text_lm.py", "measures.py", "smoke.py")
OPTIONS = {
    "attack.py": ["--help"],
    "gpu.py": ["--smoke"],
    "mutants.py": ["--check"],
    "plan_time.py": ["--smoke"],
}  # they record nothing
SECONDS = 300
SKIPPED = 77  # exit status of a benchmark whose data or weights are not here, as in automake


def problems(script: Path, recorded: Path) -> list[str] | str:
    """What is wrong with a benchmark; or, as a str, why it cannot run here."""
    command = [sys.executable, str(script), *OPTIONS.get(script.name, ["--smoke"])]
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment(str(recorded)), capture_output=True, text=True,
                              timeout=SECONDS)  # fmt: skip
    except subprocess.TimeoutExpired:
        return [f"no end after {SECONDS} s"]
    if done.returncode == SKIPPED:
        return done.stderr.strip()
    if done.returncode:
        return [f"exit status {done.returncode}: {done.stderr.strip()[-600:]}"]
    if script.name in OPTIONS:
        return []
    found = [] if re.search(r"^\|(---\|)+$", done.stdout, re.MULTILINE) else ["printed no table"]
    lines = [json.loads(line) for line in recorded.read_text().splitlines()]
    names = {name for line in lines for name in line["values"]} | {line["title"] for line in lines}
    for measure in read_measures().values():
        if measure["command"].split()[0] == script.name:
            for _, *candidates in measure["values"]:
                found += [f"did not record {name!r} of measures.yaml" for name in candidates if name not in names]
    return list(dict.fromkeys(found))


def main(names: list[str]) -> int:
    scripts = [file for file in sorted(HERE.glob("*.py")) if file.name not in NO_BENCHMARKS]
    if unknown := set(names) - {file.stem for file in scripts}:
        print(f"there is no benchmark {sorted(unknown)[0]}", file=sys.stderr)
        return 2
    wrong: dict[str, list[str]] = {}
    print("| benchmark | result | seconds |\n|---|---|---|", flush=True)
    for script in scripts:
        if names and script.stem not in names:
            continue
        started = time.perf_counter()
        with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
            found = problems(script, Path(file.name))
        wrong[script.name] = [] if isinstance(found, str) else found
        result = f"skipped: {found}" if isinstance(found, str) else "FAILED" if found else "ok"
        print(f"| {script.name} | {result} | {time.perf_counter() - started:.0f} |", flush=True)
    for name, texts in wrong.items():
        for text in texts:
            print(f"\n{name}: {text}")
    return int(any(wrong.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
