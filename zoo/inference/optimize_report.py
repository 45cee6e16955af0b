"""The report of `zoo.optimize`: what computes each part of the model, how fast it was, and the file that pins it."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.inference.kernel_choice import Choices, Seconds
from zoo.inference.optimized_parts import PLAIN, Part
from zoo.models.load_report import listed
from zoo.utils.arguments import check_path
from zoo.utils.atomic import write_atomic
from zoo.utils.errors import LoadError, check_keys, did_you_mean
from zoo.utils.escape import printable
from zoo.utils.files import read_json

FORMAT = 1
NUMBER = re.compile("[1-9][0-9]{0,8}")
KEYS = ("format", "dtype", "rows", "machine", "choices")


@dataclass
class OptimizeReport:
    """How `zoo.optimize` computes each part of a model. Prints as a table.

    dtype, rows: for which it was chosen. machine: on which it was measured. choices: {part: {number of rows:
    candidate}}, where "plain" is the part as created. seconds: {part: {number of rows: {candidate: seconds}}}, empty if
    the choices come from a file. layers: how often each part occurs. unoptimized: linear layers that are called
    unchanged, because they have hooks, adapters or shards.

    compiled: whether blocks are compiled, or why not. graphs: {method and shapes of a call: whether it is a CUDA graph,
    or why not}, which fills as the model is called. quantized: sizes and accuracy of int8 weights. approximated: what
    is not computed exactly, or why it is. Only `choices` are saved.
    """

    dtype: str
    rows: str
    machine: str
    choices: Choices
    seconds: Seconds = field(default_factory=dict)
    layers: dict[str, int] = field(default_factory=dict)
    unoptimized: list[str] = field(default_factory=list)
    source: str = "measured"
    compiled: str = ""
    graphs: dict[str, str] = field(default_factory=dict)
    quantized: str = ""
    approximated: str = ""

    def save(self, path: str | Path) -> None:
        """Write the choices to a JSON file, for `zoo.optimize(model, choices=path)`."""
        choices = {key: {str(rows): name for rows, name in chosen.items()} for key, chosen in self.choices.items()}
        values = (FORMAT, self.dtype, self.rows, self.machine, choices)
        write_atomic(check_path("path", path), json.dumps(dict(zip(KEYS, values, strict=True)), indent=2) + "\n")

    def speed(self, key: str, rows: int) -> float | None:
        """How many times faster a part is than as created; None if it was not measured."""
        times = self.seconds.get(key, {}).get(rows)
        return None if times is None else times[PLAIN] / times[self.choices[key][rows]]

    def __str__(self) -> str:
        lines = [
            f"zoo.optimize, {self.dtype}, rows={self.rows!r}: {self.source} on {self.machine}",
            "| part | layers | rows | as created | computed by | speed |",
            "|---|---|---|---|---|---|",
        ]
        for key, chosen in self.choices.items():
            for rows, name in chosen.items():
                speed, created = self.speed(key, rows), "-"
                if speed is not None:
                    created = f"{1e3 * self.seconds[key][rows][PLAIN]:.3g} ms"
                cells = (key, self.layers.get(key, "-"), rows, created, name, "-" if speed is None else f"{speed:.2f}x")
                lines.append("| " + " | ".join(map(str, cells)) + " |")
        lines += [line for line in (self.quantized, self.approximated, self.compiled) if line]
        lines += [f"{call}: {what}" for call, what in self.graphs.items()]
        if self.unoptimized:
            lines.append(f"not optimized, because not plain nn.Linear layers: {listed(self.unoptimized)}")
        return printable("\n".join(lines), keep="\n")


def read_choices(source: Any, parts: Mapping[str, Part], dtype: str, rows: str) -> OptimizeReport:
    """The choices of a file of `OptimizeReport.save`, or of a report, for a model with these parts.

    Raises LoadError, naming the entry, if they are those of another model, dtype or setting of `rows`, or name a
    candidate that does not exist or cannot be used on this machine.
    """
    if isinstance(source, OptimizeReport):
        what, report = "the report", source
    else:
        what = str(check_path("choices", source))
        report = _read_report(what)
    again = "optimize without choices=, and save model.optimize_report again"
    for name, expected in (("dtype", dtype), ("rows", rows)):
        if (value := getattr(report, name)) != expected:
            raise LoadError(f"{what} has choices for {name}={value!r}, expected {expected!r}: {again}")
    for key in report.choices.keys() - parts.keys():
        raise LoadError(f"{what} is of another model: this one has no part {key!r}{did_you_mean(key, parts)}; {again}")
    for key, part in parts.items():
        if key not in report.choices:
            raise LoadError(f"{what} is of another model: it has no choice for the part {key!r}; {again}")
        chosen = report.choices[key]
        if set(chosen) != set(part.row_counts):
            raise LoadError(
                f"{what} has choices for {', '.join(map(str, chosen)) or 'no'} rows of {key!r}, expected "
                f"{', '.join(map(str, part.row_counts))}: {again}"
            )
        for name in chosen.values():
            if name not in part.candidates:
                raise LoadError(
                    f"{what} chooses {name!r} for {key!r}, which does not exist or cannot be used on this machine; "
                    f"candidates here: {', '.join(part.candidates)}. To choose among them, {again}"
                )
    choices = {key: {count: report.choices[key][count] for count in part.row_counts} for key, part in parts.items()}
    return OptimizeReport(dtype, rows, report.machine, choices, source=f"choices of {what}, measured")


def _read_report(path: str) -> OptimizeReport:
    """The report in a file, its structure checked."""
    values = read_json(path)
    check_keys(path, values, KEYS)
    if values["format"] != FORMAT:
        raise LoadError(f"{path} has format {values['format']!r}, this version of zoo reads {FORMAT}")
    choices: Choices = {}
    table = values["choices"] if isinstance(values["choices"], dict) else {"choices": values["choices"]}
    for key, chosen in table.items():
        valid = isinstance(chosen, dict) and all(NUMBER.fullmatch(n) and isinstance(c, str) for n, c in chosen.items())
        if not valid:
            raise LoadError(
                f"{path}: {key!r} is {chosen!r:.100}, expected a candidate by number of rows: {{'8': 'plain'}}"
            )
        choices[key] = {int(rows): name for rows, name in chosen.items()}
    return OptimizeReport(str(values["dtype"]), str(values["rows"]), str(values["machine"]), choices)
