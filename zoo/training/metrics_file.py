"""`metrics.csv`: one row per step that was logged, none twice, whatever was killed and resumed. Torch-free."""

import csv
import io
import os
from pathlib import Path


class MetricsTable:
    """Rows keyed by `step`; figures that arrive for the same step share a row, new columns widen the file.

    Only the last row is ever rewritten, so a long run costs no more per row than a short one.
    """

    def __init__(self, file: Path):
        self.file = file
        self.columns: list[str] = ["step"]
        self._last: dict[str, str] = {}
        self._last_starts = 0
        self._read()

    def add(self, step: int, figures: dict[str, float]) -> None:
        """Write figures into the row of a step, which is the last one or a new one."""
        same = self._last.get("step") == str(step)
        row = (self._last if same else {"step": str(step)}) | {name: f"{value:.9g}" for name, value in figures.items()}
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
        """Drop the rows after a step: a resumed run writes them again."""
        if not self.file.exists():
            return
        rows = [row for row in self.rows() if int(row["step"]) <= step]
        if rows:
            self._rewrite(rows)
        else:
            self.file.unlink()
            self.columns, self._last, self._last_starts = ["step"], {}, 0

    def rows(self) -> list[dict[str, str]]:
        """All rows; a column without a figure at a step is an empty text. A line cut short by a kill is left out."""
        if not self.file.exists():
            return []
        text = self.file.read_text()
        whole = text[: text.rfind("\n") + 1]
        return [row for row in csv.DictReader(io.StringIO(whole)) if row["step"].isdigit() and None not in row.values()]

    def _read(self) -> None:
        if rows := self.rows():
            self.columns = list(rows[0])
            self._rewrite(rows)

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        lines = [self._line(row) for row in rows]
        whole = self._line({name: name for name in self.columns}) + b"".join(lines)
        part = self.file.with_name(f".{self.file.name}.part")
        self.file.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(whole)
        os.replace(part, self.file)
        self._last, self._last_starts = rows[-1], len(whole) - len(lines[-1])

    def _line(self, row: dict[str, str]) -> bytes:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow([row.get(name, "") for name in self.columns])
        return text.getvalue().encode()
