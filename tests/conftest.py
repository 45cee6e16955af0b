"""Its place puts tests/ on the path, for the helpers that several folders share."""

import pytest


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
