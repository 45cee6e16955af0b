"""No release of the deny list is installed, or allowed by the requirements of this package."""

import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
DENIED = [
    Requirement(line)
    for raw in (ROOT / ".ci" / "denied.txt").read_text().splitlines()
    if (line := raw.partition("#")[0].strip())
]


def denied(name: str, version: str) -> list[str]:
    """The entries of the deny list that a release matches."""
    same = [entry for entry in DENIED if canonicalize_name(entry.name) == canonicalize_name(name)]
    return [str(entry) for entry in same if entry.specifier.contains(version, prereleases=True)]


def test_the_list_names_releases() -> None:
    assert denied("lightning", "2.6.2") and denied("Lightning", "2.6.3") and not denied("lightning", "2.6.4")
    assert all(entry.specifier for entry in DENIED)


def test_no_denied_release_is_installed() -> None:
    installed = [(found.metadata["Name"], found.version) for found in metadata.distributions()]
    assert len(installed) > 10
    assert not [entry for name, version in installed if name for entry in denied(name, version)]


def test_the_requirements_exclude_them() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    required = [Requirement(text) for texts in lists for text in texts]
    for entry in DENIED:
        version = next(iter(entry.specifier)).version
        for own in required:
            if canonicalize_name(own.name) == canonicalize_name(entry.name):
                assert not own.specifier.contains(version, prereleases=True), f"{own} allows {entry}"


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ("echo '{}'", 0),
        ("echo '{\"vulnerable\": 1}'; exit 1", 1),
        ("echo no connection >&2; exit 1", 0),
    ],
)
def test_the_audit_fails_for_vulnerabilities_and_not_without_a_network(
    tmp_path: Path, script: str, status: int
) -> None:
    (tmp_path / "bin").mkdir()
    for name, body in (("pip-audit", script), ("python", "echo /packages")):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    assert subprocess.run([ROOT / ".ci" / "audit", tmp_path], capture_output=True).returncode == status
