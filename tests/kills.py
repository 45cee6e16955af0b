"""Kill a process at any one of its calls of the file system."""

import os
from collections.abc import Callable, Sequence
from typing import Any


def killed_at(step: int, work: Callable[[], Any], places: Sequence[tuple[Any, str]]) -> bool:
    """Run `work` in a process that is killed at its call number `step` of the `places`; whether it was.

    places: (module or class, name of its function).
    """
    if (child := os.fork()) == 0:
        remaining = [step]

        def dying(call: Callable[..., Any]) -> Callable[..., Any]:
            def called(*args: Any, **options: Any) -> Any:
                if remaining[0] == 0:
                    os._exit(9)
                remaining[0] -= 1
                return call(*args, **options)

            return called

        for place, name in places:
            setattr(place, name, dying(getattr(place, name)))
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
