"""The wheel and the sdist: they build, twine accepts them, and the wheel alone is the package."""

import importlib.util
import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest
import yaml

import zoo

ROOT = Path(__file__).parents[1]


def test_the_version_is_the_same_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert project["version"] == zoo.__version__ == citation["version"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """{"wheel", "sdist": file}: the sdist of this checkout, and the wheel that is built from it."""
    if missing := [name for name in ("build", "twine") if importlib.util.find_spec(name) is None]:
        pytest.skip(f"{missing[0]} is not installed: building needs the extra `release`")
    folder = tmp_path_factory.mktemp("dist")
    done = subprocess.run([sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)], capture_output=True,
                          text=True, timeout=500)  # fmt: skip
    if done.returncode and "No matching distribution found for hatchling" in done.stdout + done.stderr:
        pytest.skip("hatchling cannot be installed: there is no package index")
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return {"wheel": next(folder.glob("*.whl")), "sdist": next(folder.glob("*.tar.gz"))}


def listed(*folders: str) -> set[str]:
    """The files of the repository in these folders, as git has them."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *folders]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return {name for name in done.stdout.splitlines() if (ROOT / name).is_file()}


@pytest.mark.full
def test_twine_accepts_both(built):
    command = [sys.executable, "-m", "twine", "--no-color", "check", "--strict", *map(str, built.values())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.count("PASSED") == 2, done.stdout + done.stderr


@pytest.mark.full
def test_the_wheel_is_the_package_and_its_dataset_cards(built):
    with zipfile.ZipFile(built["wheel"]) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        tops = {name.split("/")[0] for name in wheel.namelist()}
        described = next(name for name in wheel.namelist() if name.endswith("/METADATA"))
        metadata = HeaderParser().parsestr(wheel.read(described).decode())
    cards = {f"zoo/data/cards/{Path(name).name}" for name in listed("data") if name.endswith(".yaml")}
    assert names == listed("zoo") | cards
    assert tops == {"zoo", f"attention_zoo-{zoo.__version__}.dist-info"}
    assert metadata["Version"] == zoo.__version__ and metadata["License-Expression"] == "Apache-2.0"


@pytest.mark.full
def test_the_wheel_runs_without_the_repository(built, tmp_path):
    with zipfile.ZipFile(built["wheel"]) as wheel:
        wheel.extractall(tmp_path / "installed")
    code = (
        "import zoo, zoo.data; print(zoo.__file__, len(zoo.list_models()), 'fsdd' in zoo.data.list_cards());"
        "print(tuple(zoo.create_model('vit_cifar_tiny')(zoo.data.make_images(2, seed=0)[0] / 255).shape))"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "installed")}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True,
                          timeout=120)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{tmp_path / 'installed' / 'zoo'}") and "True\n(2, 10)" in done.stdout


@pytest.mark.full
def test_the_sdist_has_what_the_wheel_needs_and_no_local_data(built):
    with tarfile.open(built["sdist"]) as sdist:
        names = {member.name.partition("/")[2] for member in sdist.getmembers() if member.isfile()}
    assert listed("zoo", "recipes", "configs", "tests", "benchmarks") <= names
    assert {"pyproject.toml", "README.md", "LICENSE", "PKG-INFO"} <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith(("runs/", "site/", "dist/"))]
    assert {Path(name).suffix for name in names if name.startswith("data/")} == {".yaml", ".md"}
