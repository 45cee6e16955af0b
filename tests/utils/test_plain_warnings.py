"""Warnings of a command: lines without a place in the code, if they are of this library."""

import subprocess
import sys
import warnings
from pathlib import Path

import zoo
from zoo.utils.plain_warnings import plain_warnings

OWN, OTHER = zoo.__file__, "/site-packages/torch/nn.py"


def test_warnings_of_this_library_are_lines() -> None:
    before = warnings.formatwarning
    with plain_warnings():
        assert warnings.formatwarning("too long \x1b[2J", UserWarning, OWN, 3) == "warning: too long \\x1b[2J\n"
        for category, file in ((UserWarning, OTHER), (DeprecationWarning, OWN)):
            assert f"{file}:3: {category.__name__}: old" in warnings.formatwarning("old", category, file, 3)
    assert warnings.formatwarning is before


def test_a_command_prints_them_so(tmp_path: Path) -> None:
    script = tmp_path / "command.py"
    script.write_text(
        "import warnings\nfrom zoo.cli import main as command\n"
        "command.run_list = lambda args: warnings.warn('2 texts are truncated') or 0\n"
        "command.main(['list'])\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stderr == "warning: 2 texts are truncated\n"
