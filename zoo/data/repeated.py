"""Test items that are training items, too: a score on them says little about new ones."""

import hashlib
from collections.abc import Hashable, Sequence
from pathlib import Path

from zoo.utils.console import announce


def announce_repeated(train: Sequence[Hashable], test: Sequence[Hashable], noun: str) -> None:
    """Say how many test items are among those of training.

    Files (paths) and their bytes are the same if their bytes are; other items if they are equal. noun: the word for
    several items.
    """
    sizes = {_size(item) for item in train} & {_size(item) for item in test}  # other files need not be read
    known, those = ({_key(item, sizes, role) for item in items} for role, items in (("train", train), ("test", test)))
    if not known & those:
        return
    count = sum(_key(item, sizes, "test") in known for item in test)
    verb = "is" if count == 1 else "are"
    announce(f"{count:,} of {len(test):,} test {noun} {verb} in the training set, too: what the model reaches on them "
             f"says little about new ones")  # fmt: skip


def _size(item: Hashable) -> int | None:
    """The number of bytes of a file; None for other items, and for a file that cannot be read: an error elsewhere."""
    try:
        return item.stat().st_size if isinstance(item, Path) else len(item) if isinstance(item, bytes) else None
    except OSError:
        return None


def _key(item: Hashable, sizes: set[int | None], role: str) -> Hashable:
    """What equal items have in common; of a file that no other has the size of, nothing."""
    if not isinstance(item, Path | bytes):
        return item
    if (size := _size(item)) is None or size not in sizes:
        return (role, item)
    return hashlib.blake2b(item.read_bytes() if isinstance(item, Path) else item, digest_size=16).digest()
