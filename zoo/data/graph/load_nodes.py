"""Load the nodes of a graph with their classes: files, folders, known graphs or synthetic ones."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.data.graph.nodes import GraphNodes
from zoo.data.graph_config import GraphNodeSettings
from zoo.data.sources.dataset_cards import card_files, load_card, real_cards
from zoo.data.sources.fingerprint import note_files
from zoo.data.splits import Splits, with_test
from zoo.data.synthetic import graphs as synthetic
from zoo.preprocessing.graph import Graph, batch_graphs, load_graph
from zoo.preprocessing.graph_files import EDGES, NODES, SUFFIXES
from zoo.utils.errors import DataError, did_you_mean

TASK = "node classification"
SYNTHETIC = ("auto", "synthetic", "synthetic_graph")
PARTS = {"train": "train", "validation": "val", "test": "test"}  # of splits, and the names that a graph has for them
FOLDERS = {"train": ("train",), "val": ("val", "validation", "valid", "dev"), "test": ("test",)}


def load_nodes(settings: GraphNodeSettings | None = None, *, seed: int = 0) -> Splits[GraphNodes]:
    """Load a graph whose nodes have classes.

    Args:
        settings: Dataset and options; see `GraphNodeSettings`.
        seed: Seed of what is held out, and of subsets.

    Raises: DataError for an unknown name; a file that is missing or damaged; a graph without classes, or whose parts
        overlap or have nodes without a class. The message says how to fix it.
    """
    s = settings or GraphNodeSettings()
    if s.name in SYNTHETIC:
        graph = synthetic.make_block_model(seed=0)
        return _splits(graph, "synthetic", "a generated graph", seed, s, real=False)
    if s.name == "karate":
        return _splits(synthetic.karate_club(), "karate", "networkx", seed, s, names=load_card("karate").labels)
    cards = [name for name in real_cards(TASK) if name != "karate"]
    if s.name in cards:
        card = load_card(s.name)
        file = next(iter(card_files(card, s.data_dir).values()))
        return _splits(_read(file), card.name, str(file.parent), seed, s, names=card.labels)
    path = Path(s.name).expanduser()
    if not path.exists():
        known = ["synthetic", "karate", *cards]
        raise DataError(f"data={s.name!r}: expected a graph in an .npz file that exists, a folder with {NODES} and "
                        f"{EDGES}, or one of {', '.join(known)}{did_you_mean(s.name, known)}")  # fmt: skip
    graph = _of_folders(path) if path.is_dir() and not (path / NODES).exists() else _read(path)
    return _splits(graph, path.resolve().name, str(path), seed, s)


def merge_graphs(graphs: Sequence[Graph]) -> Graph:
    """One graph with the nodes of several, and no edges between them. Its classes are those of all of them.

    Raises: DataError for graphs with other features than the first, and where some have names of classes, and others
        numbers.
    """
    named = [graph.classes for graph in graphs if graph.labels is not None]
    if any(names is None for names in named) and any(names is not None for names in named):
        raise DataError("some graphs have names of classes, and others numbers: expected one of them")
    classes = list(dict.fromkeys(name for names in named for name in names or ()))
    if any(list(names or ()) != classes for names in named):
        classes = sorted(classes)
    batch = batch_graphs(graphs)
    labels = [_labels_among(graph, classes) for graph in graphs]
    names = [f"{i}/{name}" for i, each in enumerate(graphs) for name in each.node_names()]
    return Graph(batch["node_features"], batch["edge_index"], batch.get("edge_features"), torch.cat(labels),
                 tuple(names), classes=tuple(classes) or None)  # fmt: skip


def _labels_among(graph: Graph, classes: Sequence[str]) -> Tensor:
    """The classes of the nodes of a graph as numbers of `classes`, -1 where they are unknown."""
    if graph.labels is None:
        return torch.full((graph.num_nodes,), -1)
    if graph.classes is None:
        return graph.labels
    number = torch.tensor([classes.index(name) for name in graph.classes] + [-1])
    return number[graph.labels]


def _read(path: Path) -> Graph:
    """The graph of a file or folder. Raises: DataError that names it."""
    note_files([path / NODES, path / EDGES] if path.is_dir() else [path])
    try:
        return load_graph(path)
    except ValueError as error:
        reason = str(error)
        raise DataError(reason if str(path) in reason else f"{path}: {reason}") from None


def _of_folders(folder: Path) -> Graph:
    """The graphs of the sub-folders `train`, `val` and `test` as one."""
    found: dict[str, list[Graph]] = {}
    for part, names in FOLDERS.items():
        for own in (folder / name for name in names if (folder / name).is_dir()):
            files = sorted(path for path in own.iterdir() if path.suffix.lower() in SUFFIXES or path.is_dir())
            found[part] = found.get(part, []) + [_read(path) for path in files]
    if not found.get("train"):
        raise DataError(f"{folder} has no graph to train on: expected {NODES} and {EDGES}, or .npz files in a "
                        f"sub-folder train/, and maybe val/ and test/")  # fmt: skip
    graphs = [graph for part in found.values() for graph in part]
    part_of = torch.repeat_interleave(
        torch.tensor([number for number, part in enumerate(found.values()) for _ in part]),
        torch.tensor([graph.num_nodes for graph in graphs]),
    )
    merged = merge_graphs(graphs)
    assert merged.labels is not None
    known = merged.labels >= 0
    return replace(merged, parts={part: (part_of == number) & known for number, part in enumerate(found)})


def _splits(graph: Graph, name: str, where: str, seed: int, s: GraphNodeSettings, *, real: bool = True,
            names: Sequence[str] = ()) -> Splits[GraphNodes]:  # fmt: skip
    """The splits of a graph by its parts; what it has none of is held out from training."""
    if graph.labels is None or int(graph.labels.max()) < 0:
        raise DataError(f"{where} has no classes of nodes: expected an array y, or a column label in {NODES}")
    labels = graph.labels
    if graph.classes is None and int(labels.max()) >= graph.num_nodes:
        graph, labels = _renumbered(graph, labels)
    classes = list(graph.classes or names or map(str, range(int(labels.max()) + 1)))
    if len(classes) < max(2, int(labels.max()) + 1):
        raise DataError(f"{where} has {len(classes)} classes for labels up to {int(labels.max())}: expected at least "
                        f"two classes, and a name for each")  # fmt: skip
    parts = _parts(graph, labels, where)
    sets = {split: GraphNodes(graph, parts[part].nonzero().flatten()) for split, part in PARTS.items() if part in parts}
    problem = f"{where}: each class has a single node to train on: none is left to hold out for testing; add some"
    sets = with_test(sets, seed, problem, classes)
    test_name = "" if "test" in parts else f"a held-out part of {name}"
    found: Splits[Any] = Splits(sets["train"], sets["test"], name, real, where, validation=sets.get("validation"),
                                classes=classes, test_name=test_name,
                                notes=_notes(graph, sets["train"].labels, classes))  # fmt: skip
    return found.limited(s.max_train_samples, s.max_test_samples, seed)


def _parts(graph: Graph, labels: Tensor, where: str) -> dict[str, Tensor]:
    """The parts of a graph, bool [N]; all nodes with a class are trained on if it has none."""
    parts = {name: part for name, part in (graph.parts or {}).items() if part.any()}
    if not parts:
        return {"train": labels >= 0}
    if "train" not in parts:
        raise DataError(f"{where} has the parts {', '.join(parts)} and none to train on: expected train, val and test")
    for name, part in parts.items():
        if (unknown := part & (labels < 0)).any():
            raise DataError(f"{where}: node {graph.node_names()[int(unknown.nonzero()[0])]} is in {name} and has no "
                            f"class: give it one, or take it out of {name}")  # fmt: skip
        for other, more in parts.items():
            if other != name and (both := part & more).any():
                raise DataError(f"{where}: node {graph.node_names()[int(both.nonzero()[0])]} is in {name} and in "
                                f"{other}: expected each node in one part")  # fmt: skip
    return parts


def _renumbered(graph: Graph, labels: Tensor) -> tuple[Graph, Tensor]:
    """A graph whose classes are numbers such as codes, with these as the names of its classes; and its labels."""
    found = labels[labels >= 0].unique()
    numbers = torch.where(labels < 0, -1, torch.searchsorted(found, labels))
    return replace(graph, labels=numbers, classes=tuple(map(str, found.tolist()))), numbers


def _notes(graph: Graph, trained: Tensor, classes: Sequence[str]) -> list[str]:
    """What the graph is, its nodes without edges, and the classes that no training node has.

    trained: classes of the training nodes.
    """
    alone = graph.num_nodes - len(graph.edge_index.unique())
    notes = [f"{graph.num_nodes:,} nodes of {graph.node_features.shape[1]:,} features, {graph.num_edges:,} edges"]
    if alone:
        notes.append(f"{alone:,} {'nodes have' if alone > 1 else 'node has'} no edge")
    absent = [name for number, name in enumerate(classes) if not (trained == number).any()]
    if absent:
        more = f" and {len(absent) - 5:,} more" if len(absent) > 5 else ""
        notes.append(f"no training node has the class {', '.join(absent[:5])}{more}: the model cannot learn it")
    return notes
