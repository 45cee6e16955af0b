"""`zoo plan`: the plans for training a model on many devices. Torch is imported to compare them."""

import argparse
from collections.abc import Callable
from typing import Any

from zoo.cli.settings import settings


def add_command(command: Callable[..., Any], describe_model: Callable[..., Any]) -> None:
    """Add `plan` to the commands. describe_model: that of `zoo.cli.main`."""
    new = command("plan", run, "Memory, exchanges and time of the plans for training a model on many devices.",
                  "zoo plan llama2_7b --gpus 64 --batch 4M-tokens --gpu h100")  # fmt: skip
    new.add_argument("model", help="a name, a folder, or a hub repository")
    new.add_argument("overrides", nargs="*", metavar="key=value", help="fields of its config, e.g. depth=48")
    new.add_argument("--gpus", type=int, required=True, metavar="N", help="number of devices")
    new.add_argument("--batch", required=True, metavar="SIZE",
                     help="of a step: 4M-tokens, 512-rows, 8k-images, 256-clips")  # fmt: skip
    new.add_argument("--length", type=int, help="tokens of each row of a text (max_length, at most 4096)")
    new.add_argument("--gpu", metavar="NAME",
                     help="the device: h100, h200, a100, b200, l40s, or cpu, which is measured (h100)")  # fmt: skip
    new.add_argument("--precision", choices=("bf16", "fp32"), help="of computed values (bf16; of a CPU fp32)")
    for name, unit, what in (
        ("tflops", "TFLOP/s", "that matrix products reach"),
        ("bandwidth-gb-s", "GB/s", "of the memory of a device"),
        ("memory-gb", "GB", "of memory of a device"),
        ("link-gb-s", "GB/s", "between devices of a machine"),
        ("network-gb-s", "GB/s", "between machines, for each device"),
        ("host-memory-gb", "GB", "of memory of a machine, for each device"),
        ("pcie-gb-s", "GB/s", "between the memory of a machine and a device, in each direction"),
    ):
        new.add_argument(f"--{name}", type=float, metavar=unit, help=f"{what}, in place of the table's")
    new.add_argument("--node", type=int, metavar="N", help="devices of a machine (8)")
    new.add_argument("--measure", action="store_true",
                     help="measure this machine's CPU: steps of the plans with few blocks, and exchanges between two "
                     "processes")  # fmt: skip
    new.add_argument("--cpu-offload", action="store_true",
                     help="also list plans with weights, gradients and optimizer states in the memory of the host, "
                     "which else are tried where no other fits")  # fmt: skip
    new.add_argument("--json", action="store_true", help="print JSON")
    new.set_defaults(rest="overrides", describe_model=describe_model)


def run(args: argparse.Namespace) -> int:
    from zoo.cli.plan_run import compare

    name, _, model, _ = args.describe_model(args.model, settings(args.overrides))
    return compare(args, name, model)
