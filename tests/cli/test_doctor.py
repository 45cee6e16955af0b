"""The doctor works where the patient does not: broken, crashing, missing and ill-matched packages are named."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

from zoo.cli import doctor
from zoo.cli.doctor import Finding, audio_files, imports, optional, pairs, places, requirements, show, trial, version_of


def by_name(name: str) -> object:
    return next(r for r in requirements()[0] if r.name == name)


def versions(monkeypatch: pytest.MonkeyPatch, **changed: str | None) -> None:
    """Let distributions say that they are of other versions, or not there."""
    real = importlib.metadata.version

    def version(name: str) -> str:
        given = changed.get(name.replace("-", "_"), "real")
        if given is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name) if given == "real" else given

    monkeypatch.setattr(importlib.metadata, "version", version)


def broken_module(folder: Path, name: str, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of that name that comes before the real one in every process that is started."""
    (folder / f"{name}.py").write_text(body)
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")


def test_what_is_needed_comes_from_the_package_itself() -> None:
    needed, extras = requirements()
    assert [r.name for r in needed[:3]] == ["torch", "torchvision", "torchaudio"]
    assert {"test", "logs", "lora"} <= set(extras) and "transformers" in [r.name for r in extras["test"]]
    assert all(r.specifier for r in needed)


def test_a_checkout_that_is_not_installed_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    there = requirements()
    monkeypatch.setattr(doctor, "NAME", "no-such-distribution")
    here = requirements()
    assert {str(r).replace("_", "-") for r in here[0]} == {str(r) for r in there[0]}
    assert set(here[1]) == set(there[1])


def test_versions_out_of_bounds_are_fixed_together(monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch, torchaudio="2.9.1", lightning="2.0", tokenizers=None)
    audio, lightning, tokenizers = (version_of(by_name(name)) for name in ("torchaudio", "lightning", "tokenizers"))
    assert audio.state == lightning.state == tokenizers.state == "broken"
    assert audio.message == "2.9.1 is installed, ==2.11.* is required"
    assert audio.fix.startswith('pip install "torch') and audio.fix.endswith('"torchaudio==2.11.*"')
    assert "torchvision" in audio.fix
    assert lightning.fix == 'pip install "lightning!=2.6.2,!=2.6.3,>=2.6"'
    assert tokenizers.message == "not installed"
    assert version_of(by_name("rich")).state == "ok"


def test_torch_of_another_patch_than_torchvision_was_built_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(pairs()) == []
    versions(monkeypatch, torch="2.11.0")
    (found,) = pairs()
    assert found.state == "broken" and "requires torch==2.12.1" in found.message and "2.11.0" in found.message


def test_builds_for_different_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    now = importlib.metadata.version("torch").partition("+")[0]
    versions(monkeypatch, torch=f"{now}+cu130", torchaudio="2.11.0+cpu")
    (found,) = pairs()
    assert "torch cu130, torchaudio cpu" in found.message and found.fix.endswith("--force-reinstall")


def test_missing_extras_are_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch, tensorboard=None)
    found = {f.what: f for f in optional(requirements()[1])}
    assert found["extra logs"].state == "note" and found["extra logs"].fix == 'pip install "attention-zoo[logs]"'


def test_packages_that_fail_and_crash_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken_module(tmp_path, "one_raises", "raise RuntimeError('compiled with\\ndifferent CUDA versions')", monkeypatch)
    broken_module(tmp_path, "two_dies", "import os; os.abort()", monkeypatch)
    broken_module(tmp_path, "three_leaves", "import os; os._exit(3)", monkeypatch)
    broken_module(tmp_path, "four_works", "print('a word of its own')", monkeypatch)
    broken_module(tmp_path, "five_exits", "raise SystemExit(5)", monkeypatch)
    found = {f.what: f.message for f in imports(["one_raises", "two_dies", "three_leaves", "four_works", "five_exits"])}
    assert set(found) == {"one_raises", "two_dies", "three_leaves", "five_exits"}
    assert "RuntimeError: compiled with different CUDA versions" in found["one_raises"]
    assert "died (signal 6)" in found["two_dies"]


def test_the_trial_runs_a_model_and_asks_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    found = {f.what: f for f in trial()}
    assert found["a model"].state == "ok" and "forward and backward" in found["a model"].message
    assert "threads" in found["CPU"].message
    assert found["hub"].state == "note" and "127.0.0.1:9 does not answer" in found["hub"].message


def test_sounds_are_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = audio_files()
    assert found.state == "ok" and "wav, flac, ogg, mp3 by libsndfile" in found.message
    broken_module(tmp_path, "torchaudio", "raise RuntimeError('another CUDA')", monkeypatch)
    found = audio_files()
    assert found.state == "broken" and "another CUDA" in found.message and "pip install" in found.fix


def test_the_doctor_itself_needs_no_torch() -> None:
    script = "import sys, zoo.cli.main, zoo.cli.doctor; list(zoo.cli.doctor.places()); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "False\n"


def test_a_model_that_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken_module(tmp_path, "torch", "raise ImportError('libcudart.so.99 is missing')", monkeypatch)
    (found,) = trial()
    assert found.state == "broken" and "libcudart.so.99" in found.message and "pip install" in found.fix


@pytest.mark.parametrize("name", ["torch", "torchaudio"])
def test_the_command_works_where_torch_is_broken(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken_module(tmp_path, name, "raise RuntimeError('Detected different CUDA versions')", monkeypatch)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    script = (
        "import sys, zoo.cli.main, zoo.cli.doctor as d; d.IMPORTED = sys.argv[1:]\n"
        "d.trial = lambda: iter([d.Finding('a model', 'ok', 'tried')])\n"
        "sys.exit(zoo.cli.main.main(['doctor']))"
    )
    done = subprocess.run([sys.executable, "-c", script, name], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "BROKEN" in done.stdout and "Detected different CUDA versions" in done.stdout
    assert "To fix what is broken:\n  pip install" in done.stdout and '"torchaudio==2.11.*"' in done.stdout
    assert ("a model" in done.stdout) == (name == "torchaudio")


def test_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data" / "cifar10").mkdir(parents=True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "new" / "cache"))
    monkeypatch.setenv("ZOO_DATA_DIR", str(tmp_path / "data"))
    found = {f.what: f for f in places()}
    assert found["data"].state == "ok" and "cifar10" in found["data"].message
    assert found["cache"].state == "ok" and not (tmp_path / "new").exists()
    assert found["hub"].state == "note" and "HF_HUB_OFFLINE" in found["hub"].message
    monkeypatch.setenv("ZOO_DATA_DIR", str(tmp_path / "gone"))
    monkeypatch.setattr(doctor, "writable", lambda folder: False)
    found = {f.what: f for f in places()}
    assert found["data"].state == found["cache"].state == "broken" and "HF_HOME" in found["cache"].fix
    assert found["runs"].state == "note"


@pytest.mark.parametrize("rich", [True, False])
def test_the_table_and_the_status(
    rich: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if not rich:
        for name in ("rich", "rich.console", "rich.table", "rich.text"):
            monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(
        doctor, "examine", lambda: iter([Finding("a", "ok", "fine [x]"), Finding("b", "note", "odd", "pip install b")])
    )
    assert doctor.main() == 0
    out = capsys.readouterr().out
    assert "fine [x]" in out and "Optional:\n  pip install b" in out and "Everything required works." in out
    show([Finding("c", "broken", "gone", "pip install c"), Finding("d", "broken", "gone", "pip install c")])
    out = capsys.readouterr().out
    assert out.count("pip install c") == 1 and "Everything required" not in out
    monkeypatch.setattr(doctor, "examine", lambda: iter([Finding("c", "broken", "gone")]))
    assert doctor.main() == 1
