"""Datasets of graphs: of the nodes of a graph, or of many graphs or molecules with a label each."""
