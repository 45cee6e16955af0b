"""What a model of graphs takes from the data: the features of nodes and edges, and the classes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from zoo.data.graph.nodes import GraphNodes, are_counts
from zoo.data.splits import Splits
from zoo.models.base import Model
from zoo.models.graph import GraphModel
from zoo.models.registry import find_variant
from zoo.preprocessing.graph import GraphProcessor
from zoo.training.parse import SettingsError
from zoo.training.pretrained import set_classes
from zoo.training.run import Run


def graph_model(run: Run, head: str, **fields: Any) -> Model:
    """The model of the settings. Raises: SettingsError, also for a model that does not take graphs."""
    name, source = run.config.model.name, run.config.model.source
    if not source and (family := find_variant(name)).modality != "graph":
        raise SettingsError(f"{name} is a {family.name} model: expected one of graphs, such as gat_cora")
    model = run.build_model(head, **fields)
    if model.inputs[0] != "node_features":
        raise SettingsError(f"model.source={source} is a {model.family} model: expected one of graphs")
    return model


def fit_to_graph(run: Run, model: Model, nodes: Splits[GraphNodes]) -> Model:
    """The model for the nodes: a pretrained one with their classes; a new one built again for their features, too.

    Raises: SettingsError for a graph with other features than those of a pretrained model.
    """
    c, graph = run.config, nodes.train.graph
    edge_dim = None if graph.edge_features is None else graph.edge_features.shape[1]
    own: dict[str, Any] = {"in_features": graph.node_features.shape[1], "edge_dim": edge_dim}
    if c.model.source:
        of_model = {name: getattr(model.config, name) for name in own}
        if of_model != own:
            raise SettingsError(f"model.source={c.model.source}: it takes graphs of {of_model}, and {nodes.name} has "
                                f"{own}")  # fmt: skip
        set_classes(model, nodes.classes, c.seed)
    else:
        model = graph_model(run, "token", num_classes=len(nodes.classes), **own)
        normalize = are_counts(graph) if c.data.normalize_features == "auto" else c.data.normalize_features
        model.preprocess = GraphProcessor(**own, normalize_features=normalize, undirected=c.data.undirected)
        model.labels = list(nodes.classes)
    return model


def check_neighbors(model: Model, neighbors: Sequence[int]) -> None:
    """Raise SettingsError unless neighbors are sampled as many edges away as the model looks: with fewer, validation
    and test would see other inputs than prediction does."""
    hops = cast(GraphModel, model).hops
    if neighbors and hops is None:
        raise SettingsError(f"neighbors={[*neighbors]}: the nodes of the model attend to the whole graph, so that no "
                            f"neighbors can be sampled; omit neighbors=")  # fmt: skip
    if neighbors and len(neighbors) != hops:
        raise SettingsError(f"neighbors={[*neighbors]} samples neighbors {len(neighbors)} edges away, and the outputs "
                            f"of the model depend on nodes {hops} edges away: expected {hops} numbers, such as "
                            f"neighbors={str([10] * (hops or 0)).replace(' ', '')}")  # fmt: skip


def sample_graph(run: Run, nodes: Splits[GraphNodes]) -> Path:
    """The file or folder of the graph of a run; of one that is in memory, sample.npz in the run folder."""
    assert run.folder is not None
    path = Path(run.config.data.name).expanduser()
    if path.exists():
        return path
    file = run.folder.path / "sample.npz"
    graph = nodes.train.graph
    arrays = {"x": graph.node_features, "edge_index": graph.edge_index, "names": graph.node_names()}
    if graph.edge_features is not None:
        arrays["edge_attr"] = graph.edge_features
    compressed: dict[str, Any] = {name: np.asarray(values) for name, values in arrays.items()}
    np.savez_compressed(file, **compressed)
    return file
