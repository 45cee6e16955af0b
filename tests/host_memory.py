"""The memory of a device and that of its host, apart, of a process that computes on one CPU with `cpu_offload`."""

from functools import partialmethod
from typing import Any
from unittest.mock import patch

from live_memory import LiveMemory, storage_key
from torch import Tensor, device
from torch.utils._python_dispatch import _disable_current_modes


class HostAndDevice(LiveMemory):
    """Follows storages as LiveMemory does, those of the host apart.

    FSDP2 copies a shard with `tensor.to(device)`, which gives the same tensor where host and device are one CPU: these
    calls make a copy here, as they do beside a GPU.

    peak: most bytes of the device at one time; host_peak: of the host. to_device, to_host: bytes copied.
    """

    def __init__(self) -> None:
        super().__init__()
        self.of_host: set[int] = set()
        self.host_peak, self.to_device, self.to_host = 0, 0, 0
        self.copying = patch.object(Tensor, "to", partialmethod(copy_to, Tensor.to, self))

    def __enter__(self) -> "HostAndDevice":
        super().__enter__()
        self.copying.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self.copying.stop()
        super().__exit__(*error)

    def hold(self, *values: Any) -> None:
        """Follow tensors that are in the memory of the host."""
        self.of_host |= self.follow(*values)

    def follow(self, *values: Any) -> set[int]:
        found = super().follow(*values)
        if self.stepping:
            self.of_host |= found
        return found

    def count(self, name: str) -> None:
        sizes = self.sizes()
        self.of_host &= set(sizes)
        host = sum(sizes[key] for key in self.of_host)
        self.host_peak = max(self.host_peak, host)
        self.note(sum(sizes.values()) - host, name)


def copy_to(tensor: Tensor, move: Any, memory: HostAndDevice, *args: Any, **options: Any) -> Tensor:
    """`tensor.to` that makes a copy of what is moved to a device, and says whose memory it is in."""
    result: Tensor = move(tensor, *args, **options)
    if not (args and isinstance(args[0], device) and "non_blocking" in options and result is tensor):
        return result  # no call of FSDP2
    with _disable_current_modes():
        result = result.clone()
    if storage_key(tensor) in memory.of_host:
        memory.to_device += result.nbytes
        memory.follow(result)
    else:
        memory.to_host += result.nbytes
        memory.hold(result)
    memory.count("copy")
    return result
