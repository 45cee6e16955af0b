"""Which folder a command goes on with, which it starts, which it may not touch."""

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from zoo.training.config import ImageSettings
from zoo.training.metrics_file import MetricsTable
from zoo.training.run_dir import RunError, RunFolder, open_run
from zoo.utils.options import as_dict

PLAIN = as_dict(ImageSettings())


def changed(**paths: Any) -> dict[str, Any]:
    values = as_dict(ImageSettings())
    for path, value in paths.items():
        section, _, name = path.partition("__")
        values[section][name] = value
    return values


def begin(path: Path, values: dict[str, Any] = PLAIN, finished: bool = False) -> RunFolder:
    folder = RunFolder(path)
    folder.create(values)
    folder.release()
    (folder.checkpoints / "last.ckpt").write_bytes(b"")
    if finished:
        folder.write_result({"finished": True})
    return folder


def test_the_first_run_takes_the_plain_name(tmp_path: Path) -> None:
    found = open_run(tmp_path / "r", PLAIN)
    assert (found.path.name, found.unfinished, found.last) == ("r", False, None)
    assert not found.path.exists()


def test_an_unfinished_equal_run_goes_on(tmp_path: Path) -> None:
    begin(tmp_path / "r")
    found = open_run(tmp_path / "r", PLAIN)
    assert (found.path.name, found.unfinished) == ("r", True)
    assert found.last is not None


def test_a_finished_run_is_left_alone(tmp_path: Path) -> None:
    begin(tmp_path / "r", finished=True)
    assert open_run(tmp_path / "r", PLAIN).path.name == "r-2"
    begin(tmp_path / "r-2")
    assert open_run(tmp_path / "r", PLAIN).path.name == "r-2"
    begin(tmp_path / "r-2", finished=True)
    assert open_run(tmp_path / "r", changed(optim__lr=1.0)).path.name == "r-3"


def test_a_run_stopped_by_its_budget_goes_on(tmp_path: Path) -> None:
    begin(tmp_path / "r").write_result({"finished": False})
    assert open_run(tmp_path / "r", PLAIN).unfinished


def test_a_changed_setting_is_refused_by_name(tmp_path: Path) -> None:
    begin(tmp_path / "r")
    with pytest.raises(RunError) as error:
        open_run(tmp_path / "r", changed(optim__lr=0.5, trainer__epochs=3))
    for text in ("optim.lr: 0.001 there, 0.5 here", "trainer.epochs: None there, 3 here", "resume=never"):
        assert text in str(error.value)
    assert "weight_decay" not in str(error.value)


def test_a_run_that_saved_nothing_protects_nothing(tmp_path: Path) -> None:
    folder = begin(tmp_path / "r")
    (folder.checkpoints / "last.ckpt").unlink()
    found = open_run(tmp_path / "r", changed(optim__lr=0.5))
    assert (found.path.name, found.last) == ("r", None)
    with pytest.raises(RunError, match="no unfinished run"):
        open_run(tmp_path / "r", PLAIN, "must")


def test_what_does_not_change_results_may_change(tmp_path: Path) -> None:
    begin(tmp_path / "r")
    now = changed(
        trainer__max_minutes=3.0, trainer__logger="TensorBoardLogger", data__num_workers=2, trainer__log_every=7
    )
    assert open_run(tmp_path / "r", now).unfinished


def test_devices_and_accumulation_may_change_places(tmp_path: Path) -> None:
    begin(tmp_path / "r", changed(trainer__accumulate=2))
    assert open_run(tmp_path / "r", changed(trainer__devices=2)).unfinished
    with pytest.raises(RunError, match="devices x num_nodes x accumulate_grad_batches: 2 there, 4 here"):
        open_run(tmp_path / "r", changed(trainer__devices=4))


def test_the_strategy_may_change(tmp_path: Path) -> None:
    begin(tmp_path / "r", changed(trainer__strategy="fsdp2", trainer__devices=2))
    for strategy in ("ddp", "auto"):
        assert open_run(tmp_path / "r", changed(trainer__strategy=strategy, trainer__devices=2)).unfinished


def test_never_and_must(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no unfinished run"):
        open_run(tmp_path / "r", PLAIN, "must")
    begin(tmp_path / "r")
    assert open_run(tmp_path / "r", PLAIN, "must").unfinished
    assert open_run(tmp_path / "r", PLAIN, "never").path.name == "r-2"
    begin(tmp_path / "r", finished=True)
    with pytest.raises(RunError, match="no unfinished run"):
        open_run(tmp_path / "r", PLAIN, "must")


def test_an_earlier_equal_run_is_found_behind_another(tmp_path: Path) -> None:
    begin(tmp_path / "r")
    begin(tmp_path / "r-2", changed(optim__lr=0.5))
    assert open_run(tmp_path / "r", PLAIN).path.name == "r"


def test_damaged_files_are_named(tmp_path: Path) -> None:
    folder = begin(tmp_path / "r")
    (folder.path / "metrics.json").write_text("{")
    with pytest.raises(RunError, match=r"metrics\.json is damaged"):
        open_run(tmp_path / "r", PLAIN)
    (folder.path / "metrics.json").unlink()
    (folder.path / "config.yaml").write_text("a: [")
    with pytest.raises(RunError, match=r"config\.yaml is damaged"):
        open_run(tmp_path / "r", PLAIN)


def test_two_processes_in_one_folder(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "r")
    folder.create(PLAIN)
    context = multiprocessing.get_context("fork")
    answer = context.Queue()
    child = context.Process(target=_try_to_create, args=(tmp_path / "r", answer))
    child.start()
    assert "another process" in answer.get(timeout=20)
    child.join()
    folder.release()
    RunFolder(tmp_path / "r").create(PLAIN)


def _try_to_create(path: Path, answer: Any) -> None:
    try:
        RunFolder(path).create(PLAIN)
        answer.put("created")
    except RunError as error:
        answer.put(str(error))


# --- metrics.csv ---


def test_rows_of_one_step_are_one_row(tmp_path: Path) -> None:
    table = MetricsTable(tmp_path / "m.csv")
    table.add(1, {"loss": 1.0})
    table.add(2, {"loss": 0.5})
    table.add(2, {"val": 0.25})
    table.add(3, {"loss": 0.125})
    table.add(3, {"val": 0.5})
    assert (tmp_path / "m.csv").read_text() == "step,loss,val\n1,1,\n2,0.5,0.25\n3,0.125,0.5\n"


def test_a_resumed_table_has_no_row_twice(tmp_path: Path) -> None:
    whole, cut = MetricsTable(tmp_path / "a.csv"), MetricsTable(tmp_path / "b.csv")
    for table, steps in ((whole, range(1, 8)), (cut, range(1, 6))):
        for step in steps:
            table.add(step, {"loss": 1 / step})
            table.add(step, {"val": step / 3}) if step % 2 == 0 else None
    with open(tmp_path / "b.csv", "a") as handle:
        handle.write("6,0.1")  # killed in the middle of a line
    again = MetricsTable(tmp_path / "b.csv")
    again.cut(3)
    for step in range(4, 8):
        again.add(step, {"loss": 1 / step})
        again.add(step, {"val": step / 3}) if step % 2 == 0 else None
    assert (tmp_path / "a.csv").read_text() == (tmp_path / "b.csv").read_text()
    again.cut(0)
    assert not (tmp_path / "b.csv").exists()
    again.add(1, {"other": 1.0})
    assert (tmp_path / "b.csv").read_text() == "step,other\n1,1\n"


def test_the_result_is_written_whole(tmp_path: Path) -> None:
    folder = begin(tmp_path / "r")
    folder.write_result({"finished": True, "result": {"test_accuracy": 0.5}})
    assert json.loads((folder.path / "metrics.json").read_text())["result"] == {"test_accuracy": 0.5}
