"""Folders of torch_geometric, read and written: GAT, GATv2 and networks of TransformerConv."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peers import edit_json, error, randomize
from table_swaps import check_swaps
from torch import Tensor, nn

import zoo

pyg: Any = pytest.importorskip("torch_geometric.nn", reason="pip install torch_geometric")
from torch_geometric.nn.model_hub import PyGModelHubMixin  # noqa: E402
from torch_geometric.nn.models.basic_gnn import BasicGNN  # noqa: E402


class UniMP(BasicGNN):
    """Layers of TransformerConv, the last with the mean of its heads."""

    supports_edge_weight, supports_edge_attr = False, True

    def init_conv(self, in_channels, out_channels, **options):
        concat = not getattr(self, "_is_conv_to_out", False)
        size = out_channels // options["heads"] if concat else out_channels
        return pyg.TransformerConv(in_channels, size, concat=concat, dropout=self.dropout.p, **options)


class HubGAT(pyg.GAT, PyGModelHubMixin):
    def __init__(self, model_name, dataset_name, model_kwargs):
        model_kwargs.pop("use_auth_token", None)  # what new versions of huggingface_hub make of its from_pretrained
        pyg.GAT.__init__(self, **model_kwargs)
        PyGModelHubMixin.__init__(self, model_name, dataset_name, model_kwargs)


BASE = dict(in_channels=5, hidden_channels=16, num_layers=3, out_channels=3, heads=4)
NORM = dict(norm="layer_norm", norm_kwargs={"mode": "node"})
CASES: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "GAT": (pyg.GAT, dict(edge_dim=3, act="elu", **NORM)),
    "GAT, residual": (pyg.GAT, dict(edge_dim=3, residual=True, act="gelu")),
    "GAT of one layer": (pyg.GAT, dict(num_layers=1, bias=False, residual=True)),
    "GATv2": (pyg.GAT, dict(v2=True, edge_dim=3)),
    "GATv2, residual": (pyg.GAT, dict(v2=True, add_self_loops=False, residual=True)),
    "GATv2 without bias": (pyg.GAT, dict(v2=True, edge_dim=3, bias=False)),
    "TransformerConv": (UniMP, dict(edge_dim=3, beta=True, **NORM)),
    "TransformerConv, no gate": (UniMP, dict(bias=False)),
    "TransformerConv, no root": (UniMP, dict(edge_dim=3, root_weight=False)),
}


def inputs(dtype: torch.dtype, edge_dim: int | None) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Seventeen nodes; three have no edges, and some a self-loop."""
    generator = torch.Generator().manual_seed(1)
    edges = torch.unique(torch.randint(0, 14, (2, 40), generator=generator), dim=1)
    features = torch.randn(edges.shape[1], edge_dim or 1, generator=generator).to(dtype)
    return torch.randn(17, 5, generator=generator).to(dtype), edges, {"edge_attr": features} if edge_dim else {}


def outputs(model: nn.Module, dtype: torch.dtype = torch.float32, edge_dim: int | None = None) -> Tensor:
    x, edges, more = inputs(dtype, edge_dim)
    if isinstance(model, zoo.Model):
        more = {"edge_features": more["edge_attr"]} if more else {}
    with torch.no_grad():
        return model.to(dtype)(x, edges, **more)


def folder_of(folder: Path, model: nn.Module, arguments: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    torch.save(model.state_dict(), folder / "model.pth")
    (folder / "config.json").write_text(json.dumps(arguments))
    return folder


@pytest.mark.parametrize("case", CASES)
def test_networks_both_ways(case, tmp_path):
    cls, options = CASES[case]
    arguments, edge_dim = BASE | options, options.get("edge_dim")
    theirs = randomize(cls(**arguments))
    folder = folder_of(tmp_path / "theirs", theirs, arguments)
    ours = zoo.load(folder)
    assert not ours.load_report.initialized
    assert all(".lin_skip." in name for name in ours.load_report.dropped)
    for dtype, limit in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
        assert error(outputs(ours, dtype, edge_dim), outputs(theirs, dtype, edge_dim)) <= limit

    again = zoo.export(randomize(ours, seed=3), tmp_path / "ours", format="torch_geometric")
    other = cls(**json.loads((again / "config.json").read_text())).eval()
    other.load_state_dict(torch.load(again / "model.pth", weights_only=True))
    assert error(outputs(ours, torch.float32, edge_dim), outputs(other, torch.float32, edge_dim)) <= 1e-5
    if case in ("GAT", "GATv2", "TransformerConv"):
        assert zoo.verify(again).ok
        expected = outputs(theirs, torch.float32, edge_dim)
        lines = {"GAT": 13, "GATv2": 10, "TransformerConv": 13}[case]
        check_swaps(
            folder / "model.pth", lambda model: outputs(model, torch.float32, edge_dim), expected, lines, step=7
        )


def test_folders_of_the_mixin_which_leaves_arguments_out(tmp_path):
    """v2, residual and other arguments that are no numbers are in the tensors alone."""
    arguments = BASE | dict(v2=True, residual=True, edge_dim=3, dropout=0.5, act="elu")
    theirs = randomize(HubGAT("gat", "cora", arguments))
    theirs.save_pretrained(tmp_path / "theirs")
    assert "v2" not in json.loads((tmp_path / "theirs" / "config.json").read_text())
    ours = zoo.load(tmp_path / "theirs")
    assert ours.load_report.plain and ours.config.dropout == ours.config.attention_dropout == 0.5
    assert error(outputs(ours, edge_dim=3), outputs(theirs, edge_dim=3)) <= 1e-5
    assert ours.preprocess.edge_dim == 3
    assert torch.equal(outputs(zoo.load(tmp_path / "theirs" / "model.pth"), edge_dim=3), outputs(ours, edge_dim=3))
    folder = zoo.export(ours, tmp_path / "ours", format="torch_geometric")
    again = HubGAT.from_pretrained(folder, config=json.loads((folder / "config.json").read_text()))
    assert error(outputs(again, edge_dim=3), outputs(theirs, edge_dim=3)) <= 1e-5


def test_steps_of_training_are_the_same(tmp_path):
    arguments = BASE | dict(edge_dim=3, beta=True)
    theirs = randomize(UniMP(**arguments))
    ours = zoo.load(folder_of(tmp_path, theirs, arguments))
    x, edges, more = inputs(torch.float32, 3)
    losses: list[list[float]] = []
    for model, features in ((ours, {"edge_features": more["edge_attr"]}), (theirs, more)):
        optimizer, found = torch.optim.Adam(model.train().parameters(), 1e-2), []
        for _ in range(20):
            loss = nn.functional.cross_entropy(model(x, edges, **features), torch.arange(17) % 3)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        losses.append(found)
    assert losses[0][-1] < 0.9 * losses[0][0]
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=1e-4)


@pytest.mark.parametrize("attention", ["gat", "gatv2"])
def test_fewer_heads_in_the_last_layer_are_repeated(attention, tmp_path, capsys):
    """The paper's network has one head there, and a GAT of torch_geometric as many as in the others."""
    more = dict(in_features=5, num_classes=3, width=16, heads=4, head_heads=2, edge_dim=3, undirected=True)
    undirected = more.pop("undirected")
    ours = randomize(zoo.create_model("gat_small", attention=attention, shared=attention == "gat", **more))
    ours.labels = ["a", "b", "c"]
    ours.preprocess = zoo.preprocessing.graph.GraphProcessor(in_features=5, edge_dim=3, undirected=undirected)
    folder = zoo.export(ours, tmp_path, format="torch_geometric")
    assert "no place for undirected=True and the names of the classes" in capsys.readouterr().err
    loaded = zoo.load(folder)
    assert loaded.config.head_heads == 4
    assert error(outputs(loaded, edge_dim=3), outputs(ours, edge_dim=3)) <= 1e-5


def test_one_projection_under_two_names_as_older_versions_have_it(tmp_path):
    theirs = randomize(pyg.GAT(**BASE))
    old = {}
    for name, x in theirs.state_dict().items():
        names = [name] if "lin." not in name else [name.replace("lin.", part) for part in ("lin_src.", "lin_dst.")]
        old |= dict.fromkeys(names, x)
    folder = folder_of(tmp_path, theirs, BASE | {"in_channels": -1})
    torch.save(old, folder / "model.pth")
    assert error(outputs(zoo.load(folder)), outputs(theirs)) <= 1e-5
    torch.save(old | {"convs.1.lin_dst.weight": old["convs.1.lin_dst.weight"] + 1}, folder / "model.pth")
    with pytest.raises(zoo.LoadError, match=r"convs\.1\.lin_src\.weight and the lin_dst beside it differ"):
        zoo.load(folder)


def test_what_cannot_be_read_is_named(tmp_path):
    theirs = randomize(pyg.GAT(**BASE, norm="LayerNorm"))
    folder = folder_of(tmp_path, theirs, BASE)
    changes = [
        ({}, "the network has norms, and its config does not say which"),
        ({"norm": "LayerNorm"}, "norm='LayerNorm' with norm_kwargs={} is not supported, only norm='layer_norm'"),
        ({"jk": "cat"}, "jk='cat' is not supported, only None"),
        ({"concat": False}, "concat=False is not supported, only True"),
        ({"act": "prelu"}, "act='prelu' is not supported, only relu, elu"),
        ({"out_channels": ...}, "out_channels is missing"),
        ({"window": 3}, "window=3 is not supported"),
        ({"num_layers": "3"}, "has a value that is not expected there"),
        ({**NORM, "heads": 2}, "does not fit the model: mis-shaped"),
    ]
    for change, message in changes:
        (folder / "config.json").write_text(json.dumps(BASE))
        edit_json(folder / "config.json", **change)
        with pytest.raises(zoo.LoadError, match=message):
            zoo.load(folder)
    folder_of(tmp_path, pyg.GCN(5, 16, 3, 3), BASE)
    with pytest.raises(zoo.LoadError, match="its weights are of none that is known here: GAT"):
        zoo.load(folder)
    torch.save(theirs, folder / "model.pth")
    with pytest.raises(zoo.LoadError, match=r"would run code when unpickled.*torch.save\(model.state_dict\(\)"):
        zoo.load(folder)
    (folder / "model.pth").unlink()
    with pytest.raises(zoo.LoadError, match=r"contains no weights: expected one of model\.pth"):
        zoo.load(folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(residual=True), "cannot express residual=True"),
        (dict(attention="additive"), "no layer with attention='additive', shared=True and value_proj=False"),
        (dict(act="quick_gelu"), "no activation act='quick_gelu'"),
        (dict(heads=4, head_heads=3), "cannot express head_heads=3"),
        (dict(head="classify"), "cannot express head='classify'"),
    ],
)
def test_what_cannot_be_written_is_named(options, message, tmp_path):
    model = zoo.create_model("gat_small", in_features=5, width=16, **options)
    with pytest.raises(ValueError, match=message):
        zoo.export(model, tmp_path, format="torch_geometric")
    assert not any(tmp_path.iterdir())
