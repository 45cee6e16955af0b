"""Small graphs with classes of nodes: a stochastic block model with features, and Zachary's karate club."""

import numpy as np
import torch

from zoo.preprocessing.graph import Graph, from_networkx

CLASSES = ["red", "green", "blue", "yellow"]
NODES, FEATURES = 600, 32
WITHIN, BETWEEN = 5.0, 2.5  # mean number of neighbors of the own class, and of all others
NOISE = 2.0  # standard deviation of a feature around the mean of its class, whose features are -1 or 1 in a third
TRAIN, VALIDATION = 20, 30  # nodes of each class; the others are tested


def make_block_model(nodes: int = NODES, *, seed: int) -> Graph:
    """A stochastic block model (Holland et al. 1983): nodes of one class have more edges with each other.

    The features of a node are those of its class with much noise: a linear model on them finds the class of about half
    of the nodes, with those of the neighbors that of most.

    Returns: an undirected graph of four classes, with the parts train, val and test; the same for the same arguments.
    """
    if nodes < len(CLASSES) * (TRAIN + VALIDATION + 1):
        raise ValueError(f"nodes={nodes}: expected at least {len(CLASSES) * (TRAIN + VALIDATION + 1)}, so that each "
                         f"part has some of each class")  # fmt: skip
    rng = np.random.default_rng([seed, nodes])
    labels = rng.permutation(np.arange(nodes) % len(CLASSES))
    means = rng.choice([-1.0, 0.0, 1.0], (len(CLASSES), FEATURES), p=[1 / 6, 2 / 3, 1 / 6])
    features = means[labels] + rng.normal(0.0, NOISE, (nodes, FEATURES))
    same = labels[:, None] == labels
    own = nodes / len(CLASSES)
    joined = np.triu(rng.random((nodes, nodes)) < np.where(same, WITHIN / own, BETWEEN / (nodes - own)), 1)
    source, target = joined.nonzero()
    parts: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for label in range(len(CLASSES)):
        members = (labels == label).nonzero()[0].tolist()
        parts["train"] += members[:TRAIN]
        parts["val"] += members[TRAIN : TRAIN + VALIDATION]
        parts["test"] += members[TRAIN + VALIDATION :]
    return Graph(
        torch.from_numpy(features).float(),
        torch.from_numpy(np.stack([np.concatenate([source, target]), np.concatenate([target, source])])),
        labels=torch.from_numpy(labels),
        parts={name: torch.tensor(rows) for name, rows in parts.items()},
        classes=tuple(CLASSES),
    )


def karate_club() -> Graph:
    """Zachary's karate club (1977): 34 members, their friendships, and the club of two that each joined in the end.

    Members have no features but their number. The instructor, the administrator and two friends of each are trained on.
    Raises ImportError without networkx.
    """
    try:
        import networkx
    except ImportError as error:
        raise ImportError("the karate club needs networkx: pip install 'attention-zoo[graphs]'") from error
    graph = from_networkx(networkx.karate_club_graph(), labels="club")
    train = [0, 1, 2, 31, 32, 33]
    val = [3, 4, 5, 27, 28, 29]
    test = sorted(set(range(graph.num_nodes)) - {*train, *val})
    parts = {name: torch.tensor(rows) for name, rows in (("train", train), ("val", val), ("test", test))}
    return Graph(graph.node_features, graph.edge_index, labels=graph.labels, names=graph.names, parts=parts,
                 classes=graph.classes)  # fmt: skip
