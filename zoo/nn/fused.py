"""Elementwise work between matrix products as few compiled kernels, on GPUs."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch._dynamo.exc import TorchDynamoException


class Fused:
    """A function of tensors that torch compiles where the first one is on a GPU, and that runs as written elsewhere.

    Where torch cannot compile (no Triton, no C compiler), it says so once, and the function runs as written. `function`
    must not change its inputs.
    """

    def __init__(self, function: Callable[..., Any], backend: str | Callable = "inductor") -> None:
        self.function, self.backend = function, backend
        self._compiled: Callable[..., Any] | None = None
        self._failed = False

    def __call__(self, *args: Any) -> Any:
        if self._failed or torch.compiler.is_compiling() or not args[0].is_cuda:
            return self.function(*args)
        return self.compiled(*args)

    def compiled(self, *args: Any) -> Any:
        """The result of the compiled function, which is compiled in the first call."""
        if self._compiled is None:
            self._compiled = torch.compile(self.function, backend=self.backend)
        try:
            return self._compiled(*args)
        except TorchDynamoException as error:
            self._failed = True
            reason = str(error).strip().partition("\n")[0]
            warnings.warn(
                f"torch.compile does not work here ({reason}): {self.function.__name__} runs slower", stacklevel=2
            )
            return self.function(*args)
