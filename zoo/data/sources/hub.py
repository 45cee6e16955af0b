"""The hub through `datasets`, asked only when it can answer: its own retries need half a minute to find a cut cable."""

import os
import re
import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from urllib.parse import urlsplit

from zoo.data.sources.tables import VALIDATION_NAMES, Table, from_arrow
from zoo.utils.errors import DataError

PATIENCE = 2.0  # seconds for a name lookup and a connection; with the import of `datasets` this stays below three


class HubError(DataError):
    """The hub did not give the data set; says why."""


def reachable(endpoint: str, patience: float = PATIENCE) -> bool:
    """Whether a connection to the endpoint, or to the proxy in front of it, opens within `patience` seconds."""
    target = urlsplit(endpoint)
    if not target.hostname:
        return False
    proxy = urllib.request.getproxies().get(target.scheme)
    if proxy and not urllib.request.proxy_bypass(target.hostname):
        target = urlsplit(proxy if "//" in proxy else f"//{proxy}", scheme="http")
    address = (target.hostname or "", target.port or (443 if target.scheme == "https" else 80))
    answers: list[bool] = []

    def knock() -> None:
        try:
            socket.create_connection(address, timeout=patience).close()
            answers.append(True)
        except OSError:
            answers.append(False)

    # A name lookup takes no timeout, so it waits in a thread that may be left behind.
    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    thread.join(patience)
    return bool(answers and answers[0])


def load_table(hub: str, split: str) -> Any:
    """One split of a hub data set as a pyarrow Table: from the hub, else from what an earlier run left in the cache.

    Raises:
        HubError: It is neither to be reached nor in the cache.
    """
    return _load(hub, split=split).with_format("arrow")[:]


def load_splits(hub: str, config: str | None = None) -> dict[str, Any]:
    """All splits of a hub data set, or of one of its configurations, as pyarrow Tables by name; see `load_table`."""
    found = _load(hub, *([] if config is None else [config]))
    return {name: part.with_format("arrow")[:] for name, part in found.items()}


def hub_name(text: str) -> tuple[str, str | None] | None:
    """(repository, configuration) of `org/name`, `org/name:config`, `org/name/config`, `name:config` and, with
    `hf-hub:` before it, `name`; None for what is none of them."""
    bare = text.removeprefix("hf-hub:")
    found = re.fullmatch(r"((?:[\w.-]+/)?[\w.-]+)(?::([\w.-]+))?|([\w.-]+/[\w.-]+)/([\w.-]+)", bare)
    if not found or (bare == text and not set("/:") & set(bare)):
        return None
    return found[1] or found[3], found[2] or found[4]


def _load(hub: str, *config: str, **split: str) -> Any:
    """`datasets.load_dataset`, its errors as HubError."""
    from huggingface_hub import constants

    offline = constants.is_offline_mode() or not reachable(constants.ENDPOINT)
    if offline and not _cached(hub):
        reason = "HF_HUB_OFFLINE is set" if constants.is_offline_mode() else f"no connection to {constants.ENDPOINT}"
        raise HubError(f"{hub} is not in the local cache and {reason}")
    import datasets

    try:
        with _offline(datasets, constants) if offline else nullcontext():
            return datasets.load_dataset(hub, *config, **split)
    except Exception as error:  # whatever the hub's client, its storage or its file readers raise
        if listed := re.search(r"(?:Config name is missing|BuilderConfig .* not found).*?(\[.*?\])", str(error), re.S):
            which = f"has no configuration {config[0]!r}" if config else "has several configurations"
            raise HubError(f"{hub} {which}: say one of {listed[1]}, e.g. data={hub}:{_first(listed[1])}") from None
        raise HubError(f"{hub} could not be read: {type(error).__name__}: {error}") from error


def _first(listed: str) -> str:
    """ "['cola', 'sst2']" -> "cola"."""
    return next(iter(re.findall(r"'([^']+)'", listed)), "NAME")


def _cached(hub: str) -> bool:
    """Whether `datasets` has prepared this data set before; looked up without importing it."""
    from huggingface_hub import constants

    home = os.environ.get("HF_DATASETS_CACHE") or os.path.join(constants.HF_HOME, "datasets")
    return os.path.isdir(os.path.join(home, hub.replace("/", "___")))


@contextmanager
def _offline(datasets: Any, constants: Any) -> Iterator[None]:
    """Both libraries read their switch from the environment at import; here it is known only afterwards."""
    before = datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before


def hub_tables(hub: str, config: str | None = None) -> dict[str, Table]:
    """The splits of a hub data set; validation and test only where it has them."""
    splits, tables = load_splits(hub, config), {}
    usual = {"train": ("train",), "validation": (*VALIDATION_NAMES, "validation_matched"), "test": ("test",)}
    for split, names in usual.items():
        if there := next((name for name in names if name in splits), None):
            tables[split] = from_arrow(splits[there], f"{hub} {there}")
    if "train" not in tables:
        raise DataError(f"hub {hub} has the splits {', '.join(splits)}: there is none to train on")
    return tables
