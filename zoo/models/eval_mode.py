"""A model in evaluation mode for the length of a `with` block."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

LOCK = threading.Lock()
OPEN: dict[nn.Module, list[int]] = {}  # {module in an open context: [how many, whether it was in training mode]}


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode; afterwards every module is in the mode that it was in.

    The mode of a module is that of all threads. Contexts of several threads, or of a model and a part of it, may end in
    any order: a module is in evaluation mode until the last of them ends. A thread that trains the model meanwhile is
    not protected.
    """
    with LOCK:
        modules = list(model.modules())
        for module in modules:
            OPEN.setdefault(module, [0, module.training])[0] += 1
        model.eval()
    try:
        yield
    finally:
        with LOCK:
            for module in modules:
                count = OPEN[module]
                count[0] -= 1
                if not count[0]:
                    module.training = bool(OPEN.pop(module)[1])
