"""The point transformer against torch_geometric's layer, through files; order, padding, stages and neighbors."""

from functools import partial
from itertools import permutations

import pytest
import torch
from allocations import most_allocated
from peers import close, error, randomize
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import zoo
from zoo.models.mapping.tensors import export_tensors, import_tensors
from zoo.models.point_transformer.mapping import TABLE
from zoo.nn.graphs.neighbors import interpolate, nearest_neighbors

SMALL = dict(in_features=5, width=16, depth=2, heads=4, num_classes=5, stages=(), neighbors=4, pair_dim=12)
STAGED = SMALL | dict(stages=(1, 1), stride=3)
TOKENS = STAGED | dict(head="token")


class TheirBlock(nn.Module):
    """The block of torch_geometric's example: a linear layer, the layer, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        from torch_geometric.nn import PointTransformerConv

        def mlp(width: int) -> nn.Module:
            return nn.Sequential(nn.Linear(width, 12), nn.ReLU(), nn.Linear(12, 16))

        self.lin_in, self.lin_out = nn.Linear(16, 16), nn.Linear(16, 16)
        self.transformer = PointTransformerConv(16, 16, mlp(3), mlp(16))

    def forward(self, x: Tensor, places: Tensor, edges: Tensor) -> Tensor:
        return self.lin_out(self.transformer(self.lin_in(x).relu(), places, edges))


def mixers(model: zoo.Model) -> dict[str, Tensor]:
    return {name: x for name, x in model.state_dict().items() if ".mixer." in name}


def ragged(sizes: tuple[int, ...] = (9, 1, 6), columns: int = 5) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Clouds of some sizes: a list, and our padded batch."""
    clouds = [torch.randn(n, columns, generator=torch.Generator().manual_seed(n)) for n in sizes]
    lengths = torch.tensor(sizes)
    mask = (torch.arange(max(sizes)) < lengths[:, None]).long()
    return clouds, {"points": nn.utils.rnn.pad_sequence(clouds, batch_first=True), "attention_mask": mask}


def outputs(model: zoo.Model, batch: dict[str, Tensor], x: Tensor) -> Tensor:
    """What the mixer of the last block makes of hidden states x [B, N, D], for clouds that differ in size."""
    places = batch["points"][..., :3]
    return model.blocks[1].mixer(x, model.context(places, batch["attention_mask"].bool()))


def their_outputs(theirs: TheirBlock, clouds: list[Tensor], x: Tensor) -> list[Tensor]:
    """The same by torch_geometric, of each cloud alone, with its edges from the nearest neighbors."""
    made = []
    for row, cloud in enumerate(clouds):
        index = nearest_neighbors(cloud[None, :, :3], cloud[None, :, :3], 4)[0]
        targets = torch.arange(len(cloud))[:, None].expand_as(index)
        edges = torch.stack([index.flatten(), targets.flatten()])
        made.append(theirs(x[row, : len(cloud)], cloud[:, :3], edges))
    return made


@torch.no_grad()
def test_the_layer_computes_what_torch_geometric_computes_both_ways(tmp_path):
    pytest.importorskip("torch_geometric", reason="pip install torch_geometric")
    theirs = nn.Module()
    theirs.blocks = nn.ModuleList(randomize(TheirBlock(), seed) for seed in (0, 1))
    save_file(theirs.state_dict(), tmp_path / "theirs.safetensors")
    model = zoo.create_model("point_transformer_tiny", seed=0, **SMALL).eval()
    tensors, report = import_tensors(TABLE, mixers(model), load_file(tmp_path / "theirs.safetensors"))
    assert tensors.keys() == mixers(model).keys() and not (report.initialized or report.dropped)
    model.load_state_dict(tensors, strict=False)
    clouds, batch = ragged()
    x = torch.randn(3, 9, 16, generator=torch.Generator().manual_seed(9))
    for ours, expected in zip(outputs(model, batch, x), their_outputs(theirs.blocks[1], clouds, x), strict=True):
        assert error(ours[: len(expected)], expected) <= 1e-5
    exact = {name: value.double() for name, value in batch.items()}
    doubles = their_outputs(theirs.double().blocks[1], [cloud.double() for cloud in clouds], x.double())
    for ours, expected in zip(outputs(model.double(), exact, x.double()), doubles, strict=True):
        assert error(ours[: len(expected)], expected) <= 1e-9

    again = randomize(model.float(), seed=3)
    save_file(export_tensors(TABLE, mixers(again)), tmp_path / "ours.safetensors")
    theirs.float().load_state_dict(load_file(tmp_path / "ours.safetensors"))
    expected = their_outputs(theirs.blocks[1], clouds, x)
    for ours, other in zip(outputs(again, batch, x), expected, strict=True):
        assert error(ours[: len(other)], other) <= 1e-5
    # q, k and v of other projections, and the MLPs of pairs, give other numbers
    for order in list(permutations(("q", "k", "v")))[1:]:
        state = again.state_dict()
        moved = {f"blocks.1.mixer.{a}.weight": state[f"blocks.1.mixer.{b}.weight"] for a, b in zip("qkv", order)}
        swapped = zoo.create_model("point_transformer_tiny", seed=0, **SMALL).eval()
        swapped.load_state_dict(state | moved)
        assert error(outputs(swapped, batch, x)[0], expected[0]) > 1e-3


@pytest.mark.parametrize("attention", [None, "softmax"])
@torch.no_grad()
def test_order_changes_nothing(attention):
    points = torch.randn(2, 31, 5, generator=torch.Generator().manual_seed(0)).double()
    order = torch.randperm(31, generator=torch.Generator().manual_seed(1))
    flat = randomize(zoo.create_model("point_transformer_tiny", **SMALL, attention=attention)).double()
    close(flat.encode(points=points[:, order]), flat.encode(points=points)[:, order], 1e-12)
    staged = randomize(zoo.create_model("point_transformer_tiny", **STAGED, attention=attention)).double()
    close(staged(points=points[:, order]), staged(points=points), 1e-12)
    close(staged.float()(points=points[:, order].float()), staged(points=points.float()), 1e-5)
    decoded = randomize(zoo.create_model("point_transformer_tiny", **TOKENS, attention=attention)).double()
    close(decoded(points=points[:, order]), decoded(points=points)[:, order], 1e-12)


@pytest.mark.parametrize("attention", [None, "softmax"])
@torch.no_grad()
def test_padding_changes_nothing_in_any_stage(attention):
    model = randomize(zoo.create_model("point_transformer_tiny", **STAGED, attention=attention)).double()
    clouds, batch = ragged((20, 1, 11, 3))
    batch["points"] = batch["points"].double() + 7 * (1 - batch["attention_mask"])[..., None]
    y, hidden = model(**batch), model.encode(**batch)
    assert hidden.shape == (4, 3, 16)  # 20 -> 7 -> 3 points
    for row, cloud in enumerate(clouds):
        alone = model.encode(points=cloud[None].double())
        close(hidden[row : row + 1, : alone.shape[1]], alone, 1e-12)
        assert not hidden[row, alone.shape[1] :].any()
        close(y[row : row + 1], model(points=cloud[None].double()), 1e-12)
    left = {name: x.flip(1) for name, x in batch.items()}
    close(model(**left), y, 1e-12)
    empty = batch | {"attention_mask": torch.zeros_like(batch["attention_mask"])}
    assert model(**empty).isfinite().all()

    each = randomize(zoo.create_model("point_transformer_tiny", **TOKENS, attention=attention)).double()
    scores = each(**batch)
    assert scores.shape == (4, 20, 5)
    for row, cloud in enumerate(clouds):
        close(scores[row : row + 1, : len(cloud)], each(points=cloud[None].double()), 1e-12)
    close(each(**left), scores.flip(1), 1e-12)
    assert each(**empty).isfinite().all()


@torch.no_grad()
def test_interpolation_is_that_of_torch_geometric(monkeypatch):
    pyg = pytest.importorskip("torch_geometric.nn.unpool.knn_interpolate", reason="pip install torch_geometric")

    def knn(x: Tensor, y: Tensor, k: int, **_: object) -> Tensor:
        """What torch-cluster's does: (numbers of y, numbers of their k nearest x)."""
        found = torch.cdist(y, x).topk(min(k, len(x)), largest=False).indices
        return torch.stack([torch.arange(len(y))[:, None].expand_as(found).flatten(), found.flatten()])

    monkeypatch.setattr(pyg, "knn", knn)
    draw = torch.Generator().manual_seed(0)
    x, places, queries = (torch.randn(2, n, d, generator=draw).double() for n, d in ((7, 4), (7, 3), (20, 3)))
    queries[:, 5] = places[:, 2]  # a point of the sample keeps its features
    sizes = (7, 2)
    keep = torch.arange(7) < torch.tensor(sizes)[:, None]
    ours = interpolate(x, places, queries, keep)
    for row, n in enumerate(sizes):
        expected = pyg.knn_interpolate(x[row, :n], places[row, :n], queries[row], k=3)
        assert error(ours[row], expected) <= 1e-9
    close(ours[0, 5], x[0, 2], 1e-9)
    assert error(interpolate(x.float(), places.float(), queries.float(), keep), ours) <= 1e-5


@torch.no_grad()
def test_captured_maps_are_of_the_neighbors():
    model = randomize(zoo.create_model("point_transformer_tiny", **STAGED))
    clouds, batch = ragged((20, 11))
    with zoo.capture(model) as maps:
        model(**batch)
    assert {name: tuple(x.shape) for name, x in maps.items()} == {
        "stages.0.blocks.0.mixer": (2, 4, 20, 20), "stages.1.blocks.0.mixer": (2, 8, 7, 7),
        "blocks.0.mixer": (2, 16, 3, 3), "blocks.1.mixer": (2, 16, 3, 3),
    }  # fmt: skip
    first = maps["stages.0.blocks.0.mixer"]
    sums = batch["attention_mask"].float()[:, None].expand(2, 4, 20)
    torch.testing.assert_close(first.sum(-1), sums)
    near = nearest_neighbors(clouds[0][None, :, :3], clouds[0][None, :, :3], 4)[0]
    assert (first[0, 0] > 0).nonzero()[:, 1].view(20, 4).sort().values.equal(near.sort().values)
    with zoo.capture(model, layers="stages.0*", rows=1, heads=[2]) as some:
        model(**batch)
    torch.testing.assert_close(some["stages.0.blocks.0.mixer"], first[1:, 2:3])


def test_it_learns_which_of_two_clouds_is_flat():
    torch.manual_seed(0)
    model = zoo.create_model(
        "point_transformer_tiny", width=16, stages=(1,), depth=1, neighbors=4, num_classes=2, seed=0
    )
    optimizer, losses = torch.optim.Adam(model.parameters(), 1e-2), []
    for _ in range(20):
        labels = torch.randint(2, (16,))
        points = torch.randn(16, 12, 3)
        points[..., 2] *= labels[:, None]
        loss = nn.functional.cross_entropy(model(points=points), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


def test_a_decoder_learns_saves_and_loads(tmp_path):
    """Which points are in the upper half of their cloud; each parameter has its part in it."""
    fields = dict(width=16, stages=(1, 1), depth=1, neighbors=4, num_classes=2, head="token")
    model = zoo.create_model("point_transformer_tiny", **fields, seed=0)
    draw, losses = torch.Generator().manual_seed(0), []
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(20):
        points = torch.randn(8, 16, 3, generator=draw)
        labels = (points[..., 2] > points[..., 2].mean(1, keepdim=True)).long()
        loss = nn.functional.cross_entropy(model(points=points).mT, labels)
        optimizer.zero_grad()
        loss.backward()
        assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.75 * sum(losses[:5])
    made = []
    for checkpointing in (False, True):
        model.set_checkpointing(checkpointing)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(points=points).mT, labels).backward()
        made.append([p.grad.clone() for p in model.parameters()])
    for kept, recomputed in zip(*made, strict=True):
        close(recomputed, kept)
    loaded = zoo.load(zoo.save(model.eval(), tmp_path / "model")).eval()
    with torch.no_grad():
        assert torch.equal(loaded(points=points), model(points=points))
        close(loaded.bfloat16()(points=points.bfloat16()).float(), model(points=points), 0.1)
    classifier = zoo.load(tmp_path / "model", head="classify", num_classes=3)
    assert classifier(points=points).shape == (8, 3) and classifier.load_report.dropped
    model.reset_head(0)
    assert model(points=points).shape == (8, 16)


@torch.no_grad()
def test_memory_grows_with_the_points_and_not_with_their_pairs(monkeypatch):
    monkeypatch.setattr("zoo.nn.graphs.neighbors.PAIRS", 1 << 14)
    model = zoo.create_model("point_transformer_tiny", **SMALL | dict(depth=1, in_features=3))
    few, many = (most_allocated(partial(model, points=torch.randn(1, n, 3))) for n in (512, 2048))
    assert many < 5 * few


@torch.no_grad()
def test_a_staged_model_is_one_graph():
    model = randomize(zoo.create_model("point_transformer_tiny", **TOKENS | dict(depth=1, stages=(1,))))
    batch = ragged((6, 4))[1]
    torch._dynamo.reset()
    close(torch.compile(model, backend="eager", fullgraph=True)(**batch), model(**batch))
    program = torch.export.export(model, (), {"points": batch["points"]})
    close(program.module()(points=batch["points"]), model(points=batch["points"]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": "local"}, "attention='local' depends on the order of its tokens"),
        ({"mixer": "mamba"}, "mixer='mamba' reads tokens in their order"),
        ({"neighbors": 0}, "neighbors=0: expected at least 1"),
        ({"stride": 1}, "stride=1: expected at least 2"),
        ({"stages": (1, 0)}, r"stages=\(1, 0\): expected at least one block"),
        ({"width": 18}, "width=18 is halved 2 times.*a multiple of 4"),
        ({"decoder_depth": 0}, "decoder_depth=0: expected at least 1"),
    ],
)
def test_options_that_do_not_fit_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        zoo.create_model("point_transformer_tiny", **options)


def test_a_mask_without_neighbors_is_refused():
    model = zoo.create_model("point_transformer_tiny", **SMALL)
    with pytest.raises(ValueError, match="vector attention is among neighbors"):
        model.blocks(torch.zeros(1, 3, 16))
