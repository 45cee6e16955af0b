"""Datasets of graphs: of the nodes of a graph, or of many molecules with a label each."""
