"""The planner against what processes do: their memory, their exchanges, and the code that divides their models."""

import json
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed.pipelining  # here and not in each child
import torch.nn.functional as F
from live_memory import LiveMemory
from planner_cases import CPU, GPT, MODELS, PLANS, peak, predicted, values
from ranks import ranks
from torch import distributed as dist
from torch.distributed.pipelining import PipelineStage
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.utils._python_dispatch import TorchDispatchMode

import zoo
from zoo.cli.main import main
from zoo.inference.cost import empty_batch, meta_copy
from zoo.parallel.exchanges import OF_CALL, Exchange
from zoo.parallel.pipeline import make_pipeline
from zoo.parallel.place import parallelize
from zoo.parallel.plan import Plan
from zoo.tasks.optimizer import adamw
from zoo.training.planner.batch import read_batch
from zoo.training.planner.estimate import Estimator
from zoo.training.planner.hardware import GPUS
from zoo.training.planner.links import memory_of_machine
from zoo.training.planner.scale import of_rows, repeated
from zoo.training.planner.search import plan_run
from zoo.training.planner.timed_steps import Timed, case_of, scaled
from zoo.training.planner.timing import Group, exchanging
from zoo.training.planner.trace import Division, backward, imaginary_processes, trace

# --- memory -----------------------------------------------------------------------------------------------------------

CASES = [(name, replace(plan, checkpointing=how), rows)
         for name in MODELS for plan in PLANS for how, rows in ((None, 1), ("selective", 3), ("full", 8))]  # fmt: skip
CASES = [case for case in CASES if not (case[1].context > 1 and case[0] == "vit_cifar_tiny")]  # drop_path


@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.full) for part in range(1, 19))])
def test_memory_is_never_more_than_predicted_and_within_ten_percent(part: int) -> None:
    for name, plan, rows in CASES[part::19]:
        measured, found = peak(name, plan, rows), predicted(name, plan, rows).memory.total
        assert measured <= found <= 1.1 * measured, (name, plan, plan.checkpointing, rows, found / measured)


AUTOCAST = [(name, plan, rows) for name, plan, rows in CASES if plan.mixed_precision is None]


@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.full) for part in range(1, 48))])
def test_memory_of_autocast(part: int) -> None:
    """Norms and residuals are in float32, products in bfloat16, and each weight has a copy."""
    for name, plan, rows in AUTOCAST[part::48]:
        measured, found = peak(name, plan, rows, True), predicted(name, plan, rows, True).memory.total
        assert measured <= found <= 1.1 * measured, (name, plan, plan.checkpointing, rows, found / measured)


# --- exchanges --------------------------------------------------------------------------------------------------------


class Calls(TorchDispatchMode):
    """Counts the operations of torch.distributed, and the bytes that are put into them."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if any(issubclass(each, DTensor) for each in types):
            return NotImplemented
        name = func._overloadpacket.__name__
        if func.namespace in ("c10d", "_c10d_functional") and name in OF_CALL:
            tensors = args[0] if isinstance(args[0], list) else [args[0]]
            if name in ("_allgather_base_", "_reduce_scatter_base_", "alltoall_base_", "allgather_"):  # output, input
                tensors = args[1] if isinstance(args[1], list) else [args[1]]
            operation = OF_CALL[name].operation
            self.count[operation] += 1
            self.bytes[operation] += sum(x.numel() * x.element_size() for x in tensors)
        return func(*args, **(kwargs or {}))


def summed(exchanges: tuple[Exchange, ...]) -> dict[str, tuple[int, int]]:
    operations = {each.operation for each in exchanges}
    return {name: (sum(e.count for e in exchanges if e.operation == name),
                   sum(e.bytes for e in exchanges if e.operation == name)) for name in operations}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "plan"),
    [
        ("gpt_nano", Plan(data=64)),
        ("llama_nano", Plan(shard=128, data=8)),
        ("gpt_nano", Plan(tensor=8, shard=128, sequence=True)),
        ("llama_nano", Plan(tensor=4, shard=16, mixed_precision="bf16")),
        ("bert_tiny", Plan(tensor=2, data=32, checkpointing="selective")),
        ("llama_nano", Plan(context=4, shard=8, data=2, checkpointing="full")),
        ("gpt_nano", Plan(context=2, tensor=4, shard=8)),
        ("vit_cifar_tiny", Plan(tensor=8, data=16, shard=8, sequence=True)),
    ],
    ids=str,
)
def test_exchanges_of_64_and_1024_processes_are_exact(name: str, plan: Plan) -> None:
    assert plan.world in (64, 1024)
    found = predicted(name, plan, 2)
    with imaginary_processes(plan.world):
        model: Any = zoo.create_model(name, seed=0, **MODELS[name])
        batch = values(model, 2)
        model = parallelize(model.train(), plan, plan.mesh("cpu"))
        with CommDebugMode() if plan.checkpointing is None else Calls() as counted, Calls() as calls:
            backward(model, batch, whole_logits=False)
    expected = summed(found.exchanges)
    assert {key: (calls.count[key], calls.bytes[key]) for key in calls.count} == expected
    if isinstance(counted, CommDebugMode):  # it does not follow recomputed modules
        assert counted.get_total_counts() == sum(count for count, _ in expected.values())


PIPELINES = (Plan(pipeline=2, shard=2, microbatches=4), Plan(pipeline=2, tensor=2, microbatches=2))


def counting(real: Any, sent: list[Any]) -> Any:
    """The method of a stage that gives its sends, which `sent` gets as well."""

    def method(*args: Any) -> Any:
        sent.extend(found := real(*args))
        return found

    return method


def stepped(rank: int, plan: Plan) -> tuple[dict[str, tuple[int, int]], int]:
    """What a process exchanges in its second step, and its peak of memory."""
    model = zoo.create_model("gpt_nano", seed=0, **GPT | {"tie_word_embeddings": False, "depth": 4})
    pipeline = make_pipeline(model, plan, plan.mesh("cpu"),
                             lambda y, b: F.cross_entropy(y.flatten(0, 1).float(), b["labels"].flatten()))  # fmt: skip
    del model
    ids = torch.zeros(2 * plan.microbatches, 64, dtype=torch.long)  # type: ignore[operator]
    optimizer, sent = adamw([{"params": list(pipeline.parameters())}]), []
    for name in ("get_fwd_send_ops", "get_bwd_send_ops"):
        setattr(PipelineStage, name, counting(getattr(PipelineStage, name), sent))
    for _ in range(2):
        sent.clear()
        memory, calls = LiveMemory(), Calls()
        with memory, calls:
            memory.follow(*pipeline.parameters(), *[x for s in optimizer.state.values() for x in s.values()])
            pipeline.step({"input_ids": ids, "labels": ids})
            optimizer.step()
            optimizer.zero_grad()
    found = {key: (calls.count[key], calls.bytes[key]) for key in calls.count if key != "broadcast"}  # that of the loss
    return found | {"send": (len(sent), sum(op.tensor.nbytes for op in sent))}, memory.peak


@pytest.mark.parametrize("plan", PIPELINES, ids=str)
def test_pipelines(plan: Plan) -> None:
    model = zoo.create_model("gpt_nano", **GPT | {"tie_word_embeddings": False, "depth": 4})
    rows = 2 * plan.microbatches * plan.batch_parts  # type: ignore[operator]
    (found,) = plan_run(model, plan.world, rows, gpu=CPU, precision="fp32", only=[plan]).plans
    measured = ranks(plan.world, stepped, plan)
    most = max(memory for _, memory in measured)
    assert most <= found.memory.total <= 1.1 * most
    assert summed(found.exchanges) in [exchanges for exchanges, _ in measured]


# --- traces -----------------------------------------------------------------------------------------------------------


def test_a_trace_of_three_blocks_and_of_few_rows_is_that_of_many() -> None:
    three, six = (meta_copy("gpt_nano", GPT | {"depth": depth}) for depth in (3, 6))
    traces = {(model, rows): trace(model, empty_batch(model, rows), Division(rows=rows))
              for model, rows in ((three, 1), (three, 2), (three, 5), (six, 1))}  # fmt: skip
    made = repeated(traces[three, 1], 6)
    assert [(s.phase, s.unit, s.peak, s.after) for s in made.segments if s.unit] == [
        (s.phase, s.unit, s.peak, s.after) for s in traces[six, 1].segments if s.unit
    ]
    assert made.total().flops == traces[six, 1].total().flops
    five = of_rows(traces[three, 1], traces[three, 2], 5)
    most, expected = (max(s.peak for s in each.segments) for each in (five, traces[three, 5]))
    assert abs(most - expected) <= 0.01 * expected
    assert five.total().flops == traces[three, 5].total().flops


def test_flops_are_those_of_zoo_info() -> None:
    model = meta_copy("vit_cifar_tiny", MODELS["vit_cifar_tiny"])
    estimator = Estimator(model, read_batch("4-images", model), CPU, bf16=False)
    from zoo.inference.cost import measure

    assert estimator.flops() == 3 * measure(model, 4).flops


# --- time, and the list -----------------------------------------------------------------------------------------------


def test_time_of_exchanges() -> None:
    device = replace(CPU, link_gb_s=100.0, link_us=0.0, network_gb_s=10.0, network_us=0.0)
    assert exchanging(Exchange("all_reduce", 1, 8 * 10**9), Group(8, 8), device) == pytest.approx(0.14)
    assert exchanging(Exchange("all_gather", 1, 10**9), Group(8, 8), device) == pytest.approx(0.07)
    assert exchanging(Exchange("reduce_scatter", 1, 16 * 10**9), Group(16, 8), device) == pytest.approx(0.15)
    assert exchanging(Exchange("reduce_scatter", 1, 16 * 10**9), Group(16, 1), device) == pytest.approx(1.5)
    assert exchanging(Exchange("send", 1, 10**9), Group(2, 1), device) == pytest.approx(0.1)
    assert exchanging(Exchange("all_reduce", 1, 10**9), Group(1, 1), device) == 0.0


def test_timed_steps_scale_the_rates() -> None:
    """Few blocks are timed; the rest is in proportion. While a stage waits, the other computes alone."""
    model = meta_copy("gpt_nano", GPT | {"depth": 6, "tie_word_embeddings": False})
    estimator = Estimator(model, read_batch(8, model), CPU, bf16=False)
    pipeline, copies = (estimator.estimate(plan, 4 // plan.parts_of_pipeline * plan.pipeline)
                        for plan in (Plan(pipeline=2, microbatches=4), Plan(data=2)))  # fmt: skip
    assert case_of(pipeline).plan == Plan() and case_of(pipeline).whole_logits
    blocks = meta_copy("gpt_nano", GPT | {"depth": 3, "tie_word_embeddings": False})
    rough = Estimator(blocks, estimator.batch, CPU, bf16=False).estimate(Plan(data=2), 4).time
    timed = scaled(estimator, copies, Timed(10 * rough.computing, 10 * rough.computing, 3 * rough.optimizer))
    assert timed.computing == pytest.approx(10 * copies.time.computing)
    assert timed.optimizer == pytest.approx(3 * copies.time.optimizer)
    assert timed.exchanging == copies.time.exchanging and timed.waiting == 0
    alike, faster = (scaled(estimator, pipeline, Timed(1.0, alone, 1.0)) for alone in (1.0, 0.75))
    assert alike.waiting == pytest.approx((alike.computing + alike.exchanging) / 4)
    assert faster.waiting == pytest.approx(alike.waiting / 2)


def test_the_list() -> None:
    model = meta_copy("gpt_nano", GPT)
    found = plan_run(model, 4, "64-rows", gpu=replace(GPUS["h100"], memory_gb=0.0025), shown=4)
    assert 0 < len(found.plans) <= 4 and all(each.memory.total <= 2.5e6 for each in found.plans)
    times = [each.time.total for each in found.plans]
    assert times == sorted(times) and 0 < found.mfu(found.plans[0]) < 1
    assert any("more than 0 GB for a process" in refusal.reason for refusal in found.refusals)
    assert any("blocks cannot be cut" in refusal.reason for refusal in found.refusals)
    assert all(each.plan.world == 4 for each in found.plans)
    assert f"batch_size=64 accumulate_grad_batches={found.plans[0].microbatches}" in found.recipe(found.plans[0])


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["plan", "vit_cifar_tiny", "depth=2", "--gpus", "2", "--batch", "8-images", "--tflops", "100"]
    line += ["--precision", "fp32"]  # 100 TFLOP/s are those of the precision
    assert main([*line, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    best = found["plans"][0]
    assert found["hardware"]["tflops"] == 100 and found["batch"]["rows"] == 8
    assert best["memory_bytes"]["total"] > 0 and best["recipe"].endswith("precision=fp32")
    assert Plan.from_dict(best["plan"]).world == 2
    assert main(line) == 0
    assert "devices=2 batch_size=8" in capsys.readouterr().out


@pytest.mark.full
def test_a_model_that_gives_several_outputs(capsys: pytest.CaptureFixture[str]) -> None:
    """CoCa has an output layer of tokens, and its output is features and logits."""
    main(["plan", "coca_nano", "--gpus", "2", "--batch", "4"])
    assert "plan.shard=2" in capsys.readouterr().out


@pytest.mark.full
def test_the_command_measures_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    """A process has its share of the memory; the links are those of two processes that are started for it."""
    line = ["plan", "vit_cifar_tiny", "depth=2", "--gpus", "2", "--batch", "8-images", "--measure"]
    assert main([*line, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    device = found["hardware"]
    assert device["source"] == "measured on this machine" and device["node"] == 2
    assert all(device[name] > 0 for name in ("tflops", "bandwidth_gb_s", "link_gb_s", "link_us", "launch_us"))
    assert device["memory_gb"] == pytest.approx(memory_of_machine() / 2e9)
    assert {Plan.from_dict(each["plan"]).world for each in found["plans"]} == {2}


def test_what_is_not_counted_is_said() -> None:
    model = meta_copy("siglip_tiny", {"image.depth": 1, "text.depth": 1})
    found = plan_run(model, 2, 4, only=[Plan(data=2)])
    assert len(found.notes) == 1 and "contrastive loss" in found.notes[0]
    assert not plan_run(meta_copy("gpt_nano", GPT), 2, 4, only=[Plan(shard=2, mixed_precision="bf16")]).notes


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("gpt_nano --gpus 2 --batch 100-tokens", "not a whole number of rows of 128 tokens: choose 128-tokens"),
        ("gpt_nano --gpus 2 --batch lots", "expected a number of tokens or rows"),
        ("gpt_nano --gpus 2 --batch 4-rows --length 999", "takes 1 to 128 tokens"),
        ("gpt_nano --gpus 2 --batch 4-rows --length 0", "length=0: GPT2 takes 1 to 128 tokens"),
        ("vit_cifar_tiny --gpus 2 --batch 4k-tokens", "and no text: give the batch in rows"),
        ("gat_small --gpus 2 --batch 4-rows", "GAT: what it computes depends on the values of its inputs"),
        ("gpt_nano --gpus 12 --batch 12-rows", "gpus=12: expected at most 8, the devices of a machine, or a multiple"),
        ("gpt_nano --gpus 2 --batch 4-rows --gpu h100 --measure", "--gpu h100 of another device: omit one of them"),
        ("gpt_nano --gpus 0 --batch 4-rows", "gpus=0: expected at least 1"),
        ("gpt_nano --gpus 2 --batch 4-rows --gpu h10", "gpu='h10' is not in the table; did you mean"),
        ("gpt_nano --gpus 2 --batch 4-rows --tflops -1", "--tflops -1.0: expected more than 0"),
    ],
)
def test_refusals(line: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *line.split()]) == 2
    assert message in capsys.readouterr().err


def test_batch_is_not_an_old_name_of_batch_size(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="batch='lots': expected a number of tokens or rows"):
        main(["--traceback", "plan", "gpt_nano", "--gpus", "2", "--batch", "lots"])
    assert "is now" not in capsys.readouterr().err
    assert main(["info", "gpt_nano", "depth=1", "--batch", "2"]) == 0
    assert "--batch is now --batch-size" in capsys.readouterr().err


def test_a_group_of_processes_is_in_the_way() -> None:
    with imaginary_processes(2):
        assert dist.is_initialized()
        with pytest.raises(ValueError, match="this one has a process group already"):
            plan_run("gpt_nano", 2, 4)
