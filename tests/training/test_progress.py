"""The progress bar of a run: one bar over all steps in a terminal, a line per validation elsewhere."""

import re
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from zoo.training import progress as module
from zoo.training.callbacks import TrainingTimer
from zoo.training.expected_end import ExpectedEnd
from zoo.training.progress import ProgressBar
from zoo.utils import console as console_module
from zoo.utils.console import console, format_duration


class Line(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        loss = self.layer(batch).square().mean()
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: torch.Tensor, index: int) -> None:
        self.log_dict({"val_loss": 0.25, "other": 7.0})

    def test_step(self, batch: torch.Tensor, index: int) -> None:
        self.log("test_loss", 1.0)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(tmp_path: Path, steps: int, resume: Path | None = None) -> tuple[ProgressBar, L.Trainer]:
    """Train with 4 steps an epoch and a validation after each epoch, and save a checkpoint."""
    bar = ProgressBar(console(), TrainingTimer(2))
    options: dict[str, Any] = dict(accelerator="cpu", logger=False, enable_checkpointing=False, num_sanity_val_steps=0)
    trainer = L.Trainer(max_steps=steps, max_epochs=-1, callbacks=[bar, bar.timer], enable_model_summary=False,
                        default_root_dir=tmp_path, **options)  # fmt: skip
    trainer.fit(Line(), DataLoader(torch.ones(8, 1), 2), DataLoader(torch.ones(2, 1), 2), ckpt_path=resume)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    return bar, trainer


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")


def text_of(capsys: pytest.CaptureFixture[str]) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().out)


def test_one_bar_over_all_epochs(
    tmp_path: Path, terminal: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[int] = []
    metrics = ProgressBar.get_metrics
    monkeypatch.setattr(ProgressBar, "get_metrics", lambda *args: reads.append(1) or metrics(*args))  # type: ignore[func-returns-value]
    bar, trainer = fit(tmp_path, 10)
    text = text_of(capsys)
    last = text.rstrip().splitlines()[-1]
    assert re.search(r"step +━+ 10/10 .* train loss: 0\.\d{4}  val loss: 0\.2500", last), text
    assert "Epoch" not in text and "other" not in text and "step 4/10" not in text
    assert len(reads) < 10, "metrics are read at most four times a second, at validations, and at the end"
    assert bar.progress is not None and bar.progress.finished
    trainer.test(Line(), DataLoader(torch.ones(2, 1), 2), verbose=False)
    assert "Testing" in text_of(capsys)


def test_a_resumed_run_starts_at_its_step(tmp_path: Path, terminal: None, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tmp_path, 6)
    capsys.readouterr()
    bar, _ = fit(tmp_path, 10, tmp_path / "last.ckpt")
    assert "10/10" in text_of(capsys)
    assert bar.train_progress_bar._progress[0].completed == 1, "its speed is that of the steps after the sixth"


def test_lines_without_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    fit(tmp_path, 10)
    lines = capsys.readouterr().out.splitlines()
    found = [line for line in lines if re.fullmatch(r"step \d+/10  train loss \d\.\d{4}  val loss 0\.2500  \d s", line)]
    assert [line.split()[1] for line in found] == ["4/10", "8/10"]
    assert not any("━" in line for line in lines)


def test_durations() -> None:
    assert [format_duration(s) for s in (45, 720, 12_000)] == ["45 s", "12 min", "3 h 20 min"]


# --- long runs, with a clock that the steps advance -----------------------------------------------------------------


class SlowLine(Line):
    """A step takes `clock.step` seconds, a batch of a validation or test `clock.batch`."""

    def __init__(self, clock: Any) -> None:
        super().__init__()
        self.clock = clock

    def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        self.clock.now += self.clock.step
        return super().training_step(batch, index)

    def validation_step(self, batch: torch.Tensor, index: int) -> None:
        self.clock.now += self.clock.batch
        super().validation_step(batch, index)

    def test_step(self, batch: torch.Tensor, index: int) -> None:
        self.clock.now += self.clock.batch
        super().test_step(batch, index)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    clock = SimpleNamespace(now=0.0, step=10.0, batch=10.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now))

    class Day(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.fromtimestamp(clock.now + 12 * 3600)

    monkeypatch.setattr(console_module, "datetime", Day)
    monkeypatch.setenv("TZ", "UTC")
    return clock


def run_slowly(tmp_path: Path, clock: Any, steps: int, every: int, val_batches: int = 2,
               expected: float | None = None, budget: float | None = None) -> L.Trainer:  # fmt: skip
    bar = ProgressBar(console(), TrainingTimer(2), budget)
    bar.expected = expected
    trainer = L.Trainer(max_steps=steps, max_epochs=-1, callbacks=[bar, bar.timer], enable_model_summary=False,
                        default_root_dir=tmp_path, val_check_interval=every, check_val_every_n_epoch=None,
                        num_sanity_val_steps=0, accelerator="cpu", logger=False,
                        enable_checkpointing=False)  # fmt: skip
    trainer.fit(SlowLine(clock), DataLoader(torch.ones(8, 1), 2), DataLoader(torch.ones(2 * val_batches, 1), 2))
    return trainer


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    kept = ("step", "expected", "validating", "testing")
    return [line for line in text_of(capsys).splitlines() if line.startswith(kept)]


def minutes(line: str) -> int:
    """Minutes from 12:00 to the expected end in a line."""
    hours, rest = re.search(r"expected end (\d\d):(\d\d)", line).groups()  # type: ignore[union-attr]
    return (int(hours) - 12) * 60 + int(rest)


def test_a_line_a_minute_without_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str], clock: Any) -> None:
    run_slowly(tmp_path, clock, 60, 60, expected=620.0)
    found = lines(capsys)
    assert [line.split()[1] for line in found] == [f"{n}/60" for n in (*range(6, 61, 6), 60)]
    assert all("train loss" in line and "0.2 items/s" in line and "val loss" not in line for line in found[:-1])
    assert "val loss" in found[-1] and "expected" not in found[-1]
    assert {minutes(line) for line in found[:-2]} <= {10, 11}, "600 s of training, 20 s of validation and of test"


def test_fast_runs_print_nothing_more(tmp_path: Path, capsys: pytest.CaptureFixture[str], clock: Any) -> None:
    clock.step = clock.batch = 0.01
    run_slowly(tmp_path, clock, 60, 30, expected=0.6)
    assert [line.split()[1] for line in lines(capsys)] == ["30/60", "60/60"]


def test_long_validations_and_tests_print_their_batch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], clock: Any
) -> None:
    clock.step, clock.batch = 1.0, 25.0
    trainer = run_slowly(tmp_path, clock, 2, 2, val_batches=7, expected=400.0)
    trainer.test(SlowLine(clock), DataLoader(torch.ones(10, 1), 2), verbose=False)
    found = lines(capsys)
    assert found[:2] == ["validating: batch 3 of 7", "validating: batch 6 of 7"] and found[2].startswith("step 2/2")
    assert found[3:] == ["testing: batch 3 of 5"]


@pytest.mark.parametrize("expected", [60.0, 4000.0, None])
def test_a_wrong_estimate_is_corrected_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], clock: Any, expected: float | None
) -> None:
    clock.step = clock.batch = 4.0
    run_slowly(tmp_path, clock, 200, 100, expected=expected)
    (line,) = [line for line in lines(capsys) if line.startswith("expected")]
    assert minutes(line) == 13 and "(in about 13 min)" in line
    assert (", not 1" in line) == (expected is not None)


def test_a_good_estimate_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str], clock: Any) -> None:
    run_slowly(tmp_path, clock, 60, 20, expected=700.0)
    assert not [line for line in lines(capsys) if line.startswith("expected")]


def test_the_expected_end_follows_the_speed(tmp_path: Path, capsys: pytest.CaptureFixture[str], clock: Any) -> None:
    """Validations take most of the time, which the first of them shows."""
    clock.step, clock.batch = 1.0, 60.0
    run_slowly(tmp_path, clock, 50, 10, expected=80.0)
    found = [line for line in lines(capsys) if "expected" in line and line.startswith("step")]
    assert minutes(found[0]) == minutes(found[-1]) == 12, "50 s, and six times 120 s with the test"


def test_the_time_budget_ends_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str], clock: Any) -> None:
    run_slowly(tmp_path, clock, 60, 60, expected=240.0, budget=240.0)
    found = lines(capsys)
    assert not any(line.startswith("expected") for line in found) and minutes(found[0]) == 4


def test_the_bar_shows_the_expected_end(
    tmp_path: Path, terminal: None, capsys: pytest.CaptureFixture[str], clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = []  # rich may skip any of them: it refreshes the screen by the real time
    metrics = ProgressBar.get_metrics

    def get_metrics(*arguments: Any) -> dict[str, Any]:
        shown.append(metrics(*arguments))
        return shown[-1]

    monkeypatch.setattr(ProgressBar, "get_metrics", get_metrics)
    run_slowly(tmp_path, clock, 60, 60, expected=100.0)
    text = text_of(capsys)
    assert "12:10" in {values.get("end") for values in shown} and "validating" not in text
    assert len(re.findall(r"expected end 12:\d\d, not 12:01", text)) == 1, "and corrects the banner"


def test_the_first_step_does_not_count() -> None:
    """It compiles kernels and starts the workers of the data loader."""
    end = ExpectedEnd()
    end.start(0.0, 100)
    end.step(50.0, 101)
    assert end.seconds_per_step is None and end.remaining(50.0, 10, 0, 0) is None
    end.step(52.0, 102)
    end.validation(62.0, 52.0)
    end.step(64.0, 103)
    assert end.seconds_per_step == 2.0 and end.remaining(64.0, 10, 1, 5) == 40.0
    assert end.remaining(64.0, 10, 0, float("inf")) == 30.0
    assert ExpectedEnd().remaining(0.0, 1, 1, 1) is None


def test_data_of_unknown_length_has_no_expected_end() -> None:
    end = ExpectedEnd()
    for step in range(3):
        end.step(float(step), step + 1)
    assert end.remaining(3.0, 10, 1, float("inf")) is None


@pytest.mark.parametrize(("expected", "corrected"), [(300.0, True), (70.0, False), (None, False)])
def test_less_than_a_minute_is_said_where_minutes_were_expected(expected: float | None, corrected: bool) -> None:
    end = ExpectedEnd()
    end.start(0.0, 0, expected)
    for step in range(1, 8):
        end.step(float(step), step)
    line = end.correction(7.0, 40.0)
    assert (line is not None and "(in about 40 s)" in line) == corrected
    assert end.correction(8.0, 39.0) is None, "once"
