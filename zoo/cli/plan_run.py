"""What `zoo plan` computes and prints."""

import argparse
import json
import time
from dataclasses import asdict, replace
from typing import Any

from zoo.models.base import Model
from zoo.training.planner.estimate import Estimate
from zoo.training.planner.hardware import Hardware, find_gpu, in_precision
from zoo.training.planner.links import measured_machine
from zoo.training.planner.search import Comparison, plan_run
from zoo.utils.console import format_count, make_table, stdout_console
from zoo.utils.escape import printable, say


def compare(args: argparse.Namespace, name: str, model: Model) -> int:
    """Compare the plans for a model, and print them; 1 if none fits."""
    if args.measure and args.gpu not in (None, "cpu"):
        raise ValueError(
            f"--measure is of this machine's CPU, and --gpu {args.gpu} of another device: omit one of them"
        )
    measured = args.gpu == "cpu" or args.measure
    precision = args.precision or ("fp32" if measured else "bf16")
    hardware = device(args, model, precision)
    found = plan_run(model, args.gpus, args.batch, gpu=hardware, length=args.length, precision=precision,
                     clock=time.perf_counter if measured and args.tflops is None else None,
                     cpu_offload=args.cpu_offload)  # fmt: skip
    found = replace(found, model=name)
    if args.json:
        say(json.dumps(as_json(found), indent=2))
    else:
        show(found)
    return 0 if found.plans else 1


def device(args: argparse.Namespace, model: Model, precision: str) -> Hardware:
    """The device of the options."""
    if args.gpu == "cpu" or args.measure:
        if args.gpus < 1:
            raise ValueError(f"gpus={args.gpus}: expected at least 1")
        node = args.node or args.gpus  # processes of this machine
        hardware = measured_machine(model, args.batch, args.length, precision, processes=min(args.gpus, node))
        hardware = replace(hardware, node=node)
    else:
        hardware = in_precision(find_gpu(args.gpu or "h100"), precision)
    given: dict[str, Any] = {
        "tflops": args.tflops, "bandwidth_gb_s": args.bandwidth_gb_s, "memory_gb": args.memory_gb,
        "link_gb_s": args.link_gb_s, "network_gb_s": args.network_gb_s, "node": args.node,
        "host_memory_gb": args.host_memory_gb, "pcie_gb_s": args.pcie_gb_s,
    }  # fmt: skip
    given = {name: value for name, value in given.items() if value is not None}
    for name, value in given.items():
        if value <= 0:
            raise ValueError(f"--{name.replace('_', '-')} {value}: expected more than 0")
    if args.tflops:
        given |= {"attention_tflops": args.tflops * hardware.attention_tflops / hardware.tflops, "peak_tflops": None}
    if args.link_gb_s:
        given["links"] = {}
    return replace(hardware, **given) if given else hardware


# --- what it prints ---------------------------------------------------------------------------------------------------


def show(found: Comparison) -> None:
    """Print the tables of a comparison."""
    out = stdout_console()
    batch, device = found.batch, found.hardware
    tokens = "" if batch.tokens is None else f" of {batch.tokens:,} tokens"
    out.print(f"{printable(found.model)}, {format_count(found.parameters)} parameters, {found.gpus} x {device.name}, "
              f"{batch.rows:,} rows{tokens} a step", style="bold")  # fmt: skip
    rates = (f"{device.tflops:,.4g} TFLOP/s, {device.bandwidth_gb_s:,.4g} GB/s, {device.memory_gb:g} GB; "
             f"{device.link_gb_s:,.3g} GB/s in a machine of {device.node}, {device.network_gb_s:,.3g} GB/s "
             "between machines")  # fmt: skip
    out.print(rates, soft_wrap=True)
    out.print(f"({printable(device.source)})", style="dim", soft_wrap=True, markup=False)
    unit = "rows/s" if batch.tokens is None else "tokens/s"
    columns = ["plan", "recomputes", "rows at a time", "GB", "s a step", unit, "MFU", "GB sent"]
    table = make_table(*columns, *(["GB of host", "GB copied"] if found.offload else []))
    for each in found.plans:
        speed = found.rows_per_second(each) * (batch.tokens or 1)
        plan, kind = each.plan, each.plan.checkpointing or "nothing"
        name = str(plan) + (f" ({plan.schedule})" if plan.pipeline > 1 else "")
        of_host = [] if not found.offload else ["", ""] if each.host is None else [
            gigabytes(each.host.total), gigabytes(sum(each.copied))]  # fmt: skip
        table.add_row(name, kind, f"{each.rows} x {each.microbatches}", gigabytes(each.memory.total),
                      f"{each.time.total:.3g}", f"{speed:,.0f}", f"{found.mfu(each):.1%}",
                      gigabytes(each.exchanged), *of_host)  # fmt: skip
    if found.plans:
        out.print(table)
        show_best(found, found.plans[0], out)
    else:
        out.print("No plan fits.", style="bold")
    if found.offload:
        out.print(f"{found.offload}.", markup=False, soft_wrap=True)
    for note in found.notes:
        out.print(f"Not counted: {note}.", markup=False, soft_wrap=True)
    if found.refusals:
        out.print("Left out:", style="bold")
        for refusal in found.refusals:
            plans = "1 plan" if refusal.count == 1 else f"{refusal.count} plans"
            out.print(f"  {plans}: {printable(refusal.reason)} (such as {printable(refusal.example)})", markup=False,
                      soft_wrap=True)  # fmt: skip


def gigabytes(size: float) -> str:
    """Bytes in GB: with one decimal, with none above 100, and with two significant digits below 1."""
    value = size / 1e9
    return f"{value:.2g}" if value < 1 else f"{value:,.{0 if value > 100 else 1}f}"


def show_best(found: Comparison, best: Estimate, out: Any) -> None:
    """Print the parts of the fastest plan, and the options of a recipe."""
    memory = ", ".join(f"{name} {gigabytes(size)}" for name, size in asdict(best.memory).items() if size)
    seconds = ", ".join(f"{name} {value:.3g}" for name, value in asdict(best.time).items() if value)
    host = ""
    if best.host is not None:
        host = "; of the host: " + ", ".join(f"{name} {gigabytes(size)}" for name, size in asdict(best.host).items())
    out.print(f"fastest: GB of memory: {memory}{host}; seconds: {seconds}", soft_wrap=True)
    out.print(found.recipe(best), markup=False, highlight=False, soft_wrap=True)


def as_json(found: Comparison) -> dict[str, Any]:
    """The comparison as numbers and texts."""
    plans = [
        {
            "plan": each.plan.to_dict(), "rows": each.rows, "microbatches": each.microbatches,
            "memory_bytes": asdict(each.memory) | {"total": each.memory.total},
            "seconds": asdict(each.time) | {"total": each.time.total},
            "rows_per_second": found.rows_per_second(each), "mfu": found.mfu(each),
            "exchanges": [asdict(exchange) for exchange in each.exchanges],
            "host_bytes": None if each.host is None else asdict(each.host) | {"total": each.host.total},
            "copied_bytes": each.copied._asdict(),
            "recipe": found.recipe(each),
        }
        for each in found.plans
    ]  # fmt: skip
    return {
        "model": found.model, "parameters": found.parameters, "gpus": found.gpus, "hardware": asdict(found.hardware),
        "batch": asdict(found.batch), "flops": found.flops, "plans": plans,
        "refusals": [asdict(refusal) for refusal in found.refusals], "notes": list(found.notes),
        "cpu_offload": found.offload,
    }  # fmt: skip
