"""The runs of a scaling law: size, tokens and loss of each, from a sweep or a table."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo.utils.errors import did_you_mean

COLUMNS = ("size", "parameters", "tokens", "loss", "seed", "seconds", "failure")
_NEEDED = ("parameters", "tokens", "loss")


class ScalingError(ValueError):
    """A sweep, a table of runs or a fit that does not work; the message says what to change."""


@dataclass(frozen=True)
class ScalingRun:
    """One run of a sweep, or one row of a table.

    Attributes:
        size: Name of the size.
        parameters, tokens: Parameters of the blocks, and tokens trained on.
        loss: Loss on held-out text in nats per token; NaN if the run diverged or failed.
        seed: Seed of the run.
        seconds: Seconds of training, if known.
        failure: Why there is no loss.
    """

    size: str
    parameters: int
    tokens: int
    loss: float
    seed: int = 0
    seconds: float | None = None
    failure: str = ""

    @property
    def flops(self) -> float:
        """Training FLOPs, 6 N D: the multiplications and additions of the blocks' weights alone."""
        return 6.0 * self.parameters * self.tokens

    @property
    def name(self) -> str:
        """The run in words."""
        return f"size {self.size}, {self.tokens:,} tokens, seed {self.seed}"


def write_runs(runs: Sequence[ScalingRun]) -> str:
    """The runs as a table in CSV, which `read_runs` reads."""
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(COLUMNS)
    for run in runs:
        seconds = "" if run.seconds is None else f"{run.seconds:.1f}"
        table.writerow([run.size, run.parameters, run.tokens, run.loss, run.seed, seconds, run.failure])
    return out.getvalue()


def read_runs(file: Path) -> list[ScalingRun]:
    """Runs from a table in CSV with the columns parameters, tokens and loss, and size, seed, seconds if you like.

    Other columns are not read.
    Parameters are those of the blocks, without embeddings, positions and output layer; the loss is that of held-out
    text in nats per token. An empty loss, or nan, is a run that diverged. Without names the sizes are the numbers of
    parameters.

    Raises: ScalingError for a file that cannot be read, a missing column, or a value that is not a number.
    """
    try:
        with open(file, encoding="utf-8-sig", newline="") as lines:
            rows = list(csv.DictReader(lines, skipinitialspace=True))
    except OSError as error:
        raise ScalingError(f"{file}: {error.strerror}; expected a table of runs") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ScalingError(f"{file} is not a table in CSV: {error}") from None
    names = [name for name in (rows[0] if rows else {}) if name is not None]
    if missing := [name for name in _NEEDED if name not in names]:
        raise ScalingError(f"{file}: no column {missing[0]!r}; expected {', '.join(_NEEDED)}, got "
                           f"{', '.join(names) or 'no rows'}{did_you_mean(missing[0], names)}")  # fmt: skip
    return [_read_row(f"{file}, row {number}", row) for number, row in enumerate(rows, 2)]


def sizes_of(runs: Sequence[ScalingRun]) -> list[str]:
    """Names of the sizes, the smallest first."""
    sizes: dict[str, int] = {}
    for run in runs:
        if sizes.setdefault(run.size, run.parameters) != run.parameters:
            raise ScalingError(f"size {run.size} has {sizes[run.size]:,} and {run.parameters:,} parameters in "
                               f"different runs: expected one number for each size")  # fmt: skip
    return sorted(sizes, key=lambda name: sizes[name])


def _read_row(where: str, row: dict[str, str]) -> ScalingRun:
    def number(name: str, default: float) -> float:
        text = (row.get(name) or "").strip()
        try:
            return float(text.replace("_", "")) if text else default
        except ValueError:
            raise ScalingError(f"{where}: {name}={text!r}: expected a number") from None

    parameters, tokens = number("parameters", 0.0), number("tokens", 0.0)
    for name, value in (("parameters", parameters), ("tokens", tokens)):
        if not (math.isfinite(value) and value >= 1):
            raise ScalingError(f"{where}: {name}={row.get(name)!r}: expected a number of at least 1")
    loss, failure = number("loss", math.nan), (row.get("failure") or "").strip()
    if not math.isfinite(loss):
        failure = failure or "diverged"
    seconds, seed = number("seconds", math.nan), number("seed", 0.0)
    if not seed.is_integer():
        raise ScalingError(f"{where}: seed={row.get('seed')!r}: expected a whole number")
    return ScalingRun((row.get("size") or "").strip() or f"{parameters:.0f}", round(parameters), round(tokens), loss,
                      int(seed), None if math.isnan(seconds) else seconds, failure)  # fmt: skip
