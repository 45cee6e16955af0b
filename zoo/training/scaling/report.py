"""`zoo scaling`: the runs of a sweep or a table, the fits of both laws, and what they predict."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.training.run_dir import write_text
from zoo.training.scaling.fit import Fit, Optimum, check_design, fit_law
from zoo.training.scaling.laws import LAWS
from zoo.training.scaling.parabola import Parabola, parabolas
from zoo.training.scaling.plot import figure_of
from zoo.training.scaling.runs import ScalingError, ScalingRun, read_runs, sizes_of, write_runs
from zoo.training.scaling.sweep import SWEEP_FILE, Sweep, read_sweep
from zoo.training.sweep.results import markdown_table, terminal_table
from zoo.utils.atomic import write_atomic
from zoo.utils.console import format_count

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

RUNS_FILE = "results.csv"


@dataclass(frozen=True)
class Prediction:
    """What a fit says about a run that it has not seen.

    Attributes:
        run: The run.
        law: Name of the law.
        loss, interval: The predicted loss, and the interval of the loss of one run.
        nearest: The run that one would otherwise go by: of the largest size of the fit, with the most tokens.
    """

    run: ScalingRun
    law: str
    loss: float
    interval: tuple[float, float]
    nearest: ScalingRun

    @property
    def error(self) -> float:
        """Relative error of the prediction."""
        return self.loss / self.run.loss - 1

    @property
    def nearest_error(self) -> float:
        """Relative error of taking the loss of `nearest` instead."""
        return self.nearest.loss / self.run.loss - 1

    def to_json(self) -> dict[str, Any]:
        """The prediction as plain values."""
        return {"size": self.run.size, "tokens": self.run.tokens, "seed": self.run.seed, "law": self.law,
                "loss": self.run.loss, "predicted": self.loss, "interval": self.interval, "error": self.error,
                "nearest_size": self.nearest.size, "nearest_tokens": self.nearest.tokens,
                "nearest_loss": self.nearest.loss, "nearest_error": self.nearest_error}  # fmt: skip


@dataclass
class ScalingReport:
    """Runs, fits, predictions; prints as tables.

    Attributes:
        runs: All runs, those that failed included.
        held_out: Names of the sizes that the fits have not seen.
        fits: {name of the law: its fit}.
        folder: Where `scaling.json`, `scaling.md`, `scaling.png` and `results.csv` are written.
        budgets: Training FLOPs to find the best size for.
    """

    runs: list[ScalingRun]
    held_out: list[str]
    fits: dict[str, Fit]
    folder: Path
    budgets: list[float] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether no run failed."""
        return not self.skipped

    @property
    def skipped(self) -> list[ScalingRun]:
        """Runs that failed and are left out."""
        return [run for run in self.runs if run.failure]

    @property
    def fitted(self) -> list[ScalingRun]:
        """The runs of the fits."""
        return [run for run in self.runs if run.size not in self.held_out and not run.failure]

    def predictions(self) -> list[Prediction]:
        """Of each held-out run by each law."""
        nearest = max(self.fitted, key=lambda run: (run.parameters, run.tokens, -run.seed))
        return [Prediction(run, name, fit.predict(run.parameters, run.tokens),
                           fit.prediction_interval(run.parameters, run.tokens), nearest)
                for run in self.runs if run.size in self.held_out and not run.failure
                for name, fit in self.fits.items()]  # fmt: skip

    def optima(self) -> dict[str, list[Optimum]]:
        """{law: the best size for each budget}."""
        return {name: [fit.optimum(budget) for budget in self.budgets] for name, fit in self.fits.items()}

    def parabolas(self) -> list[Parabola]:
        """One through the fitted runs of each budget of an IsoFLOP sweep, beside the laws."""
        return parabolas(self.fitted)

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {
            "runs": [vars(run) | {"loss": None if run.failure else run.loss, "flops": run.flops} for run in self.runs],
            "held_out": self.held_out,
            "fits": {name: fit.to_json() for name, fit in self.fits.items()},
            "predictions": [prediction.to_json() for prediction in self.predictions()],
            "optima": {name: [vars(each) for each in found] for name, found in self.optima().items()},
            "parabolas": [vars(each) | {"parameters": each.parameters if each.inside else None}
                          for each in self.parabolas()],
        }  # fmt: skip

    def write(self) -> None:
        """Write the files of the report to the folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / RUNS_FILE, write_runs(self.runs))
        write_text(self.folder / "scaling.json", json.dumps(self.to_json(), indent=2, allow_nan=False) + "\n")
        write_text(self.folder / "scaling.md", str(self) + "\n")
        figure = self.figure()
        write_atomic(self.folder / "scaling.png", lambda path: figure.savefig(path, format="png"))

    def figure(self) -> "Figure":
        """The plot of the runs with the fit of the first law, and with the parabolas of an IsoFLOP sweep."""
        return figure_of(self.runs, self.held_out, next(iter(self.fits.values())), self.parabolas())

    # --- tables -------------------------------------------------------------------------------------------------------

    def sections(self) -> list[tuple[str, list[str], list[list[str]]]]:
        """(title, head, rows) of each table."""
        found = [self._runs_table(), self._fits_table()]
        if predictions := self.predictions():
            found.append(_predictions_table(predictions))
        if self.parabolas():
            found.append(self._parabolas_table())
        if self.budgets:
            found.append(self._optima_table())
        return found

    def tables(self) -> "list[Table]":
        """The tables for a terminal."""
        found = self.sections()
        return [terminal_table(title, self.notes() if title is found[-1][0] else "", head, rows)
                for title, head, rows in found]  # fmt: skip

    def __str__(self) -> str:
        """The tables in Markdown."""
        blocks = ["\n".join(markdown_table(*section)) for section in self.sections()]
        return "\n\n".join([*blocks, self.notes()])

    def notes(self) -> str:
        """What the tables leave out, one line each."""
        lines = ["parameters are those of the blocks, without embeddings, positions and output layer; FLOPs are 6 N D"]
        for name, fit in self.fits.items():
            if fit.at_bounds:
                lines.append(f"{name}: {', '.join(fit.at_bounds)} at the end of the searched range: the runs do not "
                             f"determine it")  # fmt: skip
        lines += [f"left out: {run.name}: {run.failure}" for run in self.skipped]
        return "\n".join([*lines, f"tables and plot in {self.folder}"])

    def _runs_table(self) -> tuple[str, list[str], list[list[str]]]:
        head = ["size", "parameters", "tokens", "FLOPs", "loss", "seconds",
                *(f"{name} residual" for name in self.fits)]  # fmt: skip
        rows = []
        for run in self.runs:
            seconds = "-" if run.seconds is None else f"{run.seconds:.0f}"
            loss = run.failure or f"{run.loss:.4f}"
            residuals = ["-" if run.failure else f"{run.loss / fit.predict(run.parameters, run.tokens) - 1:+.2%}"
                         for fit in self.fits.values()]  # fmt: skip
            size = run.size + (" (held out)" if run.size in self.held_out else "")
            rows.append([size, f"{run.parameters:,}", format_count(run.tokens), f"{run.flops:.2e}", loss, seconds,
                         *residuals])  # fmt: skip
        return f"{len(self.runs)} runs", head, rows

    def _fits_table(self) -> tuple[str, list[str], list[list[str]]]:
        rows = []
        for fit in self.fits.values():
            intervals = fit.intervals
            for name, value in fit.parameters.items():
                low, high = intervals[name]
                rows.append([fit.law.name, name, f"{value:.4g}", f"{low:.4g} to {high:.4g}"])
        fit = next(iter(self.fits.values()))
        spreads = ", ".join(f"{name} {each.spread:.2%}" for name, each in self.fits.items())
        title = f"fits to {len(self.fitted)} runs; standard deviation of a run from the fit: {spreads}"
        return title, ["law", "parameter", "value", f"{fit.level:.0%} interval"], rows

    def _parabolas_table(self) -> tuple[str, list[str], list[list[str]]]:
        rows = []
        for each in self.parabolas():
            own = [format_count(round(each.parameters)), f"{each.loss(each.parameters):.4f}"] if each.inside else [
                "none between its sizes", "-"]  # fmt: skip
            best = [_best_size(fit, each.budget) for fit in self.fits.values()]
            rows.append([f"{each.budget:.3g}", str(each.runs), *own, *best])
        head = ["FLOPs", "runs", "minimum of the parabola", "its loss", *(f"best of {name}" for name in self.fits)]
        return "best size for the budgets of the sweep: a parabola through the runs of each, and the laws", head, rows

    def _optima_table(self) -> tuple[str, list[str], list[list[str]]]:
        rows = [[name, f"{best.budget:.3g}", format_count(round(best.parameters)), _range(best.parameters_interval),
                 format_count(round(best.tokens)), _range(best.tokens_interval), f"{best.loss:.4f}"]
                for name, found in self.optima().items() for best in found]  # fmt: skip
        head = ["law", "FLOPs", "best parameters", "interval", "best tokens", "interval", "loss"]
        return "best size and tokens for a budget", head, rows


def _predictions_table(predictions: Sequence[Prediction]) -> tuple[str, list[str], list[list[str]]]:
    rows = []
    for each in predictions:
        low, high = each.interval
        rows.append([f"{each.run.size}, {format_count(each.run.tokens)} tokens", each.law, f"{each.run.loss:.4f}",
                     f"{each.loss:.4f}", f"{low:.4f} to {high:.4f}", f"{each.error:+.2%}",
                     f"{each.nearest_error:+.2%}"])  # fmt: skip
    nearest = predictions[0].nearest
    head = ["held-out run", "law", "loss", "predicted", "interval", "error",
            f"error of the loss of {nearest.size} at {format_count(nearest.tokens)}"]  # fmt: skip
    return "predictions of runs that the fits have not seen", head, rows


def _best_size(fit: Fit, budget: float) -> str:
    """The best size of a law for a budget; "-" where the runs do not determine it."""
    try:
        return format_count(round(fit.optimum(budget).parameters))
    except ScalingError:
        return "-"


def _range(interval: tuple[float, float]) -> str:
    return " to ".join(format_count(round(value)) for value in interval)


def report_of(runs: Sequence[ScalingRun], held_out: Sequence[str], folder: Path, *, budgets: Sequence[float] = (),
              skip_failed: bool = False, samples: int = 200, level: float = 0.95) -> ScalingReport:  # fmt: skip
    """Fit both laws to the runs of the sizes that are not held out.

    Args:
        runs: The runs.
        held_out: Names of sizes that are predicted, not fitted.
        folder: Folder of the report.
        budgets: Training FLOPs to find the best size for.
        skip_failed: Leave out runs that diverged or failed; otherwise they are an error.
        samples, level: Bootstrap samples, and probability of the intervals.

    Raises: ScalingError for runs that failed, sizes that are not there, and runs that do not determine a law.
    """
    sizes = sizes_of(runs)
    if unknown := [name for name in held_out if name not in sizes]:
        raise ScalingError(f"no run of the held-out size {unknown[0]!r}; there are {', '.join(sizes) or 'none'}")
    failed = [run for run in runs if run.failure or not math.isfinite(run.loss)]
    if failed and not skip_failed:
        raise ScalingError(f"{failed[0].name}: {failed[0].failure or 'no finite loss'}; repeat the run with a lower "
                           f"learning rate, or leave such runs out with --skip-failed")  # fmt: skip
    marked = [replace(run, failure=run.failure or "no finite loss") if run in failed else run for run in runs]
    ordered = sorted(marked, key=lambda run: (run.parameters, run.tokens, run.seed))
    chosen = [run for run in ordered if not run.failure and run.size not in held_out]
    n, d, loss, names = ([getattr(run, name) for run in chosen] for name in ("parameters", "tokens", "loss", "name"))
    try:
        fits = {name: fit_law(law, n, d, loss, names=names, samples=samples, level=level) for name, law in LAWS.items()}
    except ScalingError as error:
        if not held_out:
            raise
        raise ScalingError(f"{error}. Held out: {', '.join(held_out)}; --held-out none fits all sizes") from None
    report = ScalingReport(ordered, list(held_out), fits, folder, list(budgets))
    report.optima()  # a budget that is not above 0 is an error before anything is written
    return report


def _check_planned(sweep: Sweep, held_out: Sequence[str]) -> None:
    """Raise ScalingError before the first run if the runs of a sweep could not determine the laws."""
    known = [size.name for size in sweep.sizes]
    if unknown := [name for name in held_out if name not in known]:
        raise ScalingError(f"the sweep has no size {unknown[0]!r} to hold out; its sizes are {', '.join(known)}")
    fitted = [(n, d) for name, n, d in sweep.planned() if name not in held_out]
    for law in LAWS.values():
        check_design(law, [n for n, _ in fitted], [d for _, d in fitted])


def scaling(source: str | Path, *, held_out: Sequence[str] | None = None, out: str | Path | None = None,
            budgets: Sequence[float] = (), skip_failed: bool = False, samples: int = 200,
            level: float = 0.95) -> ScalingReport:  # fmt: skip
    """Run or read a sweep, fit both laws, and write tables and plot.

    Args:
        source: The description of a sweep (.yaml), whose runs are done unless they are complete; a folder of such runs,
            as far as they are complete; or a table of runs (.csv), see `read_runs`.
        held_out: Names of sizes that are predicted, not fitted. Default: those of the description, for a table the
            largest; empty for none.
        out: Folder of the report, and of the runs that are done; default that of the sweep, for a table its folder.
        budgets, skip_failed, samples, level: As in `report_of`.

    Raises: ScalingError; ValueError for options that the recipe rejects; KeyboardInterrupt if a run is interrupted,
        which the same command resumes.
    """
    path, chosen = Path(source).expanduser(), Path(out) if out else None
    held: list[str] | None = None
    if path.suffix.lower() == ".csv":
        runs, folder = read_runs(path), chosen or path.parent
    elif path.is_dir():
        if not (path / SWEEP_FILE).is_file():
            raise ScalingError(f"{path} has no {SWEEP_FILE}: expected the folder of a sweep, which `zoo scaling "
                               f"SWEEP.yaml` makes, its description, or a table of runs (.csv)")  # fmt: skip
        sweep = read_sweep(path / SWEEP_FILE, path)
        runs, held, folder = sweep.read(), sweep.held_out, chosen or path
        if not runs:
            raise ScalingError(f"{path}: no run is complete yet; `zoo scaling SWEEP.yaml` runs them")
    else:
        sweep = read_sweep(path, chosen)
        _check_planned(sweep, sweep.held_out if held_out is None else held_out)
        runs, held, folder = sweep.run(), sweep.held_out, sweep.out
    there = sizes_of(runs)
    if held_out is None:  # of a folder whose largest runs are still to come, none is held out
        held_out = there[-1:] if held is None else [name for name in held if name in there]
    report = report_of(runs, held_out, folder, budgets=budgets, skip_failed=skip_failed, samples=samples, level=level)
    report.write()
    return report
