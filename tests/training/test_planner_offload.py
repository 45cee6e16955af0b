"""The planner against what processes do with `cpu_offload`, and with accumulated gradients."""

import json
from dataclasses import replace
from typing import Any

import pytest
from host_memory import HostAndDevice
from planner_cases import CPU, GPT, MODELS, PLANS, measured, peak, predicted

from zoo.cli.main import main
from zoo.inference.cost import meta_copy
from zoo.parallel.plan import Plan
from zoo.training.planner.batch import read_batch
from zoo.training.planner.estimate import Estimator
from zoo.training.planner.hardware import GPUS
from zoo.training.planner.search import Search, plan_run

SHARDS = (
    Plan(shard=4), Plan(shard=2, mixed_precision="bf16"), Plan(data=2, shard=2), Plan(tensor=2, shard=4, sequence=True),
    Plan(context=2, shard=2),
)  # fmt: skip
STEPS: tuple[tuple[Any, int, int], ...] = ((None, 1, 1), ("selective", 3, 2), ("full", 8, 2), ("full", 1, 1))
OFFLOADED = [(name, replace(plan, checkpointing=how, cpu_offload=True), rows, count)
             for name in MODELS for plan in SHARDS for how, rows, count in STEPS
             if not (plan.context > 1 and name == "vit_cifar_tiny")]  # fmt: skip
BESIDE = replace(CPU, host_memory_gb=64.0)  # as a device with a memory of its own


@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.full) for part in range(1, 38))])
def test_memory_and_copies_of_cpu_offload(part: int) -> None:
    """What is on the device, what on the host, and the bytes of FSDP2's copies in between."""
    for name, plan, rows, count in OFFLOADED[part::38]:
        found = predicted(name, plan, rows, microbatches=count, hardware=BESIDE)
        real = measured(name, plan, rows, HostAndDevice, microbatches=count)
        case = name, plan, plan.checkpointing, rows, count
        assert real.peak <= found.memory.total <= 1.15 * real.peak, (*case, found.memory.total / real.peak)
        assert real.host_peak <= found.host.total <= 1.01 * real.host_peak, (*case, found.host.total / real.host_peak)
        assert (real.to_device, real.to_host) == found.copied, case


PASSES: tuple[tuple[Any, int], ...] = ((None, 1), ("full", 3))
ACCUMULATED = [(name, replace(plan, checkpointing=how), rows)
               for name in MODELS for plan in (*PLANS, *SHARDS[1:3]) for how, rows in PASSES
               if not (plan.context > 1 and name == "vit_cifar_tiny")]  # fmt: skip


@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.full) for part in range(1, 58))])
def test_memory_with_accumulated_gradients(part: int) -> None:
    """Of two microbatches: gradients of the first are there from the beginning of the second."""
    for name, plan, rows in ACCUMULATED[part::58]:
        real, found = peak(name, plan, rows, microbatches=2), predicted(name, plan, rows, microbatches=2).memory.total
        assert real <= found <= 1.1 * real, (name, plan, plan.checkpointing, rows, found / real)


@pytest.fixture
def few_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    plans = Plan(shard=2, mixed_precision="bf16"), Plan(data=2)
    monkeypatch.setattr(Search, "plans", lambda search: iter(plans))


@pytest.mark.usefixtures("few_plans")
def test_plans_with_cpu_offload_are_listed_where_no_other_fits_or_by_an_option() -> None:
    model, small = meta_copy("gpt_nano", GPT), replace(GPUS["h100"], memory_gb=0.0012)
    alone = plan_run(model, 2, 2, gpu=small)
    assert alone.plans and all(e.plan.cpu_offload and e.host and e.memory.total <= 1.2e6 for e in alone.plans)
    assert "no plan without it fits into 0.0012 GB" in alone.offload and "50 GB/s each way over PCIe" in alone.offload
    assert "plan.cpu_offload=true" in alone.recipe(alone.plans[0])
    none = plan_run(model, 2, 2, gpu=replace(small, host_memory_gb=1e-5))
    assert not none.plans and not none.offload
    assert any("GB of the host for a process" in refusal.reason for refusal in none.refusals)
    beside = plan_run(model, 2, 2, cpu_offload=True)
    assert [e.plan.cpu_offload for e in beside.plans].count(False) == 2
    assert "listed beside" in beside.offload
    assert any(e.plan.cpu_offload for e in beside.plans)
    of_cpu = plan_run(model, 2, 2, gpu=CPU, precision="bf16", cpu_offload=True)
    assert not any(e.plan.cpu_offload for e in of_cpu.plans)  # its memory is that of the host


def test_time_of_cpu_offload() -> None:
    """AdamW at the rate of the host; copies wait where computation is shorter, and of later microbatches always."""
    model = meta_copy("gpt_nano", GPT)
    device = replace(GPUS["h100"], pcie_gb_s=1e-3, host_gb_s=0.5)
    plan = Plan(shard=4, cpu_offload=True)
    one, two = (Estimator(model, read_batch(rows, model), device, bf16=False).estimate(plan, 2) for rows in (8, 16))
    assert one.microbatches == 1 and two.microbatches == 2
    shards = two.copied.to_host / 2
    tensors = len(list(model.parameters()))
    assert one.time.optimizer == pytest.approx(28 * shards / 4 / 0.5e9 + tensors * 1e-6)
    assert one.time.copying == pytest.approx(2 * shards / 1e6, rel=0.01)  # the larger direction of each pass
    assert two.time.copying - 2 * one.time.copying == pytest.approx(shards / 1e6 + 3 * shards / 0.5e9)
    assert replace(one.time, copying=0.0).total == pytest.approx(one.time.total - one.time.copying)


@pytest.mark.usefixtures("few_plans")
def test_the_table_has_what_the_host_holds(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["plan", "gpt_nano", *(f"{key}={value}" for key, value in GPT.items()), "--gpus", "2", "--batch", "2-rows"]
    line += ["--memory-gb", "0.0012"]
    assert main([*line, "--pcie-gb-s", "10", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    best = found["plans"][0]
    assert found["hardware"]["pcie_gb_s"] == 10 and best["copied_bytes"]["to_host"] > 0
    assert best["host_bytes"]["total"] > best["host_bytes"]["weights"] > 0
    assert main(line) == 0
    out = capsys.readouterr().out
    assert "of the host: weights" in out and "cpu_offload: no plan without it fits" in out
