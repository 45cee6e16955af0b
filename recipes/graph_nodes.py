"""Train a model that gives each node of a graph a class, a graph attention network or a graph transformer.

    python recipes/graph_nodes.py                        a stochastic block model: the nodes' features are noisy
    python recipes/graph_nodes.py data=karate            Zachary's karate club
    python recipes/graph_nodes.py data=cora              papers and their citations, with the settings of the GAT paper
    python recipes/graph_nodes.py data=cora mode=inductive    trained without the nodes of validation and test
    python recipes/graph_nodes.py data=citeseer.npz      another graph in the same layout: x, edge_index, y, train, ...
    python recipes/graph_nodes.py data=FOLDER            nodes.csv and edges.csv, or graphs in train/, val/ and test/
    python recipes/graph_nodes.py data=big.npz neighbors=[10,10] batch_size=512     a graph larger than memory

The loss and the metrics are those of the nodes that have a class, in the parts that the graph gives: training,
validation, test. Beside the accuracy stands that of a linear model on the features of the nodes alone. The trained
model is saved in runs/graph_nodes/model, ready for `zoo predict`. If a run is interrupted, the same command resumes it,
bit for bit.
"""

import sys

from zoo.training.main import main
from zoo.training.recipes.graph_config import GraphNodesSettings
from zoo.training.result import Result
from zoo.training.run import Run

LONGER_RUNS = {"synthetic": "epochs=400"}


def train(run: Run) -> Result:
    """Create the model, load the graph, train on the nodes of its training part."""
    from zoo.data.graph.load_nodes import load_nodes
    from zoo.data.graph.nodes import GraphNodesDataModule
    from zoo.tasks.node_classification import NodeClassificationTask
    from zoo.tasks.problem_types import class_weights
    from zoo.training.fit import fit
    from zoo.training.recipes.graphs import check_neighbors, fit_to_graph, graph_model, sample_graph

    cfg = run.config
    model = graph_model(run, head="token")  # by name, or from a folder of weights
    nodes = load_nodes(cfg.data, seed=cfg.seed)
    run.open(nodes, model)  # a new folder, or that of an unfinished run with the same settings and data
    nodes = nodes.with_validation(cfg.trainer.val_fraction, cfg.seed)
    model = fit_to_graph(run, model, nodes)
    check_neighbors(model, cfg.data.neighbors)

    data = GraphNodesDataModule(nodes, model.preprocess, cfg.data.batch_size, inductive=cfg.data.mode == "inductive",
                                neighbors=cfg.data.neighbors, seed=cfg.seed,
                                num_workers=cfg.data.num_workers)  # fmt: skip
    weights = class_weights(cfg.task.class_weights, nodes.train.labels, len(nodes.classes))
    task = NodeClassificationTask(model, problem_type="single_label_classification", class_weights=weights,
                                  optim=cfg.optim, label_smoothing=cfg.task.label_smoothing, ema=cfg.trainer.ema,
                                  seed=cfg.seed)  # fmt: skip
    return fit(run, task, data, longer_runs=LONGER_RUNS,
               example_command=["zoo", "predict", "{model}", str(sample_graph(run, nodes))])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(train, GraphNodesSettings))
