"""Its place puts tests/ on the path, for the helpers that several folders share; which tests are run at which speed."""

import gc
import os
import sys
from collections.abc import Iterator

import pytest
from family_times import FamilyTimes

FULL = "runs in .ci/full, or with ZOO_FULL=1"
GPU = "needs a GPU with CUDA"
FORKING = ("ranks", "kills", "parallel_cases", "plan_cases")  # helpers whose tests fork


def unsynced(descriptor: int) -> None:
    """In place of `os.fsync`: what tests write need not survive a loss of power, and a wait for the disk takes long.

    A descriptor that is closed raises as there.
    """
    os.fstat(descriptor)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--family-times", action="store_true", help="CPU seconds of the tests of each family of models")


def pytest_configure(config: pytest.Config) -> None:
    os.fsync = unsynced
    if config.getoption("--family-times"):
        config.pluginmanager.register(FamilyTimes(), "family_times")
    config.addinivalue_line("markers", f"full: takes too long for every change: {FULL}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    skipped = {} if os.environ.get("ZOO_FULL", "0") != "0" else {"full": FULL}
    if any(item.get_closest_marker("gpu") for item in items):
        import torch

        skipped |= {} if torch.cuda.is_available() else {"gpu": GPU}
    for item in items:
        for marker, reason in skipped.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))
    # First, because a deep backward pass of another test starts threads of autograd, which no fork survives.
    items.sort(key=lambda item: not forks(item))


def forks(item: pytest.Item) -> bool:
    """Whether the tests of a file start processes by forking, to compute gradients in them."""
    names = vars(item.module)  # type: ignore[attr-defined]
    return "in_child" in names or any(getattr(value, "__module__", "") in FORKING for value in names.values())


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """No garbage collections while tests are collected: what that makes stays."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Leave what the imports made out of garbage collections, each of which takes as long as several small tests."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000, 20, 20)  # as Python has it, 8 % of the CPU time of tests/models went into collections
    if "torch" in sys.modules:
        import torch
        from initial_values import trunc_normal_

        torch.nn.init.trunc_normal_ = trunc_normal_


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's clients may ask the network, whatever the shell says: for tests that stand in for the hub.

    The clients read the variables once, at import, so what they remember is set too.
    """
    import datasets
    from huggingface_hub import constants

    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
