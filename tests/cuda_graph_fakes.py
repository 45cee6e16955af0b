"""Graphs without a GPU: the outputs of a recorded function stay at their addresses, as those of a CUDA graph do."""

import torch

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


class FakeTrainingRecorder:
    """What `GraphedModel` takes in place of `cuda_graph_recorder`; counts the replays."""

    def __init__(self):
        self.replays = 0

    def __call__(self, device):
        return self.record

    def record(self, function):
        with torch.random.fork_rng(devices=[]):  # a capture consumes no random numbers
            stored = function()
        values_of = lambda result: result if isinstance(result, tuple) else (result,)  # noqa: E731
        memory = [x.detach() for x in values_of(stored) if x is not None]

        def replay():
            self.replays += 1
            for kept, new in zip(memory, (x for x in values_of(function()) if x is not None), strict=True):
                kept.copy_(new.detach())

        return stored, replay
