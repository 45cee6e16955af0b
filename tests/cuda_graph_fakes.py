"""Graphs without a GPU: the outputs of a recorded function stay at their addresses, as those of a CUDA graph do."""

from zoo.inference.optimized_graphs import map_tensors
from zoo.utils.cuda_graph import GraphRecorder


def same_memory(function, before=lambda: None):
    """A function that is called while it is "recorded", and whose later calls write to the outputs of the first."""
    outputs, places = function(), []
    map_tensors(places.append, outputs)

    def run():
        before()
        values = []
        map_tensors(values.append, function())
        for place, value in zip(places, values, strict=True):
            place.copy_(value)
        return outputs

    return run


class FakeRecorder(GraphRecorder):
    """Records functions on any device."""

    def record(self, function, generator=None, *, warm_up=True):
        if warm_up:
            function()
        return same_memory(function)
