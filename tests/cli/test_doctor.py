"""The doctor works where torch does not: broken, crashing, missing and outdated packages are named."""

import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from packaging.requirements import Requirement
from torch.utils import collect_env

from zoo.cli import doctor
from zoo.cli.doctor import Finding, devices, folders, import_error, imports, optional, requirements, version_of
from zoo.nn.kernels import RECORDS, Capabilities, missing_on_cuda


def by_name(name: str) -> Requirement:
    return next(r for r in requirements()[0] if r.name == name)


def versions(monkeypatch: pytest.MonkeyPatch, **changed: str | None) -> None:
    """Let distributions have other versions, or none."""
    real = importlib.metadata.version

    def version(name: str) -> str:
        value = changed.get(name.replace("-", "_"), "real")
        if value is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name) if value == "real" else value

    monkeypatch.setattr(importlib.metadata, "version", version)


def broken_module(folder: Path, name: str, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of that name that comes before the real one in every process that is started."""
    (folder / f"{name}.py").write_text(body)
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")


def test_requirements_come_from_the_package_itself() -> None:
    needed, extras = requirements()
    assert {"torch", "torchvision", "torchaudio", "lightning"} <= {r.name for r in needed}
    assert {"test", "logs", "lora"} <= set(extras) and "transformers" in [r.name for r in extras["test"]]
    assert all(r.specifier for r in needed)
    assert "attention-zoo" not in [r.name for packages in extras.values() for r in packages]


def test_metadata_and_checkout_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "NAME", "no-such-distribution")
    needed, extras = requirements()
    lines = [str(r) for r in needed]
    lines += [f'{r.name}{r.specifier}; extra == "{name}"' for name, packages in extras.items() for r in packages]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: lines)
    again = requirements()
    assert list(map(str, again[0])) == list(map(str, needed))
    for extra, packages in extras.items():
        assert [r.name for r in again[1][extra]] == [r.name for r in packages]


def test_versions_out_of_bounds_are_fixed_together(monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch, torchaudio="2.9.1", lightning="2.0", tokenizers=None)
    audio, lightning, tokenizers = (version_of(by_name(name)) for name in ("torchaudio", "lightning", "tokenizers"))
    assert audio.state == lightning.state == tokenizers.state == "broken"
    assert audio.message == "2.9.1 is installed, ==2.11.0 is required"
    assert audio.fix.startswith('pip install "torch') and audio.fix.endswith('"torchaudio==2.11.0"')
    assert "torchvision" in audio.fix
    assert lightning.fix == 'pip install "lightning!=2.6.2,!=2.6.3,>=2.6"'
    assert tokenizers.message == "not installed"
    assert version_of(by_name("rich")).state == "ok"


def test_missing_extras_are_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch, tensorboard=None, peft="0.18.0")
    found = {f.what: f for f in optional(requirements()[1])}
    assert found["extra logs"].state == "note" and found["extra logs"].fix == 'pip install "attention-zoo[logs]"'
    assert found["extra lora"] == Finding("extra lora", "ok", "peft 0.18.0")


def test_packages_that_fail_and_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken_module(tmp_path, "raises", "raise RuntimeError('compiled with\\ndifferent CUDA versions')", monkeypatch)
    broken_module(tmp_path, "warns", "import warnings; warnings.warn('old'); raise OSError('gone')", monkeypatch)
    broken_module(tmp_path, "dies", "import os; os.abort()", monkeypatch)
    broken_module(tmp_path, "leaves", "import os; os._exit(3)", monkeypatch)
    broken_module(tmp_path, "works", "print('some output')", monkeypatch)
    assert import_error("raises") == "RuntimeError: compiled with different CUDA versions"
    assert import_error("warns").endswith("OSError: gone")
    assert import_error("dies") == "the process died (signal 6)"
    assert import_error("leaves") == "the process ended without a message"
    assert import_error("works") == ""


def test_only_installed_packages_are_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch, soundfile=None)
    broken_module(tmp_path, "torchaudio", "raise ImportError('libcudart.so.99 is missing')", monkeypatch)
    (found,) = imports([by_name("torchaudio"), by_name("soundfile")])
    assert found.state == "broken" and found.message == "cannot be imported: ImportError: libcudart.so.99 is missing"
    assert '"torchvision' in found.fix and found.fix.endswith("--force-reinstall")


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    cases = [
        (None, None, "no GPU"),
        ("580.1", None, "built for CPUs only, finds no GPU"),
        ("580.1", "13.0", "driver 580.1 is installed, but torch, built for 13.0"),
    ]
    for driver, built, expected in cases:
        monkeypatch.setattr(collect_env, "get_nvidia_driver_version", lambda run, driver=driver: driver)
        monkeypatch.setattr(torch.version, "cuda", built)
        cpu, gpu = devices()
        assert cpu.message.endswith(f"{torch.get_num_threads()} threads") and expected in gpu.message
        assert gpu.state == ("note" if driver else "ok") and bool(gpu.fix) == bool(driver)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: f"GPU {i}")
    assert list(devices())[1].message == "GPU 0, GPU 1 (torch is built for 13.0)"


def test_attention_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    there, missing = doctor.attention_kernels()
    assert there.message == "kernels on cpu: flash, math"
    assert missing.message == "without varlen, flex, cudnn, efficient: only on CUDA" and missing.state == "ok"
    old = Capabilities("cuda", (7, 5), missing=missing_on_cuda((7, 5), "", False))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(RECORDS, torch.device("cuda", 0), old)
    there, older, compiler = doctor.attention_kernels()
    assert there.message == "kernels on cuda: efficient, math" and older.state == compiler.state == "note"
    assert older.message == "without varlen, flash, cudnn: it needs compute capability 8.0, this GPU has 7.5"
    assert compiler.message == "without flex: torch cannot compile here: the package triton is not installed"


def test_the_doctor_itself_needs_no_torch() -> None:
    script = "import sys, zoo.cli.main, zoo.cli.doctor; list(zoo.cli.doctor.folders()); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "False\n"


@pytest.mark.parametrize("name", ["torch", "torchaudio"])
def test_the_command_works_where_torch_is_broken(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken_module(tmp_path, name, "raise RuntimeError('Detected different CUDA versions')", monkeypatch)
    script = (
        "import sys, zoo.cli.main, zoo.cli.doctor as d; d.IMPORTED = sys.argv[1:]\n"
        "sys.exit(zoo.cli.main.main(['doctor']))"
    )
    done = subprocess.run([sys.executable, "-c", script, name], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "BROKEN" in done.stdout and "Detected different CUDA versions" in done.stdout
    assert "To fix what is broken:\n  pip install" in done.stdout and '"torchaudio==2.11.0"' in done.stdout
    assert (" threads" in done.stdout) == (name == "torchaudio")


def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data" / "cifar10").mkdir(parents=True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "new" / "cache"))
    monkeypatch.setenv("ZOO_DATA_DIR", str(tmp_path / "data"))
    found = {f.what: f for f in folders()}
    assert found["data"].state == "ok" and "cifar10" in found["data"].message
    assert found["cache"].state == "ok" and not (tmp_path / "new").exists()
    assert found["hub"].state == "note" and "HF_HUB_OFFLINE" in found["hub"].message
    monkeypatch.setenv("ZOO_DATA_DIR", str(tmp_path / "gone"))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    found = {f.what: f for f in folders()}
    assert found["data"].state == found["cache"].state == "broken" and "HF_HOME" in found["cache"].fix
    assert found["runs"].state == "note"


def test_the_report_and_the_status(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def report(*findings: Finding) -> tuple[int, str]:
        def examine() -> Iterator[Finding]:
            yield from findings

        monkeypatch.setattr(doctor, "examine", examine)
        return doctor.main(), capsys.readouterr().out

    status, out = report(Finding("a", "ok", "fine [x]"), Finding("b", "note", "odd", "pip install b"))
    assert status == 0 and "fine [x]" in out and "Optional:\n  pip install b" in out
    assert "Everything required works." in out
    status, out = report(*(Finding(name, "broken", "gone", "pip install c") for name in "cd"))
    assert status == 1 and out.count("pip install c") == 1 and "Everything required" not in out


def test_without_packaging(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "packaging.requirements", None)
    assert doctor.main() == 1
    assert "pip install packaging" in capsys.readouterr().out
