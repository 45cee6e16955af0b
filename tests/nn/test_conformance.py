"""zoo.check passes good cores, and names what is wrong with bad ones."""

import re
import sys

import pytest
import torch
from torch import nn

import zoo
from zoo.nn import Core
from zoo.nn.conformance import CHECKS, Report, header
from zoo.nn.registry import BUILT_IN, CORES
from zoo.nn.sdpa import repeat_kv


class Plain(Core):
    def weights(self, q, k, mask=None, bias=None):
        return self.scores(q, k, mask, bias).softmax(-1)


class Tempered(Plain):
    """With a parameter, a persistent buffer and a forward of its own: good."""

    def __init__(self, spec, start: float = 0.0):
        super().__init__(spec)
        self.temperature = nn.Parameter(torch.full((spec.heads, 1, 1), start))
        self.register_buffer("offset", torch.ones(1))

    def weights(self, q, k, mask=None, bias=None):
        return super().weights(q * (self.offset + self.temperature).to(q.dtype), k, mask, bias)

    def forward(self, q, k, v, mask=None, bias=None):
        return (self.maps(q, k, mask, bias) @ repeat_kv(v, q.shape[1])).to(v.dtype)


class Peeks(Core):
    """Normalizes over hidden keys as well, so the future shows."""

    def weights(self, q, k, mask=None, bias=None):
        weights = self.scores(q, k, None, bias).softmax(-1)
        return weights if mask is None else weights * mask


class Deaf(Core):
    """Ignores masks."""

    def weights(self, q, k, mask=None, bias=None):
        return self.scores(q, k, None, bias).softmax(-1)


class Unbiased(Core):
    """Ignores biases."""

    def weights(self, q, k, mask=None, bias=None):
        return self.scores(q, k, mask).softmax(-1)


class Tiled(Core):
    """Gives query head h the keys of group h % G; groups are neighbors."""

    def weights(self, q, k, mask=None, bias=None):
        k = k.repeat(1, q.shape[1] // k.shape[1], 1, 1)
        return self.hide((q * self.scale) @ k.mT, mask, bias).softmax(-1)


class Lies(Plain):
    """A forward that computes something else than its weights say."""

    def forward(self, q, k, v, mask=None, bias=None):
        return super().forward(q, k, v, mask, bias) * 1.01


class Stopped(Plain):
    """A parameter that no gradient reaches."""

    def __init__(self, spec):
        super().__init__(spec)
        self.unused = nn.Parameter(torch.ones(3))


class Counts(Core):
    """Divides by the number of keys, padding included."""

    def weights(self, q, k, mask=None, bias=None):
        return self.scores(q, k, mask, bias).sigmoid() / k.shape[2]


class Single(Core):
    """Falls into float32 on the way."""

    def weights(self, q, k, mask=None, bias=None):
        return self.scores(q, k, mask, bias).softmax(-1)

    def forward(self, q, k, v, mask=None, bias=None):
        return super().forward(q, k, v, mask, bias).float()


class Square(Core):
    """Only as many keys as queries."""

    def weights(self, q, k, mask=None, bias=None):
        return self.scores(q, k, mask, bias).softmax(-1) + torch.zeros(q.shape[2], q.shape[2])


class Forgets(Plain):
    """Decodes without what was before."""

    def decode(self, q, k, v, state, mask=None, bias=None):
        return self(q, k, v, mask, bias)


class Mixes(Plain):
    """Rows of a batch see each other."""

    def weights(self, q, k, mask=None, bias=None):
        return super().weights(q, k, mask, bias) + 0.1 * q.mean()


class Explodes(Plain):
    """NaN where a query sees nobody."""

    def forward(self, q, k, v, mask=None, bias=None):
        y = super().forward(q, k, v, mask, bias)
        return torch.where((y == 0).all(-1, keepdim=True), torch.nan, y)


class Dice(Plain):
    """Draws while evaluating."""

    def weights(self, q, k, mask=None, bias=None):
        return super().weights(q + torch.randn_like(q), k, mask, bias)


class Loses(Plain):
    """A buffer that no file holds."""

    def __init__(self, spec):
        super().__init__(spec)
        self.register_buffer("features", torch.randn(spec.head_dim, spec.head_dim), persistent=False)

    def weights(self, q, k, mask=None, bias=None):
        features = self.features.to(q.dtype)
        return super().weights(q @ features, k @ features, mask, bias)


class Unbuilt(Plain):
    def __init__(self, spec):
        raise RuntimeError("no such thing")


class Misshapen(Core):
    def weights(self, q, k, mask=None, bias=None):
        return self.scores(q, k, mask, bias).softmax(-1).mean(1, keepdim=True)


GOOD = [Plain, Tempered, *BUILT_IN, {"kind": "local", "window": 3}, {"kind": "bigbird", "block": 2, "random": 1}]
BAD = {
    Peeks: {"causal": "causal mask is violated"},
    Deaf: {"causal": "causal mask is violated", "padding": "padding is ignored", "any mask": "window mask is ignored"},
    Unbiased: {"bias": "bias is ignored"},
    Tiled: {"GQA": "shared key heads give other outputs"},
    Lies: {"law": "forward differs from weights @ v at length 1"},
    Stopped: {"gradients": "the parameter 'unused' gets no gradient"},
    Counts: {"padding": "padded row gives other outputs"},
    Single: {"bfloat16": "the outputs are torch.float32", "float64": "the outputs are torch.float32"},
    Square: {"cross": "raised RuntimeError"},
    Forgets: {"decoding": "differs from one full forward"},
    Mixes: {"batch rows": "row of a batch gives other outputs than alone"},
    Explodes: {"hidden rows": "fully masked query is not zero"},
    Dice: {"law": "forward differs from weights"},
    Loses: {"loading": "'features' is not in the state dict"},
    Unbuilt: {"law": "raised RuntimeError: no such thing"},
    Misshapen: {"law": r"weights have the shape \(2, 1, 1, 1\)"},
}


def title(core):
    return core if isinstance(core, str) else getattr(core, "__name__", str(core))


@pytest.mark.parametrize("core", GOOD, ids=title)
def test_good_cores_pass(core):
    report = zoo.check(core)
    assert report.ok and report.failures == [] and report.seconds < 30
    assert set(report.results) == set(CHECKS)


@pytest.mark.parametrize("core", BAD, ids=title)
def test_wrong_cores_fail_with_a_message(core):
    report = zoo.check(core)
    assert not report.ok
    for check, message in BAD[core].items():
        assert report.results[check] == "FAILS"
        (failure,) = [f for f in report.failures if f.startswith(f"{check}: ")]
        assert re.search(message, failure), failure
    if core not in (Lies, Dice, Unbuilt, Misshapen, Square, Peeks, Deaf, Counts, Mixes):  # those break more
        assert {f.split(":")[0] for f in report.failures} == set(BAD[core]), report.failures


def test_a_class_that_is_not_a_core_fails_without_raising():
    report = zoo.check(nn.Linear)
    assert not report.ok and "not a subclass of zoo.nn.Core" in report.failures[0]


def test_an_unknown_name_is_an_error():
    with pytest.raises(ValueError, match="did you mean 'performer'"):
        zoo.check("preformer")


def test_a_report_is_a_row_of_the_table():
    report = zoo.check(Tiled)
    lines = str(report).splitlines()
    assert "\n".join(lines[:2]) == header() and lines[2] == report.row()
    assert lines[2].startswith("| `Tiled` | yes |") and lines[2].count("|") == lines[0].count("|")
    assert lines[3].startswith("Tiled: 1 failed in") and lines[4].startswith("  GQA: ")
    assert isinstance(report, Report)


def test_value_errors_count_as_unsupported():
    results = zoo.check("performer").results
    assert results["bias"] == results["any mask"] == "refused" and results["rows sum to 1"] == "yes"


def test_checking_leaves_nothing_behind(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from zoo.nn import Core\n\nclass Mine(Core):\n    def weights(self, q, k, mask=None, bias=None):\n"
        "        return self.scores(q, k, mask, bias).softmax(-1)\n"
    )
    monkeypatch.chdir(tmp_path)
    before, state = dict(CORES), torch.get_rng_state()
    assert zoo.check("mine.py:Mine").ok and zoo.check("mine:Mine").ok and zoo.check(Plain).ok
    assert before == CORES and torch.equal(state, torch.get_rng_state())


def test_the_check_stops_in_time(monkeypatch):
    monkeypatch.setattr(sys.modules["zoo.nn.conformance"], "SECONDS", -1.0)
    report = zoo.check(Plain)
    assert not report.ok and "not checked" in report.failures[0] and report.results == {}
