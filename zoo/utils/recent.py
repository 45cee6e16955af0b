"""Values that are kept while they are in use, such as open files."""

import os
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """The values that were used most recently, made when they are missing. A copy in another process starts empty.

    Args:
        make: Makes the value of a key.
        most: Number of values that are kept.
        close: Called with a value that is kept no longer.
    """

    def __init__(self, make: Callable[..., T], most: int, close: Callable[[T], object] | None = None) -> None:
        self.make, self.most, self.close = make, most, close
        self._reset()

    def __call__(self, *key: Hashable) -> T:
        if self._process != os.getpid():  # forked: the files belong to the parent
            self._reset()
        if key in self._values:
            self._values.move_to_end(key)
            return self._values[key]
        while len(self._values) >= self.most:
            _, oldest = self._values.popitem(last=False)
            if self.close is not None:
                self.close(oldest)
        self._values[key] = value = self.make(*key)
        return value

    def __getstate__(self) -> dict[str, Any]:
        return {"make": self.make, "most": self.most, "close": self.close}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    def _reset(self) -> None:
        self._values: OrderedDict[tuple[Hashable, ...], T] = OrderedDict()
        self._process = os.getpid()
