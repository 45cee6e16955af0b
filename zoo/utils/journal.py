"""A journal of finished work beside the file that it is for: a run that is killed resumes at what is done.

The first line of journal.jsonl is the plan: what the work depends on. Each line after it is a piece of finished work.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from zoo.utils.atomic import write_atomic

UNFINISHED = ".unfinished"


def journal_folder(out: Path) -> Path:
    """The hidden folder beside a file that is not finished."""
    return out.with_name(f".{out.name}{UNFINISHED}")


def changed_options(former: Any, plan: dict[str, Any]) -> list[str]:
    """Names of the options with another value; one that an earlier version did not have is None or False."""
    former = former if isinstance(former, dict) else {}
    names = dict.fromkeys([*plan, *former])
    return [name for name in names if _absent(former.get(name)) != _absent(plan.get(name))]


def _absent(value: Any) -> Any:
    """None for False; 0 is a value."""
    return None if value is False else value


class Journal:
    """The journal in the folder `path`, which is `journal_folder` of the unfinished file.

    A line that was cut off by a kill is not counted. Subclasses read lines in `restore`, which returns False to start
    again.
    """

    def __init__(self, path: Path, plan: dict[str, Any]) -> None:
        self.path, self.plan = path, plan
        self._lines: list[str] = []

    @property
    def file(self) -> Path:
        return self.path / "journal.jsonl"

    def former_plan(self) -> dict[str, Any] | None:
        """The plan of unfinished work; None if nothing is done, or cannot be read."""
        entries = self._entries()
        return entries[0] if len(entries) > 1 and isinstance(entries[0], dict) else None

    def changed(self, former: Any) -> list[str]:
        """Names of the options whose values in the plan of the finished work were others, so that it cannot be used."""
        return changed_options(former, self.plan)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Open the folder for this process alone, and read what is done. It is removed if the work is (`remove`)."""
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"{self.path} is a file, where unfinished work is to be kept: move it away")
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            with open(self.path / "lock", "a") as lock:
                self._lock(lock)
                entries = self._entries()
                if not entries or self.changed(entries[0]) or not self._restored(entries[1:]):
                    self.reset()
                    write_atomic(self.file, json.dumps(self.plan) + "\n")
                elif entries[0] != self.plan:  # the work that follows is done by the new one
                    _, rest = self.file.read_text().split("\n", 1)
                    write_atomic(self.file, json.dumps(self.plan) + "\n" + rest)
                text = self.file.read_bytes()
                os.truncate(self.file, text.rfind(b"\n") + 1)
                with open(self.file, "a") as self._log:
                    yield
        finally:
            if not self.file.exists():
                for entry in (self.path / "lock", *self.path.glob(".*.part")):
                    entry.unlink(missing_ok=True)
                with suppress(OSError):  # files that are not ours remain, and their folder
                    self.path.rmdir()

    def reset(self) -> None:
        """Start without finished work."""

    def restore(self, entries: list[Any]) -> bool:
        """Take over the finished work of these lines; False if it cannot be used."""
        raise NotImplementedError

    def _restored(self, entries: list[Any]) -> bool:
        try:
            return self.restore(entries)
        except (ValueError, TypeError, AttributeError, KeyError):  # damaged: the work is done again
            return False

    def _entries(self) -> list[Any]:
        try:
            lines = self.file.read_text().split("\n")[:-1] if self.file.exists() else []
            return [json.loads(line) for line in lines]
        except ValueError:
            return []

    def _lock(self, lock: Any) -> None:
        try:
            import fcntl
        except ImportError:  # Windows has none: two processes at one file are then the user's affair
            return
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            out = self.path.with_name(self.path.name[1:].removesuffix(UNFINISHED))
            raise ValueError(f"another process is writing {out}: wait for it, or give another out=") from None

    def note_done(self, entry: Any) -> None:
        """A piece of finished work, written by the next `write`."""
        self._lines.append(json.dumps(entry))

    def write(self) -> None:
        """Write the lines that were added, in one piece."""
        if self._lines:
            self._log.write("\n".join(self._lines) + "\n")
            self._log.flush()
            self._lines = []

    def remove(self) -> None:
        """The work is done."""
        self.file.unlink(missing_ok=True)
