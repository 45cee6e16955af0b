"""The Evoformer: the contract of all models, and what belongs to it alone: alignments, pairs, chunks."""

import pytest
import torch
from live_memory import LiveMemory
from peers import error, randomize
from torch import Tensor

import zoo
from zoo.models.evoformer.block import EvoformerBlock
from zoo.models.evoformer.chunks import Chunks
from zoo.models.evoformer.model import EvoformerConfig
from zoo.nn.grid_attention import GRID_KINDS
from zoo.nn.recurrent_core import RecurrentCore
from zoo.nn.registry import BUILT_IN, CORES

SMALL = dict(
    width=16, depth=2, heads=2, mlp_dim=24, pair_width=8, pair_heads=2, pair_mlp_dim=12, outer_width=3, max_distance=4
)
WITH_SCORES = [kind for kind in BUILT_IN if not issubclass(CORES[kind], RecurrentCore) and kind not in GRID_KINDS]
RECURRENT = [kind for kind in BUILT_IN if issubclass(CORES[kind], RecurrentCore)]


def small(**overrides) -> zoo.Model:
    """A model with random parameters: in a new one the parts add nothing."""
    model = zoo.create_model("evoformer_nano", seed=0, **SMALL | overrides).eval()
    randomize(model)
    return model


def alignments(rows: int = 2, sequences: int = 6, residues: int = 9) -> Tensor:
    return torch.randint(22, (rows, sequences, residues), generator=torch.Generator().manual_seed(0))


def gradients(model: zoo.Model, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    model.zero_grad()
    y = model(**batch)
    y.mul(torch.randn(y.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not missing, missing
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def padded(msa: Tensor, sequences: int, residues: int, *, left: bool = False) -> dict[str, Tensor]:
    """msa with sequences and residues of padding, whose ids are random; left: before the real residues."""
    rows, s, n = msa.shape
    shape = (rows, s + sequences, n + residues)
    larger = torch.randint(22, shape, generator=torch.Generator().manual_seed(2))
    larger[:, :s, :n] = msa
    msa_mask, attention_mask = torch.zeros(shape, dtype=torch.long), torch.zeros(rows, n + residues, dtype=torch.long)
    msa_mask[:, :s], attention_mask[:, :n] = 1, 1
    if left:
        larger, attention_mask = larger.roll(residues, 2), attention_mask.roll(residues, 1)
    return {"msa": larger, "msa_mask": msa_mask, "attention_mask": attention_mask}


# -- the contract ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["evoformer_nano", "evoformer_tiny", "evoformer"])
def test_every_variant_builds_on_meta(name):
    with torch.device("meta"):
        model = zoo.create_model(name)
    assert all(t.is_meta for t in (*model.parameters(), *model.buffers()))
    c = model.config
    assert type(c).from_dict(c.to_dict()) == c and model.num_features == c.width
    if name == "evoformer":
        block = sum(p.numel() for p in model.blocks[0].parameters())
        assert block * c.depth == sum(p.numel() for p in model.blocks.parameters()) and c.depth == 48


@pytest.mark.parametrize("head", ["contacts", None])
def test_it_trains_saves_and_loads(head, tmp_path):
    model = small(head=head, dropout=0.1, pair_dropout=0.1)
    msa = alignments()
    if head:
        made = gradients(model.train(), {"msa": msa})
        assert all(g.any() for name, g in made.items() if not name.endswith("attention.k.bias"))
    loaded = zoo.load(zoo.save(model.eval(), tmp_path / "model"))
    assert loaded.config == model.config and not (loaded.load_report.initialized or loaded.load_report.dropped)
    with torch.no_grad():
        expected = model(msa)
        assert torch.equal(loaded(msa), expected)
    assert expected.shape == ((2, 9, 9) if head else (2, 9, 16))
    assert zoo.verify(tmp_path / "model").ok


def test_a_new_model_starts_with_parts_that_add_nothing():
    a, b, other = (zoo.create_model("evoformer_nano", seed=seed, **SMALL) for seed in (0, 0, 1))
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
    assert not torch.equal(a.residues.residue.weight, other.residues.residue.weight)
    msa = alignments()
    with torch.no_grad():
        before = a.residues(msa, None)
        after = a.blocks(*before)
    assert torch.equal(after[0], before[0]) and torch.equal(after[1], before[1])
    assert a.blocks[0].row_attention.attention.output_gate(torch.randn(1, 16)).eq(1).all()


def test_twenty_steps_lower_the_loss():
    model = zoo.create_model("evoformer_nano", seed=0, **SMALL)
    msa, contacts = alignments(), torch.ones(9, 9).triu(5).add(torch.ones(9, 9).tril(-5)).expand(2, -1, -1)
    optimizer, losses = torch.optim.AdamW(model.parameters(), 1e-2), []
    for _ in range(20):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(model(msa), contacts)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize("kind", WITH_SCORES)
def test_every_kind_with_scores_trains(kind):
    model = small(depth=1, attention=kind)
    made = gradients(model.train(), {"msa": alignments()})
    assert all(g.any() for name, g in made.items() if "attention" in name)


def test_kinds_without_scores_are_for_columns_alone():
    for kind in RECURRENT:
        with pytest.raises(ValueError, match=f"attention='{kind}': this kind has no scores.*column_attention="):
            small(attention=kind)
        gradients(small(depth=1, column_attention=kind), {"msa": alignments()})
    mixed = small(attention=["softmax", "additive"], column_attention="linear")
    assert [block.triangle_ending.attention.core.kind for block in mixed.blocks] == ["softmax", "additive"]
    assert {block.column_attention.attention.core.kind for block in mixed.blocks} == {"linear"}


@torch.no_grad()
def test_one_graph():
    model = small(depth=1)
    torch._dynamo.reset()
    batch = padded(alignments(), 2, 3)
    assert error(torch.compile(model, backend="eager", fullgraph=True)(**batch), model(**batch)) <= 1e-5


# -- laws of alignments ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_size", [None, 4])
@torch.no_grad()
def test_padding_is_not_seen(chunk_size):
    model = small(chunk_size=chunk_size).double()
    msa = alignments()
    expected = model(msa)
    assert error(expected, expected.mT) <= 1e-12
    assert error(model(msa[1:]), expected[1:]) <= 1e-9
    for left in (False, True):
        batch = padded(msa, 3, 4, left=left)
        real = batch["attention_mask"][0].bool()
        assert error(model(**batch)[:, real][:, :, real], expected) <= 1e-9
        hidden, pair = model.encode(**batch, return_pair=True)
        assert not hidden[:, ~real].any() and not pair[:, ~real].any() and not pair[:, :, ~real].any()
        alone, pairs = model.encode(msa, return_pair=True)
        assert error(hidden[:, real], alone) <= 1e-9 and error(pair[:, real][:, :, real], pairs) <= 1e-9
    ones = {"msa_mask": torch.ones_like(msa), "attention_mask": torch.ones(2, 9, dtype=torch.long)}
    assert torch.equal(model(msa, **ones), expected)
    empty = padded(msa, 3, 4)
    empty["attention_mask"][1] = 0
    assert model(**empty).isfinite().all()


@torch.no_grad()
def test_the_order_of_the_other_sequences_does_not_matter():
    model = small().double()
    msa = alignments()
    order = torch.tensor([0, 4, 2, 5, 1, 3])
    hidden, pair = model.encode(msa, return_pair=True)
    again, pairs = model.encode(msa[:, order], return_pair=True)
    assert error(again, hidden) <= 1e-9 and error(pairs, pair) <= 1e-9
    assert error(model(msa[:, order.flip(0)]), model(msa)) > 1e-3  # another query


@torch.no_grad()
def test_layers_and_capture():
    model = small()
    msa = alignments()
    hidden, chosen = model.encode(msa, layers=[0, -1])
    assert torch.equal(chosen[1], hidden) and not torch.equal(chosen[0], hidden)
    model.blocks.chunk_size = 4
    assert error(model.encode(msa, layers=[0, -1])[1][0], chosen[0]) <= 1e-5  # not overwritten by the next block
    model.blocks.chunk_size = None
    batch = padded(msa, 1, 2)
    with zoo.capture(model) as maps:
        assert error(model(**batch)[:, :9, :9], model(msa)) <= 1e-5
    names = ("row_attention", "column_attention", "triangle_starting", "triangle_ending")
    assert set(maps) == {f"blocks.{i}.{name}.attention" for i in range(2) for name in names}
    with zoo.capture(model, layers=-1) as last:
        model(**batch)
    assert set(last) == {f"blocks.1.{name}.attention" for name in names}
    rows, columns = (maps[f"blocks.0.{name}.attention"][0] for name in names[:2])
    assert rows.shape == (14, 2, 11, 11) and columns.shape == (22, 2, 7, 7)  # of all sequences, of all residues
    assert rows[:6, :, :9].sum(-1).allclose(torch.ones(())) and not rows[6].any() and not rows[:, :, :, 9:].any()
    assert columns[:9, :, :6].sum(-1).allclose(torch.ones(())) and not columns[9:11].any()


# -- chunks and checkpointing ------------------------------------------------------------------------------------------


def test_chunks_and_checkpointing_give_the_same_outputs_and_gradients():
    model = small(dropout=0.3, pair_dropout=0.3).double().train()
    batch = padded(alignments(), 1, 2)
    outputs, found = [], []
    for chunk_size, checkpointing in ((None, False), (None, True), (4, False), (4, True)):
        model.blocks.chunk_size = chunk_size
        model.set_checkpointing(checkpointing)
        torch.manual_seed(0)  # dropout does not depend on the chunks
        found.append(gradients(model, batch))
        torch.manual_seed(0)
        with torch.no_grad():
            outputs.append(model(**batch))
    for other, y in zip(found[1:], outputs[1:], strict=True):
        assert error(y, outputs[0]) <= 1e-9
        assert max(error(other[name], g) for name, g in found[0].items()) <= 1e-9
    torch.manual_seed(1)
    with torch.no_grad():
        assert error(model(**batch), outputs[0]) > 1e-3  # there was dropout


def test_dropout_is_the_same_for_all_rows_or_columns():
    block = EvoformerBlock(EvoformerConfig(**SMALL | dict(dropout=0.5, pair_dropout=0.5)), 0).train()
    randomize(block).train()
    pair = torch.randn(1, 7, 7, 8, generator=torch.Generator().manual_seed(0))
    msa = torch.randn(1, 5, 7, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for part, x, inputs, shared in (
            (block.row_attention, msa, (pair, None), 1), (block.triangle_outgoing, pair, (None,), 1),
            (block.triangle_incoming, pair, (None,), 1), (block.triangle_starting, pair, (None,), 1),
            (block.triangle_ending, pair, (None,), 2),
        ):  # fmt: skip
            dropped = part(x, *inputs) == x
            assert torch.equal(dropped.all(shared), dropped.any(shared)) and 0.2 < dropped.float().mean() < 0.8


@pytest.mark.parametrize("grad", [False, True])
def test_chunks_need_a_quarter_of_the_memory(grad):
    """At a smaller size than that of benchmarks/evoformer.py; inputs, outputs and weights counted."""
    block = EvoformerBlock(EvoformerConfig(depth=1, width=32, pair_width=16, outer_width=16), 0).eval()
    randomize(block)
    msa, pair = (torch.randn(1, 40, 40, width, requires_grad=grad) for width in (32, 16))
    peaks, outputs = [], []
    for chunks in (Chunks(), Chunks(4, inplace=True)):
        inputs = [x if grad else x.clone() for x in (msa, pair)]
        with torch.set_grad_enabled(grad), LiveMemory() as memory:
            y, z = block(*inputs, (None, None), chunks)
            if grad:
                (y.sum() + z.sum()).backward()
        peaks.append(memory.peak)
        outputs.append((y.detach(), z.detach()))
    assert peaks[1] <= peaks[0] / 4, peaks
    assert all(error(a, b) <= 1e-5 for a, b in zip(*outputs, strict=True))


@torch.no_grad()
def test_a_block_in_chunks_does_not_change_its_inputs():
    block = small(depth=1).blocks[0]
    msa, pair = torch.randn(1, 6, 9, 16), torch.randn(1, 9, 9, 8)
    before = msa.clone(), pair.clone()
    expected = block(msa, pair)
    found = block(msa, pair, (None, None), Chunks(4))
    assert torch.equal(msa, before[0]) and torch.equal(pair, before[1])
    assert all(error(a, b) <= 1e-5 for a, b in zip(found, expected, strict=True))


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"head": "classify"}, "head='contacts' and None"),
        ({"heads": 3}, "width=16 is not divisible by heads=3"),
        ({"pair_heads": 3}, "pair_width=8 is not divisible by pair_heads=3.*pair_head_dim"),
        ({"pair_dropout": 1.0}, "pair_dropout=1.0"),
        ({"chunk_size": 0}, "chunk_size=0"),
        ({"outer_width": 0}, "outer_width=0"),
        ({"attention": "sofmax"}, "did you mean 'softmax'"),
        ({"num_layers": 2}, "did you mean 'depth'"),
    ],
)
def test_options_that_do_not_fit_are_named(overrides, message):
    with pytest.raises(ValueError, match=message):
        zoo.create_model("evoformer_nano", **SMALL | overrides)


def test_inputs_that_do_not_fit_are_named():
    model, msa = small(depth=1), alignments()
    for batch, message in (
        ({"msa": msa[0]}, r"expected integers \[B, S, N\].*got \(6, 9\)"),
        ({"msa": msa.float()}, "float32"),
        ({"msa": msa.tolist()}, "got list"),
        ({"msa": msa + 1}, "residues from 1 to 22, but the model knows 0 to 21"),
        ({"msa": msa - 1}, "from -1 to 20"),
        ({"msa": msa[:, :0]}, "msa is empty"),
        ({"msa": msa, "msa_mask": torch.ones(2, 6)}, r"msa_mask is \(2, 6\).*\(2, 6, 9\)"),
        ({"msa": msa, "msa_mask": torch.full((2, 6, 9), 2)}, "msa_mask contains 2: expected 1"),
        ({"msa": msa, "attention_mask": torch.ones(2, 6, dtype=torch.long)}, r"expected integers or bools \(2, 9\)"),
        ({"msa": msa, "labels": msa}, "does not use 'labels'"),
        ({}, "'msa' is missing"),
    ):
        with pytest.raises(ValueError, match=message):
            model(**batch)
