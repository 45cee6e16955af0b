"""`metrics.csv`: one row per logged step, without duplicates after a kill and resume. Torch-free."""

import csv
import io
import os
from pathlib import Path


class MetricsTable:
    """A CSV file with one row per step. Metrics of the same step share a row; new metrics add columns.

    Only the last row is rewritten, so the cost per row does not grow with the length of the run.
    """

    def __init__(self, file: Path):
        self.file = file
        self.columns: list[str] = ["step"]
        self._last: dict[str, str] = {}
        self._last_starts = 0
        self._read()

    def add(self, step: int, metrics: dict[str, float]) -> None:
        """Write metrics to the row of a step, which must be the last row or a new one."""
        same = self._last.get("step") == str(step)
        row = (self._last if same else {"step": str(step)}) | {name: f"{value:.9g}" for name, value in metrics.items()}
        new = [name for name in row if name not in self.columns]
        if new or not self.file.exists():
            kept = [old for old in self.rows() if old["step"] != str(step)]
            self.columns += new
            self._rewrite([*kept, row])
            return
        with open(self.file, "r+b") as handle:
            if same:
                handle.seek(self._last_starts)
                handle.truncate()
            else:
                self._last_starts = handle.seek(0, os.SEEK_END)
            handle.write(self._line(row))
        self._last = row

    def cut(self, step: int) -> None:
        """Drop the rows after a step, which a resumed run will write again."""
        if not self.file.exists():
            return
        rows = [row for row in self.rows() if int(row["step"]) <= step]
        if rows:
            self._rewrite(rows)
        else:
            self.file.unlink()
            self.columns, self._last, self._last_starts = ["step"], {}, 0

    def rows(self) -> list[dict[str, str]]:
        """All rows; missing values are empty strings. An incomplete last line (after a kill) is skipped."""
        if not self.file.exists():
            return []
        text = self.file.read_text()
        rows = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]))
        return [row for row in rows if row["step"].isdigit() and None not in row.values()]

    def _read(self) -> None:
        if rows := self.rows():
            self.columns = list(rows[0])
            self._rewrite(rows)

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        lines = [self._line(row) for row in rows]
        content = self._line({name: name for name in self.columns}) + b"".join(lines)
        part = self.file.with_name(f".{self.file.name}.part")
        self.file.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content)
        os.replace(part, self.file)
        self._last, self._last_starts = rows[-1], len(content) - len(lines[-1])

    def _line(self, row: dict[str, str]) -> bytes:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow([row.get(name, "") for name in self.columns])
        return text.getvalue().encode()
