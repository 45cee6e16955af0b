"""The progress bar of a run: one bar over all steps in a terminal, a line per validation elsewhere."""

import re
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from zoo.training.callbacks import TrainingTimer
from zoo.training.progress import ProgressBar, format_duration
from zoo.utils.console import console


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
