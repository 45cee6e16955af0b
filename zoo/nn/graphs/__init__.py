"""Graphs and clouds of points: attention over edges, masks of edges, nearest neighbors."""
