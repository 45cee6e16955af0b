"""Ceilings of devices and of what connects them, in a small table, given, or measured on this machine."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch

from zoo.training.speed import PEAKS
from zoo.utils.errors import did_you_mean

PRODUCTS = 0.79  # of the peak of a data sheet that large products reach: 778 of 989 TFLOP/s on an H100


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """A device and its connections.

    Attributes:
        name: Of the device.
        tflops: TFLOP/s that matrix products reach in the precision of a run.
        attention_tflops: TFLOP/s of fused attention.
        bandwidth_gb_s: GB/s of the memory of a device.
        memory_gb: GB of memory that tensors may take.
        peak_tflops: Of the data sheet, for the MFU; None where it is not known.
        launch_us: Microseconds between two operations of the host.
        link_gb_s, link_us: GB/s that a device sends to others of its machine, and microseconds until they arrive.
        network_gb_s, network_us: The same between machines.
        links: {operation: (GB/s, microseconds)} of those whose own were measured, within a machine.
        node: Devices of a machine.
        host_memory_gb: GB of the memory of the machine for a device, with `cpu_offload`; None where the device is the
            CPU, whose memory is that of the machine.
        host_gb_s: GB/s that the optimizer reads and writes in it, for a device.
        pcie_gb_s: GB/s of copies between the memory of the machine and that of a device, in each direction.
        overlaps: Whether parameters and gradients are exchanged while others are computed.
        on_gpu: Whether the device is a GPU.
        source: Where the numbers are from.
    """

    name: str
    tflops: float
    attention_tflops: float
    bandwidth_gb_s: float
    memory_gb: float
    peak_tflops: float | None = None
    launch_us: float = 5.0
    link_gb_s: float = 100.0
    link_us: float = 10.0
    network_gb_s: float = 25.0
    network_us: float = 20.0
    links: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    node: int = 8
    host_memory_gb: float | None = None
    host_gb_s: float = 58.0
    pcie_gb_s: float = 50.0
    overlaps: bool = True
    on_gpu: bool = True
    source: str = ""


def _gpu(name: str, listed: str, memory_gb: float, **values: float | str | int) -> Hardware:
    peak = PEAKS[listed]
    defaults = {"tflops": round(PRODUCTS * peak), "attention_tflops": round(0.6 * PRODUCTS * peak),
                "host_memory_gb": HOST_MEMORY_GB}  # fmt: skip
    return Hardware(name=name, peak_tflops=peak, memory_gb=memory_gb, **(defaults | values))  # type: ignore[arg-type]


# Of the host, for each GPU, from data sheets of DGX systems: its share of 2 TB; with PCIe 4.0 75 % of its share of the
# channels of memory, and 80 % of 32 GB/s. The defaults of `Hardware` are those with PCIe 5.0.
HOST_MEMORY_GB = 220.0
OLDER: dict[str, float] = {"host_gb_s": 38.0, "pcie_gb_s": 25.0}
_HALF = "large products at 79 % and attention at 47 % of the peak, which is that of the data sheet"
GPUS: dict[str, Hardware] = {
    "h100": _gpu("h100", "H100", 76.0, tflops=778.0, attention_tflops=335.0, bandwidth_gb_s=2980.0, link_gb_s=360.0,
                 network_gb_s=45.0, source="products and copies measured on an H100 80GB; attention: FlashAttention-2 "
                 "(Dao 2023, https://arxiv.org/abs/2307.08691, section 4); 80 % of NVLink's 450 GB/s and 90 % of "
                 "400 Gb/s InfiniBand, as in a DGX H100 (data sheet)"),
    "h200": _gpu("h200", "H200", 135.0, tflops=778.0, attention_tflops=335.0, bandwidth_gb_s=4300.0, link_gb_s=360.0,
                 network_gb_s=45.0, source="as h100; 90 % of the 4.8 TB/s of the data sheet"),
    "a100": _gpu("a100", "A100", 76.0, attention_tflops=190.0, bandwidth_gb_s=1800.0, link_gb_s=240.0,
                 network_gb_s=22.0, **OLDER,
                 source="products at 79 % of the peak; attention: FlashAttention-2 (Dao 2023); 80 % of NVLink's "
                 "300 GB/s and 90 % of 200 Gb/s InfiniBand, as in a DGX A100 80GB (data sheet)"),
    "b200": _gpu("b200", "B200", 172.0, bandwidth_gb_s=7200.0, link_gb_s=720.0, network_gb_s=45.0,
                 host_gb_s=67.0,
                 source=f"{_HALF}; 80 % of NVLink's 900 GB/s and 90 % of 400 Gb/s InfiniBand"),
    "l40s": _gpu("l40s", "L40S", 45.0, bandwidth_gb_s=780.0, link_gb_s=22.0, network_gb_s=11.0,
                 **OLDER,
                 source=f"{_HALF}; PCIe 4.0, and 100 Gb/s between machines"),
}  # fmt: skip


def find_gpu(name: str) -> Hardware:
    """A device of the table. Raises ValueError for an unknown one."""
    found = GPUS.get(name.lower())
    if found is None:
        raise ValueError(f"gpu={name!r} is not in the table{did_you_mean(name, list(GPUS))}: expected one of "
                         f"{', '.join(GPUS)}, or cpu; or give tflops= and bandwidth_gb_s= of the device")  # fmt: skip
    return found


def in_precision(hardware: Hardware, precision: str) -> Hardware:
    """A GPU of the table with products in bf16 or fp32 (TF32, half the rate of bfloat16)."""
    if precision != "fp32":
        return hardware
    return replace(hardware, tflops=hardware.tflops / 2, attention_tflops=hardware.attention_tflops / 4)


# --- measured on this machine -----------------------------------------------------------------------------------------


Clock = Callable[[], float]


def best_of(run: Callable[[], object], repeats: int = 7, clock: Clock = time.perf_counter) -> float:
    """Seconds of the fastest of some runs."""
    times = []
    for _ in range(repeats + 1):
        started = clock()
        run()
        times.append(clock() - started)
    return min(times[1:])


def measured_cpu(
    shapes: list[tuple[int, int, int]], dtype: torch.dtype, clock: Clock = time.perf_counter, memory_gb: float = 16.0
) -> Hardware:
    """This machine's CPU: matrix products of these shapes (rows, inputs, outputs), attention, copies, small operations.

    Attributes that connect processes are measured by `zoo.training.planner.links.measured_links`.
    """
    flops = seconds = 0.0
    for rows, inputs, outputs in shapes:
        x, w = torch.randn(rows, inputs).to(dtype), torch.randn(outputs, inputs).to(dtype)
        grad = torch.randn(rows, outputs).to(dtype)
        for product in (lambda: x @ w.T, lambda: grad @ w, lambda: grad.T @ x):  # noqa: B023
            seconds += best_of(product, clock=clock)
            flops += 2.0 * rows * inputs * outputs
    q = torch.randn(2, 4, 256, 64).to(dtype)
    attention = best_of(lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q), clock=clock)
    big, small = torch.randn(1 << 24), torch.randn(64)  # more than caches hold
    out, moved = torch.empty_like(big), 3 * big.nbytes
    copying = best_of(lambda: torch.mul(big, big, out=out), clock=clock)
    launch = best_of(lambda: [small + small for _ in range(200)], clock=clock) / 200
    return Hardware(
        name="cpu",
        tflops=flops / seconds / 1e12,
        attention_tflops=4.0 * 2 * 4 * 256 * 256 * 64 / attention / 1e12,
        bandwidth_gb_s=moved / copying / 1e9,
        memory_gb=memory_gb,
        launch_us=launch * 1e6,
        overlaps=False,
        on_gpu=False,
        source="measured on this machine",
    )
