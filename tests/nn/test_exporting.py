"""Graphs of torch.export for any number of nodes and edges; tests/checkpoints/test_onnx.py has those of ONNX."""

import torch

import zoo
from zoo.checkpoints.onnx.inputs import parts_of


def test_graphs_in_a_trace_for_any_number_of_nodes_and_edges() -> None:
    """With edges and self-loops that are there twice, features of edges, and scores of each of several graphs."""
    options = dict(width=8, heads=2, depth=1, in_features=3, edge_dim=2, head="classify")
    model = zoo.create_model("gatv2_small", seed=0, **options).eval()
    (part,) = parts_of(model)
    inputs = part.examples(3, 9, seed=0)
    axes = {name: dict.fromkeys(part.ranges(name), torch.export.Dim.DYNAMIC) for name in inputs}
    with torch.no_grad():
        traced = torch.export.export(model, (), inputs, dynamic_shapes=axes, strict=False).module()
        for rows, nodes in ((3, 9), (2, 20), (5, 4)):
            inputs = part.examples(rows, nodes, seed=rows)
            torch.testing.assert_close(traced(**inputs), model(**inputs), atol=1e-5, rtol=1e-5)
