"""Whether weights have changed: what is noticed, and what is kept alive."""

import gc
import weakref

import torch
from torch import nn

from zoo.inference.optimized_weights import SourceWeights


def model():
    return nn.Sequential(nn.Linear(3, 3), nn.Identity(), nn.Linear(3, 1, bias=False))


def test_what_is_noticed():
    for change in (
        lambda m: m[0].weight.data.add_(0).shape and m[0].weight.detach().add_(1),
        lambda m: setattr(m[0], "weight", nn.Parameter(m[0].weight.detach())),
        lambda m: setattr(m[0], "bias", None),
        lambda m: setattr(m[2], "bias", nn.Parameter(torch.zeros(1))),
        lambda m: m.append(nn.Identity()),
        lambda m: m[1].add_module("inside", nn.Identity()),
        lambda m: m[1].register_parameter("inside", nn.Parameter(torch.zeros(1))),
        lambda m: m.__delitem__(2),
        lambda m: m.__setitem__(1, nn.Identity()),
    ):
        m = model()
        weights = SourceWeights(m)
        assert not weights.changed()
        m.train().requires_grad_(False)
        m(torch.ones(1, 3))
        assert not weights.changed()
        change(m)
        assert weights.changed()


def test_weights_of_inference_mode():
    with torch.inference_mode():
        m = model()
        m[0].weight = nn.Parameter(torch.ones(3, 3), requires_grad=False)
    assert not SourceWeights(m).changed()


def test_nothing_is_kept_alive():
    m = model()
    weights, parameter = SourceWeights(m), weakref.ref(m[0].weight)
    del m
    gc.collect()
    assert parameter() is None and not weights.changed()
