"""The set transformer against torch_geometric's blocks, through files; order and padding of the points."""

import json
from itertools import combinations, islice
from pathlib import Path

import pytest
import torch
from peers import close, error, randomize
from torch import Tensor, nn

import zoo
from zoo.models.mapping.tensors import import_tensors, lines_for
from zoo.models.set_transformer.mapping import TABLE

SMALL = dict(
    in_features=4,
    width=16,
    depth=2,
    heads=4,
    num_classes=5,
    seeds=3,
    decoder_depth=2,
    induced_points=None,
    mlp_dim=None,
)


class TheirNet(nn.Module):
    """torch_geometric's blocks between two linear layers."""

    def __init__(self, induced: int | None, layer_norm: bool, concat: bool) -> None:
        super().__init__()
        from torch_geometric.nn.aggr import SetTransformerAggregation
        from torch_geometric.nn.aggr.utils import InducedSetAttentionBlock

        whole = SetTransformerAggregation(16, 3, 2, 2, 4, concat=concat, layer_norm=layer_norm)
        if induced is not None:
            whole.encoders = nn.ModuleList(InducedSetAttentionBlock(16, induced, 4, layer_norm) for _ in range(2))
        self.lin_in, self.lin_out = nn.Linear(4, 16), nn.Linear(48 if concat else 16, 5)
        self.encoders, self.pma, self.decoders = whole.encoders, whole.pma, whole.decoders
        self.whole = [whole]

    def forward(self, clouds: list[Tensor]) -> Tensor:
        """Ragged clouds [N, 4] of which torch_geometric makes one list with indices."""
        index = torch.cat([torch.full((len(cloud),), i) for i, cloud in enumerate(clouds)])
        return self.lin_out(self.whole[0](self.lin_in(torch.cat(clouds)), index))


def ragged(seed: int = 0) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Three clouds of 9, 1 and 6 points: a list, and our padded batch."""
    clouds = [torch.randn(n, 4, generator=torch.Generator().manual_seed(seed + n)) for n in (9, 1, 6)]
    points = nn.utils.rnn.pad_sequence(clouds, batch_first=True)
    sizes = torch.tensor([len(cloud) for cloud in clouds])
    return clouds, {"points": points, "attention_mask": (torch.arange(9) < sizes[:, None]).long()}


CASES = [(None, True, True), (None, False, False), (4, True, True), (4, False, True)]


@pytest.mark.parametrize(("induced", "layer_norm", "concat"), CASES)
@torch.no_grad()
def test_parity_with_torch_geometric_both_ways(induced, layer_norm, concat, tmp_path):
    pytest.importorskip("torch_geometric", reason="pip install torch_geometric")
    theirs = randomize(TheirNet(induced, layer_norm, concat))
    model = zoo.load(folder_of(tmp_path / "theirs", theirs))
    assert model.load_report.plain and model.config.pool == ("concat" if concat else "mean")
    clouds, batch = ragged()
    expected = theirs(clouds)
    assert error(model(**batch), expected) <= 1e-5
    exact = {name: x.double() if x.is_floating_point() else x for name, x in batch.items()}
    assert error(model.double()(**exact), theirs.double()([cloud.double() for cloud in clouds])) <= 1e-9

    again = randomize(model.float(), seed=3)
    folder = zoo.export(again, tmp_path / "ours", format="torch_geometric")
    other = TheirNet(induced, layer_norm, concat).eval()
    other.load_state_dict(torch.load(folder / "model.pth", weights_only=True))
    assert error(again(**batch), other(clouds)) <= 1e-5
    assert zoo.verify(folder).ok


def folder_of(folder: Path, network: nn.Module, **more: object) -> Path:
    folder.mkdir(exist_ok=True)
    torch.save(network.state_dict(), folder / "model.pth")
    (folder / "config.json").write_text(json.dumps({"channels": 16, "num_seed_points": 3, "heads": 4, **more}))
    return folder


@torch.no_grad()
def test_the_aggregation_of_torch_geometric_by_itself(tmp_path):
    aggregations = pytest.importorskip("torch_geometric.nn.aggr", reason="pip install torch_geometric")
    theirs = randomize(aggregations.SetTransformerAggregation(16, 3, 1, 1, 4, concat=False, layer_norm=True))
    model = zoo.load(folder_of(tmp_path, theirs, concat=False))
    assert model.config.head == "pool" and model.config.in_features == 16
    x = torch.randn(7, 16, generator=torch.Generator().manual_seed(0))
    assert error(model(points=x[None]), theirs(x, torch.zeros(7, dtype=torch.long))) <= 1e-5
    with pytest.raises(ValueError, match="cannot express head='token'"):
        zoo.export(zoo.create_model("set_transformer_tiny", head="token"), tmp_path, format="torch_geometric")


@torch.no_grad()
def test_swapped_lines_are_found(tmp_path):
    pytest.importorskip("torch_geometric", reason="pip install torch_geometric")
    theirs = randomize(TheirNet(4, True, True))
    model = zoo.create_model("set_transformer_tiny", seed=0, **SMALL | dict(induced_points=4)).eval()
    clouds, batch = ragged()
    expected, own, file = theirs(clouds), model.state_dict(), theirs.state_dict()
    rows = [row.strip().split(" = ") for row in TABLE.splitlines() if " = " in row]
    active = set(lines_for(TABLE, own))
    used = [i for i, row in enumerate(rows) if active.intersection(lines_for(" = ".join(row), own))]
    tried = 0
    for one, two in islice(combinations(used, 2), 0, None, 2):
        swapped = [list(row) for row in rows]
        swapped[one][1], swapped[two][1] = rows[two][1], rows[one][1]
        try:
            tensors, _ = import_tensors("\n".join(map(" = ".join, swapped)), own, file)
        except zoo.LoadError:
            continue
        tried += 1
        model.load_state_dict(tensors)
        assert error(model(**batch), expected) > 1e-4, (rows[one], rows[two])
    assert tried > 10, tried


@pytest.mark.parametrize("induced", [None, 4])
@torch.no_grad()
def test_order_changes_nothing(induced):
    model = randomize(zoo.create_model("set_transformer_tiny", **SMALL | dict(induced_points=induced))).double()
    points = torch.randn(2, 13, 4, generator=torch.Generator().manual_seed(0)).double()
    order = torch.randperm(13, generator=torch.Generator().manual_seed(1))
    close(model(points=points[:, order]), model(points=points), 1e-12)
    close(model.encode(points=points[:, order]), model.encode(points=points)[:, order], 1e-12)


@torch.no_grad()
def test_captured_maps_are_of_the_points_and_the_induced_points():
    model = randomize(zoo.create_model("set_transformer_tiny", **SMALL | dict(induced_points=4)))
    batch = ragged()[1]
    with zoo.capture(model) as maps:
        y = model(**batch)
    assert maps["blocks.0.mixer"].shape == (3, 4, 9, 4) and maps["blocks.1.mixer.induced.mixer"].shape == (3, 4, 4, 9)
    assert maps["head.pooling.mixer"].shape == (3, 4, 3, 9) and maps["head.blocks.1.mixer"].shape == (3, 4, 3, 3)
    real = batch["attention_mask"].double()
    close(maps["head.pooling.mixer"].sum(-1).double(), torch.ones(3, 4, 3).double())
    assert not maps["blocks.0.mixer.induced.mixer"][1, ..., 1:].any()
    close(maps["blocks.0.mixer"].sum(-1).double(), real[:, None].expand(3, 4, 9))
    torch.testing.assert_close(model(**batch), y)


def test_it_learns_which_of_two_sets_is_wider():
    torch.manual_seed(0)
    model = zoo.create_model("set_transformer_tiny", width=16, induced_points=4, num_classes=2, seed=0)
    optimizer, losses = torch.optim.Adam(model.parameters(), 3e-3), []
    for _ in range(20):
        labels = torch.randint(2, (32,))
        points = torch.randn(32, 12, 3) * (1 + labels[:, None, None])
        loss = nn.functional.cross_entropy(model(points=points), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": "local"}, "attention='local' depends on the order of its tokens"),
        ({"attention": "gated_linear"}, "attention='gated_linear' depends on the order"),
        ({"mixer": "mamba"}, "mixer='mamba' reads tokens in their order"),
        ({"induced_points": 0}, "induced_points=0: expected at least 1"),
        ({"decoder_depth": -1}, "decoder_depth=-1"),
        ({"in_features": 2}, "in_features=2: expected at least 3"),
    ],
)
def test_what_a_set_does_not_have_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        zoo.create_model("set_transformer_tiny", **options)


def test_inputs_that_do_not_fit():
    model = zoo.create_model("set_transformer_tiny", width=16)
    for batch, message in (
        ({"points": torch.zeros(2, 5, 4)}, r"expected points \[B, N, 3\] of a float dtype, got \(2, 5, 4\)"),
        ({"points": torch.zeros(2, 0, 3)}, "points is empty"),
        ({"points": torch.zeros(2, 5, 3).long()}, "of torch.int64; use model.preprocess"),
        ({"points": torch.zeros(2, 5, 3), "attention_mask": torch.ones(2, 4).long()}, r"attention_mask is \(2, 4\)"),
    ):
        with pytest.raises(ValueError, match=message):
            model(**batch)
    empty = torch.tensor([[1, 1], [0, 0]])
    assert model(points=torch.ones(2, 2, 3), attention_mask=empty).isfinite().all()
