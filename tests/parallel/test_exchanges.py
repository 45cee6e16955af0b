"""The exchanges of plans for 64 processes, counted in one of them by a backend that sends nothing."""

from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from ranks import ranks
from torch import Tensor
from torch import distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.pipelining import PipelineStage
from torch.distributed.tensor.debug import CommDebugMode
from torch.testing._internal.distributed.fake_pg import FakeStore

from tests.models import test_contract as single_towers
from zoo.parallel.context import context_parallel
from zoo.parallel.exchanges import Exchange, context_exchanges, pipeline_exchanges
from zoo.parallel.pipeline import Pipeline
from zoo.parallel.token_slices import TokenSlices

NAMES = {"alltoall_base_": "all_to_all", "allgather_": "all_gather", "_reduce_scatter_base_": "reduce_scatter"}


@pytest.fixture
def mesh() -> Iterator[DeviceMesh]:
    dist.init_process_group("fake", store=FakeStore(), rank=11, world_size=64)
    yield init_device_mesh("cpu", (8, 8), mesh_dim_names=("data", "context"))
    dist.destroy_process_group()


class Calls:
    """Counts the calls of operations of torch.distributed, and the bytes that are put into them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.found: dict[str, tuple[int, int]] = {}
        self.names = {"all_to_all_single": "all_to_all", "all_gather": "all_gather",
                      "reduce_scatter_tensor": "reduce_scatter"}  # fmt: skip
        for name in self.names:
            monkeypatch.setattr(dist, name, partial(self.call, name, getattr(dist, name)))

    def call(self, name: str, real: Any, output: Any, x: Tensor, *args: Any, **options: Any) -> Any:
        count, size = self.found.get(self.names[name], (0, 0))
        self.found[self.names[name]] = count + 1, size + x.numel() * x.element_size()
        return real(output, x, *args, **options)

    def of(self, run: Any) -> tuple[Any, dict[str, tuple[int, int]]]:
        self.found = {}
        return run(), self.found


def summed(exchanges: tuple[Exchange, ...]) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    for each in exchanges:
        count, size = found.get(each.operation, (0, 0))
        found[each.operation] = count + each.count, size + each.bytes
    return found


@pytest.mark.parametrize(
    ("name", "method", "recomputed", "overrides"),
    [
        ("llama", "ulysses", False, {"kv_heads": 8}),
        ("llama", "gather", True, {"kv_heads": 2}),
        ("gpt2", "ulysses", True, {"attention": "gated_delta"}),
        ("bert", "ulysses", False, {"head": "pool"}),
        ("vit", "gather", False, {}),
    ],
)
def test_context(
    mesh: DeviceMesh, monkeypatch: pytest.MonkeyPatch, name: str, method: Any, recomputed: bool, overrides: dict
) -> None:
    model = single_towers.small(name, **{"heads": 8, "depth": 3} | overrides)
    model.set_checkpointing(recomputed)
    batch = {key: x for key, x in single_towers.all_inputs(name).items() if key != "token_type_ids"}
    tokens, process = 64 if name == "vit" else 11, TokenSlices(None, 3, 8)  # type: ignore[arg-type]
    expected = context_exchanges(model, process, 3, tokens, method=method)
    calls = Calls(monkeypatch)
    context_parallel(model, mesh["context"].get_group(), method)
    with nullcontext() if recomputed else CommDebugMode() as counted:
        y, forward = calls.of(lambda: model(**batch))
        _, backward = calls.of(lambda: y.sum().backward())
    assert forward == summed(expected.forward) and backward == summed(expected.backward)
    if counted is not None:  # it does not follow recomputed modules
        counts = {NAMES[str(operation).split(".")[1]]: n for operation, n in counted.get_comm_counts().items()}
        assert counts == {key: n for key, (n, _) in summed(expected.forward + expected.backward).items()}


def sends(rank: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Sends of a process in a step after the first, and their bytes: those that are counted, and those predicted."""
    model = single_towers.small("gpt2", depth=4, tie_word_embeddings=False)
    pipeline = Pipeline(model, dist.group.WORLD, lambda logits, batch: logits.mean(), schedule="interleaved",
                        microbatches=4)  # fmt: skip
    batch, found, real = {"input_ids": torch.arange(88).view(8, 11) % 50}, [], PipelineStage.get_fwd_send_ops
    backward = PipelineStage.get_bwd_send_ops
    pipeline.step(batch)
    for name, original in (("get_fwd_send_ops", real), ("get_bwd_send_ops", backward)):
        setattr(PipelineStage, name, lambda *args, run=original: found.extend(ops := run(*args)) or ops)
    pipeline.step(batch)
    passes = pipeline_exchanges(pipeline.numbers, pipeline.count, 4, 2 * 11 * 32)
    wanted = passes.forward + passes.backward
    counted = len(found), sum(op.tensor.numel() * op.tensor.element_size() for op in found)
    return counted, (sum(each.count for each in wanted), sum(each.bytes for each in wanted))


def test_pipeline() -> None:
    for counted, predicted in ranks(2, sends):
        assert counted == predicted
