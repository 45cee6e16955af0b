"""Datasets from the Hugging Face Hub through `datasets`.

A quick connection test comes first, because the retries of `datasets` take half a minute without a network.
"""

import os
import re
import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from zoo.data.sources.fingerprint import note_table
from zoo.data.sources.tables import VALIDATION_NAMES, Table, from_arrow
from zoo.utils.errors import DataError

CONNECT_TIMEOUT = 2.0  # seconds, for the name lookup and the connection together


class HubError(DataError):
    """A dataset could not be loaded from the Hugging Face Hub."""


def reachable(endpoint: str, timeout: float = CONNECT_TIMEOUT) -> bool:
    """Whether a connection to the endpoint, or to its proxy, opens within `timeout` seconds."""
    target = urlsplit(endpoint)
    if not target.hostname:
        return False
    proxy = urllib.request.getproxies().get(target.scheme)
    if proxy and not urllib.request.proxy_bypass(target.hostname):
        target = urlsplit(proxy if "//" in proxy else f"//{proxy}", scheme="http")
    address = (target.hostname or "", target.port or (443 if target.scheme == "https" else 80))
    connected: list[bool] = []

    def connect() -> None:
        try:
            socket.create_connection(address, timeout=timeout).close()
            connected.append(True)
        except OSError:
            connected.append(False)

    # A name lookup has no timeout, so it runs in a daemon thread that can be abandoned.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(timeout)
    return bool(connected and connected[0])


def load_splits(hub: str, config: str | None = None) -> dict[str, Any]:
    """All splits of a Hub dataset, or of one of its configurations, as pyarrow Tables by name.

    They come from the Hub, or from the local cache of `datasets`.

    Raises:
        HubError: The Hub cannot be reached and the dataset is not in the cache.
    """
    found = _load(hub, *([] if config is None else [config]))
    tables = {name: part.with_format("arrow")[:] for name, part in found.items()}
    for name, table in tables.items():
        note_table(f"hub {hub} {name}", table)
    return tables


def download(hub: str) -> None:
    """Download a Hub dataset to the local cache of `datasets`, if it is not there. Raises: HubError."""
    _load(hub)


def hub_name(text: str) -> tuple[str, str | None] | None:
    """(repository, configuration) of a Hub dataset name, or None for other texts.

    Accepts `org/name`, `org/name:config`, `org/name/config`, `name:config` and `hf-hub:name`.
    """
    bare = text.removeprefix("hf-hub:")
    found = re.fullmatch(r"((?:[\w.-]+/)?[\w.-]+)(?::([\w.-]+))?|([\w.-]+/[\w.-]+)/([\w.-]+)", bare)
    if not found or (bare == text and not set("/:") & set(bare)):
        return None
    return found[1] or found[3], found[2] or found[4]


def _load(hub: str, *config: str) -> Any:
    """`datasets.load_dataset`, with its errors raised as HubError."""
    from huggingface_hub import constants

    offline = constants.is_offline_mode() or not reachable(constants.ENDPOINT)
    source = hub
    if offline and not _cached(hub):
        reason = "HF_HUB_OFFLINE is set" if constants.is_offline_mode() else f"no connection to {constants.ENDPOINT}"
        known = _with_owner(hub)
        source = known if _cached(known) else _snapshot(known)
        if not source:
            raise HubError(f"{hub} is not in the local cache and {reason}")
    import datasets

    try:
        with _offline(datasets, constants) if offline else nullcontext():
            return datasets.load_dataset(source, *config)
    except Exception as error:  # the hub client, its storage and its file readers raise many types
        if listed := re.search(r"(?:Config name is missing|BuilderConfig .* not found).*?(\[.*?\])", str(error), re.S):
            problem = f"has no configuration {config[0]!r}" if config else "has several configurations"
            raise HubError(f"{hub} {problem}: choose one of {listed[1]}, e.g. data={hub}:{_first(listed[1])}") from None
        raise HubError(f"{hub} could not be read: {type(error).__name__}: {error}") from error


def _first(listed: str) -> str:
    """ "['cola', 'sst2']" -> "cola"."""
    return next(iter(re.findall(r"'([^']+)'", listed)), "NAME")


def _cached(hub: str) -> bool:
    """Whether the dataset is in the cache of `datasets`, checked without importing `datasets`."""
    return (_cache_folder() / hub.replace("/", "___")).is_dir()


def _cache_folder() -> Path:
    from huggingface_hub import constants

    return Path(os.environ.get("HF_DATASETS_CACHE") or os.path.join(constants.HF_HOME, "datasets"))


def _with_owner(hub: str) -> str:
    """`org/beans` for `beans`, which the hub redirects, if the caches have one dataset of that name; else as it is."""
    from huggingface_hub import constants

    if "/" in hub:
        return hub
    prepared = {folder.name.replace("___", "/") for folder in _cache_folder().glob(f"*___{hub}")}
    fetched = {folder.name.split("--")[1] + "/" + hub for folder in Path(constants.HF_HUB_CACHE).glob(
        f"datasets--*--{hub}")}  # fmt: skip
    found = prepared | fetched
    return found.pop() if len(found) == 1 else hub


def _snapshot(hub: str) -> str:
    """The folder of a dataset repository that `hf download` has put into the cache of the hub; empty if none has."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return str(snapshot_download(hub, repo_type="dataset", local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return ""


@contextmanager
def _offline(datasets: Any, constants: Any) -> Iterator[None]:
    """Offline mode of both libraries, which read HF_HUB_OFFLINE only at import."""
    before = datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before


def hub_tables(hub: str, config: str | None = None) -> dict[str, Table]:
    """Tables of a Hub dataset by split: train and, if present, validation and test."""
    splits, tables = load_splits(hub, config), {}
    aliases = {"train": ("train",), "validation": (*VALIDATION_NAMES, "validation_matched"), "test": ("test",)}
    for split, names in aliases.items():
        if found := next((name for name in names if name in splits), None):
            tables[split] = from_arrow(splits[found], f"{hub} {found}")
    if "train" not in tables:
        raise DataError(f"hub {hub} has the splits {', '.join(splits)}: expected one named train")
    return tables
