"""`zoo doctor`: what of this installation works, and the command that fixes what does not.

It runs where torch does not: packages are found by their metadata and imported in another process, which may crash.
"""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from zoo.utils.escape import printable, say

NAME = "attention-zoo"
TRIO = ("torch", "torchvision", "torchaudio")
IMPORTED = (*TRIO, "lightning", "datasets", "soundfile")  # whose imports are known to fail on some machines
AUDIO = ("torchaudio", "soundfile")
PYTHON = (3, 11)
TIMEOUT = 180  # seconds for a process that imports, or tries a model


@dataclass(frozen=True)
class Finding:
    """One line of the table. "broken" makes the exit status 1."""

    what: str
    state: Literal["ok", "note", "broken"]
    message: str
    fix: str = ""


def main() -> int:
    """Examine, print a table, and return the exit status: 1 if something that is needed is broken."""
    findings = []
    for finding in examine():
        findings.append(finding)
        progress(finding)
    show(findings)
    return 1 if any(finding.state == "broken" for finding in findings) else 0


def examine() -> Iterator[Finding]:
    yield python()
    try:
        import packaging.requirements  # noqa: F401
    except ImportError:
        yield Finding("packaging", "broken", "not installed, so versions cannot be compared", "pip install packaging")
    else:
        yield from map(version_of, requirements()[0])
        yield from pairs()
    failed = imports([name for name in IMPORTED if installed(name)])
    yield from failed
    broken = {finding.what for finding in failed}
    if installed("torch") and "torch" not in broken:
        yield from trial()
        if all(map(installed, AUDIO)) and not broken & set(AUDIO):  # else they are on the table already
            yield audio_files()
    if "packaging" in sys.modules:
        yield from optional(requirements()[1])
    yield from places()


# --- packages -----------------------------------------------------------------------------------------------------


def python() -> Finding:
    message = f"{'.'.join(map(str, sys.version_info[:3]))} ({sys.executable})"
    if sys.version_info[:2] < PYTHON:
        return Finding("python", "broken", message, "make a new environment with Python 3.11 or newer")
    return Finding("python", "ok", message)


def requirements() -> tuple[list[Any], dict[str, list[Any]]]:
    """What the package declares: what it needs, and the parts of each extra."""
    from packaging.requirements import Requirement

    try:
        declared = [Requirement(line) for line in importlib.metadata.requires(NAME) or []]
    except importlib.metadata.PackageNotFoundError:
        declared = [Requirement(line) for line in from_checkout()]
    needed = [r for r in declared if "extra" not in str(r.marker)]
    extras: dict[str, list[Any]] = {}
    for requirement in declared:
        if extra := re.search(r"extra == ['\"]([^'\"]+)", str(requirement.marker)):
            extras.setdefault(extra[1], []).append(requirement)
    order = {name: i for i, name in enumerate(TRIO)}
    return sorted(needed, key=lambda r: (order.get(r.name, 9), r.name)), extras


def from_checkout() -> list[str]:
    """The dependencies as pyproject.toml has them, for a checkout that was not installed."""
    import tomllib

    file = Path(__file__).parents[2] / "pyproject.toml"
    if not file.is_file():
        return []
    project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
    extras = project.get("optional-dependencies", {})
    marked = [f'{line}; extra == "{extra}"' for extra, lines in extras.items() for line in lines if ";" not in line]
    return [*project["dependencies"], *marked]


def version_of(requirement: Any) -> Finding:
    """Whether a distribution is installed in a supported version."""
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(requirement.name, "broken", "not installed", pip([requirement]))
    if not requirement.specifier.contains(version, prereleases=True):
        message = f"{version} is installed, {requirement.specifier} is required"
        return Finding(requirement.name, "broken", message, pip([requirement]))
    return Finding(requirement.name, "ok", version)


def pip(needed: list[Any]) -> str:
    """torch, torchvision and torchaudio are always reinstalled together: their wheels do not pin each other."""
    lines = [plain(r) for r in needed]
    if any(r.name in TRIO for r in needed):
        lines = [plain(r) for r in requirements()[0] if r.name in TRIO]
    return "pip install " + " ".join(f'"{line}"' for line in lines)


def plain(requirement: Any) -> str:
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    return f"{requirement.name}{extras}{requirement.specifier}"


def pairs() -> Iterator[Finding]:
    """Whether torch, torchvision and torchaudio fit each other: required version and CUDA build."""
    from packaging.requirements import Requirement

    versions = {name: installed(name) for name in TRIO}
    here = versions["torch"]
    for line in declared_by("torchvision") if here else []:
        requirement = Requirement(line)
        if requirement.name == "torch" and not requirement.specifier.contains(here, prereleases=True):
            version = versions["torchvision"]
            message = f"torchvision {version} requires torch{requirement.specifier}, but {here} is installed"
            yield Finding("torch packages", "broken", message, pip([requirement]))
    builds = {name: v.partition("+")[2] for name, v in versions.items() if v and "+" in v}
    if len(set(builds.values())) > 1:
        message = "built for different devices: " + ", ".join(f"{name} {build}" for name, build in builds.items())
        yield Finding("torch packages", "broken", message, pip([Requirement("torch")]) + " --force-reinstall")


def installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def declared_by(name: str) -> list[str]:
    try:
        return [line for line in importlib.metadata.requires(name) or [] if "extra ==" not in line]
    except importlib.metadata.PackageNotFoundError:
        return []


def optional(extras: dict[str, list[Any]]) -> Iterator[Finding]:
    """The extras; a missing one is a note."""
    for extra, parts in sorted(extras.items()):
        wrong = [f for f in map(version_of, parts) if f.state != "ok"]
        if wrong:
            message = "; ".join(f"{f.what} {f.message}" for f in wrong)
            yield Finding(f"extra {extra}", "note", message, f'pip install "{NAME}[{extra}]"')
        else:
            yield Finding(f"extra {extra}", "ok", ", ".join(f"{p.name} {installed(p.name)}" for p in parts))


# --- checks in another process ------------------------------------------------------------------------------------

IMPORT = """
import importlib, json, sys
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
        print(json.dumps({"works": name}), flush=True)
    except BaseException as error:
        print(json.dumps({"fails": name, "error": f"{type(error).__name__}: {error}"}), flush=True)
"""

TRIAL = """
import json, sys, time, torch
cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
print(json.dumps({
    "cpu": torch.backends.cpu.get_cpu_capability(), "threads": torch.get_num_threads(),
    "onednn": torch.backends.mkldnn.is_available(), "built": torch.version.cuda or torch.version.hip,
    "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else [], "mps": mps,
}), flush=True)
import zoo
model = zoo.create_model("vit_cifar_tiny", seed=0)
start = time.perf_counter()
model(pixel_values=torch.randn(8, 3, 32, 32)).square().mean().backward()
finite = all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
print(json.dumps({"finite": finite, "seconds": time.perf_counter() - start}), flush=True)
from zoo.data.sources.hub import reachable
for endpoint in sys.argv[1:]:
    print(json.dumps({"endpoint": endpoint, "answers": reachable(endpoint)}))
"""

AUDIO_TRIAL = """
import io, json, soundfile, torch
from zoo.preprocessing import audio_io
from zoo.preprocessing.spectrogram import SpectrogramFeatureExtractor
wave, reads = torch.sin(torch.arange(8000) / 9) / 2, []
for format in ("WAV", "FLAC", "OGG", "MP3"):
    file = io.BytesIO()
    if format in soundfile.available_formats():
        soundfile.write(file, wave.numpy(), 16000, format=format)
        reads += [format.lower()] * (len(audio_io.read(file.getvalue())[0]) == 8000)
SpectrogramFeatureExtractor()((audio_io.resampled(wave, 8000, 16000), 16000))
print(json.dumps({"reads": reads, "version": soundfile.__libsndfile_version__}), flush=True)
"""


def run(script: str, *args: str) -> tuple[list[dict[str, Any]], str]:
    """Run a script in its own process; returns the JSON lines that it prints, and its error message."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", script, *args], capture_output=True, text=True, timeout=TIMEOUT, errors="replace"
        )
    except subprocess.TimeoutExpired:
        return [], f"no answer within {TIMEOUT} seconds"
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    last = (done.stderr.strip().splitlines() or [""])[-1]
    crash = f"the process died (signal {-done.returncode})" if done.returncode < 0 else ""
    return lines, "; ".join(filter(None, [crash, last if done.returncode else ""]))


def imports(names: list[str]) -> list[Finding]:
    """Import each package; returns those that fail. A crash does not hide the result of the others."""
    found = []
    while names:
        lines, error = run(IMPORT, *names)
        fails = {line["fails"]: line["error"] for line in lines if "fails" in line}
        ended = {*fails, *(line["works"] for line in lines if "works" in line)}
        died = next((name for name in names if name not in ended), None)
        if died is not None:
            fails[died] = error or "the process ended without a message"
        found += [
            Finding(n, "broken", f"cannot be imported: {short(message)}", reinstall(n)) for n, message in fails.items()
        ]
        names = [] if died is None else names[names.index(died) + 1 :]
    return found


def reinstall(name: str) -> str:
    """The command that reinstalls a package."""
    found = [r for r in requirements()[0] if r.name == name] if "packaging" in sys.modules else []
    return f"{pip(found)} --force-reinstall" if found else f"pip install --force-reinstall {name}"


def short(message: str) -> str:
    text = " ".join(message.split())
    return text if len(text) <= 200 else f"{text[:197]}..."


def hub_endpoint() -> list[str]:
    """The configured hub; none if its client cannot be imported, which is reported elsewhere."""
    try:
        from huggingface_hub.constants import ENDPOINT
    except ImportError:
        return []
    return [os.environ.get("HF_ENDPOINT") or ENDPOINT]


def trial() -> Iterator[Finding]:
    """The devices, one forward and backward pass of the smallest model, and whether the hub answers."""
    endpoints = [] if offline() else hub_endpoint()
    lines, error = run(TRIAL, *endpoints)
    if not lines:
        yield Finding("devices", "broken", f"torch does not answer: {short(error)}", reinstall("torch"))
        return
    yield from devices(lines[0])
    if len(lines) < 2:
        message = f"vit_cifar_tiny does not run: {short(error)}"
        yield Finding("a model", "broken", message, f"pip install --force-reinstall {NAME}")
    elif not lines[1]["finite"]:
        yield Finding("a model", "broken", "vit_cifar_tiny has gradients that are not finite", reinstall("torch"))
    else:
        yield Finding("a model", "ok", f"vit_cifar_tiny, forward and backward in {lines[1]['seconds']:.2f} s")
    for line in lines[2:]:
        if line["answers"]:
            yield Finding("hub", "ok", line["endpoint"])
        else:
            message = f"{line['endpoint']} does not answer: only local files and the cache can be loaded"
            yield Finding("hub", "note", message)


def audio_files() -> Finding:
    """Which audio files can be read, and whether features can be computed from them."""
    lines, error = run(AUDIO_TRIAL)
    if not lines:
        return Finding("audio", "broken", f"features cannot be computed: {short(error)}", reinstall("torchaudio"))
    message = f"{', '.join(lines[0]['reads'])} by libsndfile {lines[0]['version']}, features by torchaudio"
    return Finding("audio", "ok" if len(lines[0]["reads"]) == 4 else "note", message)


def devices(found: dict[str, Any]) -> Iterator[Finding]:
    onednn = "oneDNN" if found["onednn"] else "no oneDNN"
    yield Finding("CPU", "ok", f"{found['cpu']}, {found['threads']} threads, {onednn}")
    if found["gpus"]:
        yield Finding("CUDA", "ok", f"{', '.join(found['gpus'])} (torch built for {found['built']})")
    elif shutil.which("nvidia-smi"):
        why = "torch was built without CUDA" if not found["built"] else f"torch is built for CUDA {found['built']}"
        fix = "install a torch with CUDA" if not found["built"] else "update the NVIDIA driver (see nvidia-smi)"
        yield Finding("CUDA", "note", f"nvidia-smi is installed, but torch finds no GPU: {why}", fix)
    elif not found["mps"]:
        yield Finding("CUDA", "ok", "no GPU: everything runs on the CPU")
    if found["mps"]:
        yield Finding("MPS", "ok", "Apple GPU")


# --- files and the hub --------------------------------------------------------------------------------------------


def places() -> Iterator[Finding]:
    folder = os.environ.get("ZOO_DATA_DIR")
    if folder and not Path(folder).is_dir():
        fix = f"mkdir -p {folder}, or unset ZOO_DATA_DIR"
        yield Finding("data", "broken", f"ZOO_DATA_DIR={folder} is not a folder", fix)
    elif folder:
        names = ", ".join(sorted(path.name for path in Path(folder).iterdir()))
        yield Finding("data", "ok", f"ZOO_DATA_DIR={folder}: {names}")
    else:
        yield Finding("data", "ok", "ZOO_DATA_DIR is not set: datasets are downloaded from the hub")
    cache = hub_cache()
    if writable(cache):
        yield Finding("cache", "ok", str(cache))
    else:
        yield Finding("cache", "broken", f"{cache} cannot be written", "export HF_HOME=/your/folder")
    if not writable(Path.cwd()):
        yield Finding("runs", "note", f"{Path.cwd()} cannot be written", "run recipes with run_dir=/your/folder")
    if offline():
        yield Finding("hub", "note", "HF_HUB_OFFLINE is set: only what is in the cache can be loaded")


def hub_cache() -> Path:
    """The cache folder of huggingface_hub."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()


def writable(folder: Path) -> bool:
    """Whether a file can be created in the folder, or in its nearest existing parent."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")


# --- printing -----------------------------------------------------------------------------------------------------


def progress(finding: Finding) -> None:
    """Show what is being examined: imports take a while."""
    if sys.stderr.isatty():
        print(f"\r{finding.what:<30}", end="", file=sys.stderr, flush=True)


def show(findings: list[Finding]) -> None:
    """Print the table, and below it the commands that fix what is broken."""
    signs = {"ok": "ok", "note": "note", "broken": "BROKEN"}
    try:
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        say(*(f"{signs[f.state]:<7} {f.what:<16} {f.message}" for f in findings))
    else:
        colors = {"ok": "green", "note": "yellow", "broken": "bold red"}
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_header=False)
        for f in findings:
            table.add_row(Text(signs[f.state], style=colors[f.state]), Text(f.what), Text(printable(f.message)))
        if sys.stderr.isatty():
            print("\r" + " " * 30 + "\r", end="", file=sys.stderr)
        Console(width=None if sys.stdout.isatty() else 140).print(table)
    fixes = [f for f in findings if f.fix]
    for state, title in (("broken", "To fix what is broken:"), ("note", "Optional:")):
        lines = list(dict.fromkeys(f.fix for f in fixes if f.state == state))
        if lines:
            say(title, *(f"  {line}" for line in lines))
    if all(f.state != "broken" for f in findings):
        print("Everything required works.")
