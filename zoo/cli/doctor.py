"""`zoo doctor`: versions, devices, folders and extras of this installation, and the commands that fix what is broken.

It works where torch does not: packages are found by their metadata and imported in other processes, which may crash.
"""

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from zoo.utils.cpu_features import CPUFeatures
from zoo.utils.escape import say

if TYPE_CHECKING:
    from packaging.requirements import Requirement

NAME = "attention-zoo"
TRIO = ("torch", "torchvision", "torchaudio")
IMPORTED = (*TRIO, "lightning", "datasets", "soundfile")  # whose imports are known to fail on some machines


@dataclass(frozen=True)
class Finding:
    """One line of the report. "broken" makes the exit status 1."""

    what: str
    state: Literal["ok", "note", "broken"]
    message: str
    fix: str = ""


def main() -> int:
    """Print the report, and return the exit status: 1 if something that is needed is broken."""
    findings = []
    for finding in examine():
        sign = "BROKEN" if finding.state == "broken" else finding.state
        say(f"{sign:<7} {finding.what:<20} {finding.message}")
        findings.append(finding)
    for state, title in (("broken", "To fix what is broken:"), ("note", "Optional:")):
        if fixes := dict.fromkeys(finding.fix for finding in findings if finding.state == state and finding.fix):
            say("", title, *(f"  {fix}" for fix in fixes))
    if works := all(finding.state != "broken" for finding in findings):
        say("", "Everything required works.")
    return 0 if works else 1


def examine() -> Iterator[Finding]:
    """All findings, one by one: imports take a while."""
    yield Finding("python", "ok", f"{'.'.join(map(str, sys.version_info[:3]))} ({sys.executable})")
    try:
        needed, extras = requirements()
    except ImportError:
        yield Finding("packaging", "broken", "not installed, so versions cannot be compared", "pip install packaging")
        return
    yield from map(version_of, needed)
    broken = imports([requirement for requirement in needed if requirement.name in IMPORTED])
    yield from broken
    if not any(finding.what == "torch" for finding in broken):
        yield from devices()
        yield from attention_kernels()
    yield from optional(extras)
    yield from folders()


def requirements() -> tuple[list["Requirement"], dict[str, list["Requirement"]]]:
    """The packages that this one needs, and those of each extra, from its metadata or, in a checkout that was not
    installed, from pyproject.toml. Raises ImportError without the package packaging."""
    from packaging.requirements import Requirement

    try:
        lines = importlib.metadata.requires(NAME) or []
    except importlib.metadata.PackageNotFoundError:
        project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        groups = project["optional-dependencies"].items()
        lines = [*project["dependencies"], *(f'{line}; extra == "{extra}"' for extra, some in groups for line in some)]
    needed: list[Requirement] = []
    extras: dict[str, list[Requirement]] = {}
    for requirement in map(Requirement, lines):
        if extra := re.search(r"extra == ['\"]([^'\"]+)", str(requirement.marker)):
            if requirement.name != NAME:  # an extra that includes others
                extras.setdefault(extra[1], []).append(requirement)
        else:
            needed.append(requirement)
    return needed, extras


def version_of(requirement: "Requirement") -> Finding:
    """Whether a distribution is installed in a supported version."""
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(requirement.name, "broken", "not installed", pip(requirement))
    if not requirement.specifier.contains(version, prereleases=True):
        message = f"{version} is installed, {requirement.specifier} is required"
        return Finding(requirement.name, "broken", message, pip(requirement))
    return Finding(requirement.name, "ok", version)


def pip(requirement: "Requirement") -> str:
    """torch, torchvision and torchaudio are always reinstalled together: their wheels do not pin each other."""
    trio = {r.name: r for r in requirements()[0] if r.name in TRIO}  # metadata may be sorted by name
    together = [trio[name] for name in TRIO] if requirement.name in TRIO else [requirement]
    return "pip install " + " ".join(f'"{str(r).partition(";")[0].strip()}"' for r in together)


def imports(packages: list["Requirement"]) -> list[Finding]:
    """The packages that are installed but cannot be imported."""
    there = [package for package in packages if version_of(package).message != "not installed"]
    with ThreadPoolExecutor() as pool:
        errors = pool.map(import_error, (package.name for package in there))
    return [
        Finding(package.name, "broken", f"cannot be imported: {error}", f"{pip(package)} --force-reinstall")
        for package, error in zip(there, errors)
        if error
    ]


def import_error(name: str) -> str:
    """The error of importing a package in another process; empty if that works."""
    done = subprocess.run([sys.executable, "-c", f"import {name}"], capture_output=True, text=True, errors="replace")
    if done.returncode < 0:
        return f"the process died (signal {-done.returncode})"
    message = " ".join(re.sub(r"(?ms)^Traceback.*^  .*?$", "", done.stderr).split())
    return (message[-200:] or "the process ended without a message") if done.returncode else ""


def devices() -> Iterator[Finding]:
    """The CPU and its features, and the GPUs that torch finds."""
    import torch
    from torch.utils import collect_env

    cpu = CPUFeatures.detect()
    features = [torch.backends.cpu.get_cpu_capability(), "bfloat16" if cpu.bf16 else "", "AMX" if cpu.amx else ""]
    yield Finding("CPU", "ok", ", ".join([*filter(None, features), f"{torch.get_num_threads()} threads"]))
    built = torch.version.cuda or torch.version.hip
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        yield Finding("CUDA", "ok", f"{names} (torch is built for {built})")
    elif torch.backends.mps.is_available():
        yield Finding("MPS", "ok", "Apple GPU")
    elif driver := collect_env.get_nvidia_driver_version(collect_env.run):
        message = f"the NVIDIA driver {driver} is installed, but torch, built for {built or 'CPUs only'}, finds no GPU"
        fix = "update the NVIDIA driver (see nvidia-smi)" if built else "install a torch with CUDA"
        yield Finding("CUDA", "note", message, fix)
    else:
        yield Finding("CUDA", "ok", "no GPU: everything runs on the CPU")


def attention_kernels() -> Iterator[Finding]:
    """The attention kernels of the GPU or CPU, and one line for each reason why others are missing."""
    import torch

    from zoo.nn import kernels

    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    record = kernels.capabilities(device)
    found = ", ".join(kernel for kernel in kernels.KERNELS if record.has(kernel))
    yield Finding("attention", "ok", f"kernels on {device.type}: {found}")
    for reason in dict.fromkeys(record.missing.values()):
        names = ", ".join(kernel for kernel in kernels.KERNELS if record.missing.get(kernel) == reason)
        yield Finding("attention", "ok" if device.type == "cpu" else "note", f"without {names}: {reason}")


def optional(extras: dict[str, list["Requirement"]]) -> Iterator[Finding]:
    """The extras; a missing one is a note."""
    for extra, packages in sorted(extras.items()):
        found = [version_of(package) for package in packages]
        wrong = [finding for finding in found if finding.state != "ok"]
        message = ", ".join(f"{finding.what} {finding.message}" for finding in wrong or found)
        fix = f'pip install "{NAME}[{extra}]"' if wrong else ""
        yield Finding(f"extra {extra}", "note" if wrong else "ok", message, fix)


def folders() -> Iterator[Finding]:
    """The folders of datasets, of downloads and of runs."""
    data = os.environ.get("ZOO_DATA_DIR")
    if not data:
        yield Finding("data", "ok", "ZOO_DATA_DIR is not set: datasets are downloaded from the hub")
    elif Path(data).is_dir():
        yield Finding("data", "ok", f"ZOO_DATA_DIR={data}: {', '.join(sorted(os.listdir(data)))}")
    else:
        fix = f"mkdir -p {data}, or unset ZOO_DATA_DIR"
        yield Finding("data", "broken", f"ZOO_DATA_DIR={data} is not a folder", fix)
    if not writable(Path.cwd()):
        yield Finding("runs", "note", f"{Path.cwd()} cannot be written", "run recipes with run_dir=/your/folder")
    try:
        from huggingface_hub import constants
    except ImportError:  # reported with the packages
        return
    cache = Path(constants.HF_HUB_CACHE)
    if writable(cache):
        yield Finding("cache", "ok", str(cache))
    else:
        yield Finding("cache", "broken", f"{cache} cannot be written", "export HF_HOME=/your/folder")
    if constants.is_offline_mode():
        yield Finding("hub", "note", "HF_HUB_OFFLINE is set: only what is in the cache can be loaded")


def writable(folder: Path) -> bool:
    """Whether files can be created in the folder, or in its nearest existing parent."""
    return os.access(next(path for path in (folder, *folder.parents) if path.exists()), os.W_OK)
