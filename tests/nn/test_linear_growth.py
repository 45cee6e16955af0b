"""What is linear in the length by the table of kinds makes no tensor of all pairs, and no more elements than that.

Counted, not timed: a training step of one layer, with all that is found for a length for the first time.
"""

from pathlib import Path

import pytest
import torch
from tensor_sizes import TensorSizes

import zoo
from zoo.nn import CAUSAL, GraphMask, Window
from zoo.nn.masks import DocumentMask, GlobalTokensMask, Mask, MaskView, RandomBlocks
from zoo.nn.registry import BUILT_IN, BUILT_IN_MIXERS
from zoo.nn.sparse import block_masks, block_sparse
from zoo.nn.sparse.block_masks import blocks_of
from zoo.nn.sparse.block_sparse import candidates
from zoo.nn.sparse_attention import SparseAttention

QUADRATIC = {"softmax", "additive", "gat", "gatv2", "axial_column"}
# a strided query sees N / step keys beside its window, and random blocks are the less in the window the longer a row is
GROWTH = {"strided": 3.2, "bigbird": 2.5}
PATTERNS = [name for name, cls in zoo.nn.core.CORES.items() if issubclass(cls, SparseAttention)]
LINEAR = [name for name in (*BUILT_IN, *BUILT_IN_MIXERS) if name not in QUADRATIC]


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    monkeypatch.setattr(block_masks, "_kept", type(block_masks._kept)())
    monkeypatch.setattr(block_sparse, "TABLE", 1e9)  # in tiles also where a short row takes less time without


def step(name: str, length: int) -> TensorSizes:
    argument = "mixer" if name in BUILT_IN_MIXERS else "attention"
    sizes = dict(width=16, depth=1, heads=2, vocab_size=16, max_length=length)
    model = zoo.create_model("gpt_nano", seed=0, **sizes, **{argument: name})
    with TensorSizes() as found:
        model(input_ids=torch.arange(length)[None] % 16).sum().backward()
    return found


@pytest.mark.parametrize("name", LINEAR)
def test_a_training_step_is_linear_in_the_length(name: str) -> None:
    length = 2048 if name in PATTERNS else 1024
    short, long = step(name, length), step(name, 2 * length)
    assert long.largest <= 2.1 * short.largest
    more = {kind: n - 2 * short.by_operation[kind] for kind, n in long.by_operation.items()}
    assert long.total <= GROWTH.get(name, 2.15) * short.total, max(more, key=lambda kind: more[kind])


@pytest.mark.parametrize("name", [name for name in LINEAR if name not in PATTERNS])
def test_one_token_more_than_a_chunk_costs_one_token_more(name: str) -> None:
    most = 1.3 if name in BUILT_IN else 1.6  # mixers pad their last chunk, which takes less time than its elements say
    for length in (32, 64, 128):
        assert step(name, length + 1).total <= most * step(name, length).total, length


def test_these_are_the_kinds_that_are_linear_by_the_table() -> None:
    table = Path(__file__).parents[2] / "docs" / "reference" / "attention_kinds.md"
    rows = [line.split("|") for line in table.read_text().splitlines() if line.startswith("| `")]
    assert {row[1].strip(" `") for row in rows if row[-3].strip() in ("N", "N log N")} == set(LINEAR)


BIGBIRD = CAUSAL & (Window(16, 16) | GlobalTokensMask(16) | RandomBlocks(16, 2))


def padded(inner: Mask, length: int) -> Mask:
    positions = torch.arange(length)[None]
    return MaskView(inner, positions, positions, positions >= 0)


@pytest.mark.parametrize(
    "mask_of",
    [
        lambda n: CAUSAL & Window(15, 0),
        lambda n: BIGBIRD,
        lambda n: padded(BIGBIRD, n),
        lambda n: CAUSAL & DocumentMask(torch.arange(n)[None] // 100),
        lambda n: GraphMask(torch.stack([torch.arange(1, n), torch.arange(n - 1)]), n),
    ],
    ids=["local", "bigbird", "padded bigbird", "documents", "graph"],
)
def test_blocks_are_found_in_linear_time(mask_of):
    """Without a table of all blocks: of 65,536 tokens it would have 2 million entries."""
    found = []
    for length in (1 << 13, 1 << 15):
        with TensorSizes() as sizes:
            assert candidates(mask_of(length), length, length, 64)
        found.append(sizes.total)
        assert sizes.largest <= 16 * length
    assert found[1] <= 4.8 * found[0], found


def test_blocks_of_flex_attention_are_found_in_linear_time():
    class Counted(RandomBlocks):
        evaluated = 0

        def on_device(self, keys, device):
            return self

        def __call__(self, b, h, q, k):
            values = super().__call__(b, h, q, k)
            Counted.evaluated += values.numel()
            return values

    counts = []
    for length in (1 << 12, 1 << 13):
        Counted.evaluated = 0
        blocks_of(Window(64, 64) | Counted(64, 2), length, length, torch.device("cpu"))
        counts.append(Counted.evaluated)
    assert counts[1] <= 2.3 * counts[0] and counts[1] < (1 << 26) / 4
