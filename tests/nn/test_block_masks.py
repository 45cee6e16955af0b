import weakref
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from flex_cases import patterns
from torch.nn.attention.flex_attention import create_block_mask

from zoo.nn import CAUSAL, NO_MASK, TensorMask, Window
from zoo.nn.masks import Mask, MaskView, RandomBlocks, Strided
from zoo.nn.sparse import block_masks
from zoo.nn.sparse.block_masks import (
    CompiledLists,
    blocks_of,
    compiled_lists,
    count_in_chunks,
    is_constant,
    lists_in_chunks,
    mask_mod,
    signature,
)

CPU = torch.device("cpu")


def assert_equal_to_torch(mask, queries, keys):
    ours = blocks_of(mask, queries, keys, CPU).block_mask
    shift = 0 if mask.q is not None else keys - queries
    theirs = create_block_mask(mask_mod(mask, shift), mask.batch, mask.heads, queries, keys, device="cpu")
    assert ours.shape == theirs.shape and ours.BLOCK_SIZE == theirs.BLOCK_SIZE
    for a, b in zip(ours.as_tuple(), theirs.as_tuple(), strict=True):
        if isinstance(a, torch.Tensor):
            assert a.dtype == b.dtype and torch.equal(a, b)


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    monkeypatch.setattr(block_masks, "_kept", type(block_masks._kept)())


@pytest.mark.parametrize("chunk", [1, block_masks.CHUNK])
@pytest.mark.parametrize("n", [96, 384, 500])
def test_block_masks_are_torchs(monkeypatch, n, chunk):
    monkeypatch.setattr(block_masks, "CHUNK", chunk)
    tensor = TensorMask(torch.rand(2, 3, n, n) > 0.99999)
    for mask in (NO_MASK, CAUSAL, tensor, *patterns(n).values()):
        assert_equal_to_torch(mask, n, n)


def test_queries_are_the_last_positions():
    for mask in (CAUSAL, Window(40, 3)):
        assert_equal_to_torch(mask, 200, 500)


def test_predicates_are_evaluated_in_chunks():
    class Counted(Strided):
        largest = 0

        def __call__(self, b, h, q, k):
            values = super().__call__(b, h, q, k)
            Counted.largest = max(Counted.largest, values.numel())
            return values

    counts = count_in_chunks(Counted(7), 4096, 4096, CPU)
    assert Counted.largest <= block_masks.CHUNK and int(counts.sum()) == int(Strided(7).dense(4096, 4096).sum())


def test_masks_without_tensors_are_kept(monkeypatch):
    built = blocks_of(Window(5, 5), 300, 300, CPU)
    assert blocks_of(Window(5, 5), 300, 300, CPU) is built
    assert blocks_of(MaskView(Window(5, 5)), 300, 300, CPU) is built  # without padding a forward changes nothing
    assert blocks_of(Window(5, 6), 300, 300, CPU) is not built and blocks_of(Window(5, 5), 300, 301, CPU) is not built
    documents = patterns(300)["documents"]
    assert blocks_of(documents, 300, 300, CPU) is not blocks_of(documents, 300, 300, CPU)

    monkeypatch.setattr(block_masks, "MAX_KEPT_BYTES", 2 * block_masks.size_in_bytes(built))
    assert blocks_of(Window(5, 5), 300, 300, CPU) is built  # now the latest
    blocks_of(Window(5, 7), 300, 300, CPU)
    assert len(block_masks._kept) == 2
    assert blocks_of(Window(5, 5), 300, 300, CPU) is built


def test_what_a_cuda_graph_reads_is_never_dropped(monkeypatch):
    monkeypatch.setattr(block_masks, "_recorded", {})
    monkeypatch.setattr(block_masks, "MAX_KEPT_BYTES", 0)
    built = blocks_of(Window(5, 5), 300, 300, CPU)
    with monkeypatch.context() as recording:
        recording.setattr(block_masks, "is_recording", lambda: True)
        assert blocks_of(Window(5, 5), 300, 300, CPU) is built
        part = blocks_of(Window(5, 6), 300, 300, CPU)  # what is computed in a graph holds values after its replay only
        assert blocks_of(Window(5, 6), 300, 300, CPU) is not part
    memory, addresses = weakref.ref(built.block_mask.kv_indices), addresses_of(built)
    del built
    for width in range(7, 12):
        blocks_of(Window(5, width), 300, 300, CPU)
    assert memory() is not None and addresses_of(blocks_of(Window(5, 5), 300, 300, CPU)) == addresses
    assert len(block_masks._kept) == 1 and len(block_masks._recorded) == 1


def addresses_of(blocks):
    return [t.data_ptr() for t in blocks.block_mask.as_tuple() if isinstance(t, torch.Tensor)]


def test_what_is_kept_can_be_used_in_training():
    with torch.inference_mode():
        blocks = blocks_of(Window(5, 5), 300, 300, CPU)
    assert not any(t.is_inference() for t in blocks.block_mask.as_tuple() if isinstance(t, torch.Tensor))


def test_signatures():
    """Equal for masks that share their code: other tensors do not matter, other numbers do."""
    masks = patterns()
    assert signature(masks["documents"]) == signature(patterns(160)["documents"])
    assert signature(masks["padded causal"]) == signature(patterns(160)["padded causal"])
    assert signature(Window(5, 5)) != signature(Window(5, 6)) and signature(CAUSAL) != signature(NO_MASK)
    assert is_constant(masks["bigbird"]) and not is_constant(masks["documents"])
    on_device = [RandomBlocks(16, 2, seed).on_device(64, CPU) for seed in range(2)]
    assert signature(on_device[0]) == signature(on_device[1])


@dataclass(frozen=True)
class Held(Mask):
    """A mask of a user: keys before a limit, which it finds in what it holds."""

    held: Any

    def __call__(self, b, h, q, k):
        held = self.held
        while not isinstance(held, torch.Tensor | int):
            held = held() if callable(held) else next(iter(held.values() if isinstance(held, dict) else held))
        return (k < held) & (q >= 0)


@dataclass(frozen=True, eq=False)
class ById(Held):
    pass


class Undecorated(Mask):
    def __init__(self, limit):
        self.limit = limit

    def __call__(self, b, h, q, k):
        return (k < self.limit) & (q >= 0)


@pytest.mark.parametrize("container", [
    lambda t: t, lambda t: (t,), lambda t: [t], lambda t: {"limit": t}, lambda t: ([t],), lambda t: lambda: t,
])  # fmt: skip
@pytest.mark.parametrize("mask", [Held, ById])
def test_masks_that_may_change_are_not_kept(mask, container):
    limit = torch.tensor(100)
    one = mask(container(limit))
    assert not is_constant(one) and not is_constant(one & CAUSAL) and hash(signature(one))
    assert_equal_to_torch(one, 300, 300)
    limit.fill_(200)
    assert_equal_to_torch(one, 300, 300)


def test_only_frozen_dataclasses_are_kept():
    mask = Undecorated(100)
    assert not is_constant(mask) and not is_constant(CAUSAL & mask)
    assert_equal_to_torch(mask, 300, 300)
    mask.limit = 200
    assert_equal_to_torch(mask, 300, 300)
    assert is_constant(Held((100, None, 1.5, "a"))) and is_constant(Held(5) & CAUSAL | Window(5, 5))
    assert all(is_constant(patterns()[name]) for name in ("bigbird", "strided"))


def test_masks_of_one_forward_are_counted_by_compiled_code(monkeypatch):
    """On a GPU. One compilation for all masks of this kind and lengths."""
    graphs = []
    monkeypatch.setattr(block_masks, "BACKEND", lambda graph, _: graphs.append(graph) or graph)
    lists = CompiledLists()
    for n in (160, 300, 400):
        mask = patterns(n)["padded causal"]
        for a, b in zip(lists(mask, n, n, CPU), lists_in_chunks(mask, n, n, CPU), strict=True):
            assert torch.equal(a, b)
    assert len(graphs) <= 2  # for the first length and for all others
    assert compiled_lists(signature(mask)) is compiled_lists(signature(patterns(60)["padded causal"]))


def test_what_torch_cannot_compile_is_counted_in_chunks(monkeypatch):
    def fails(graph, examples):
        raise NotImplementedError

    monkeypatch.setattr(block_masks, "BACKEND", fails)
    lists, mask = CompiledLists(), patterns(300)["documents"]
    for _ in range(2):
        for a, b in zip(lists(mask, 300, 300, CPU), lists_in_chunks(mask, 300, 300, CPU), strict=True):
            assert torch.equal(a, b)
    assert lists.lists is lists_in_chunks
    with pytest.raises(IndexError):
        lists(mask, 600, 600, CPU)
