"""The stack counts the tokens of a mixer's cache, and `zoo.check` finds mixers that leak or decode wrongly."""

import re
from collections.abc import Iterator

import pytest
import torch
from torch import nn

import zoo
from zoo.nn import Mixer, State
from zoo.nn.conformance import header
from zoo.nn.conformance_mixers import MIXER_CHECKS
from zoo.nn.registry import MIXERS


class Totals(State):
    """The sum of all tokens so far. Counts nothing: `length` is the stack's."""

    def __init__(self, batch, width, like):
        self.sum = like.new_zeros(batch, 1, width)

    def reorder(self, index):
        self.sum = self.sum.index_select(0, index)


class RunningMean(Mixer):
    """Every token gets the mean of itself and the tokens before it; without a causal mask that of the row."""

    def __init__(self, spec):
        super().__init__(spec)
        self.proj = nn.Linear(spec.width, spec.width)

    def forward(self, x, context, state=None):
        x = self.proj(x)
        if not self.spec.causal:
            return x.mean(1, keepdim=True).expand_as(x)
        before, seen = (0.0, 0) if state is None else (state.mixer.sum, state.mixer.length)
        sums = before + x.cumsum(1)
        if state is not None:
            state.mixer.sum = sums[:, -1:]
        return sums / torch.arange(seen + 1, seen + 1 + x.shape[1], dtype=x.dtype)[:, None]

    def new_state(self, batch, capacity, like):
        return Totals(batch, self.spec.width, like)


class SeesTheFuture(RunningMean):
    def forward(self, x, context, state=None):
        return self.proj(x).mean(1, keepdim=True).expand_as(x)


class Forgets(RunningMean):
    def forward(self, x, context, state=None):
        return super().forward(x, context, None)


class Unused(RunningMean):
    def __init__(self, spec):
        super().__init__(spec)
        self.unused = nn.Parameter(torch.ones(3))


class MixesRows(RunningMean):
    def forward(self, x, context, state=None):
        return super().forward(x, context, state) + self.proj(x).mean()


class SeesPadding(RunningMean):
    packs = True  # takes packed rows, and mixes them


class Single(RunningMean):
    def forward(self, x, context, state=None):
        return super().forward(x, context, state).float()


class Loses(RunningMean):
    def __init__(self, spec):
        super().__init__(spec)
        self.register_buffer("signs", torch.randn(spec.width), persistent=False)

    def forward(self, x, context, state=None):
        return super().forward(x, context, state) * self.signs.to(x.dtype)


class Narrow(RunningMean):
    def forward(self, x, context, state=None):
        return super().forward(x, context, state)[..., :1]


class KeepsRows(Totals):
    def reorder(self, index):
        pass


class WrongBeams(RunningMean):
    def new_state(self, batch, capacity, like):
        return KeepsRows(batch, self.spec.width, like)


class Greedy(State):
    """A cache for greedy decoding alone."""

    def __init__(self, batch, width, like):
        self.sum = like.new_zeros(batch, 1, width)


class NoBeams(RunningMean):
    def new_state(self, batch, capacity, like):
        return Greedy(batch, self.spec.width, like)


class NoCache(Mixer):
    """Cannot decode, and says that it has no causal form."""

    def __init__(self, spec):
        super().__init__(spec)
        if spec.causal:
            raise ValueError("NoCache has no causal form")
        self.proj = nn.Linear(spec.width, spec.width)

    def forward(self, x, context, state=None):
        return self.proj(x.flip(1))


BAD = {
    SeesTheFuture: {"causal": "later tokens change earlier outputs"},
    Forgets: {"decoding": "differs from one full forward"},
    WrongBeams: {"decoding": r"after reorder\(index\), rows do not continue"},
    NoBeams: {"decoding": r"no method reorder\(index\), which beam search needs"},
    Unused: {"gradients": "'unused' gets no gradient"},
    MixesRows: {"batch rows": "than alone"},
    SeesPadding: {"padding": "than the same row without padding"},
    Single: {"float64": "torch.float32 for inputs of torch.float64"},
    Loses: {"loading": "'signs' is not in the state dict"},
    Narrow: {"forward": r"the outputs have the shape \(2, 1, 1\)"},
}


@pytest.fixture
def registered() -> Iterator[str]:
    zoo.register_mixer("running_mean", RunningMean)
    yield "running_mean"
    MIXERS.pop("running_mean")


def test_a_good_mixer_passes(registered: str) -> None:
    for mixer in (RunningMean, registered, {"kind": registered}):
        report = zoo.check(mixer)
        assert report.ok and set(report.results.values()) == {"yes"} and list(report.results) == list(MIXER_CHECKS)
    assert str(report).startswith(header("mixer")) and report.row().count("|") == header("mixer").split("\n")[0].count(
        "|"
    )


def test_what_a_mixer_does_not_support_is_no_failure() -> None:
    report = zoo.check(NoCache)
    assert report.ok and report.results["causal"] == report.results["decoding"] == "refused"


@pytest.mark.parametrize("mixer", BAD, ids=lambda cls: cls.__name__)
def test_a_wrong_mixer_fails_with_a_message(mixer: type[Mixer]) -> None:
    report = zoo.check(mixer)
    for check, message in BAD[mixer].items():
        assert report.results[check] == "FAILS"
        assert any(f.startswith(f"{check}: ") and re.search(message, f) for f in report.failures), report.failures


@pytest.mark.parametrize("name", ["gpt_nano", "llama_nano"])
def test_a_mixer_that_does_not_count_generates_what_full_forwards_do(name: str, registered: str) -> None:
    model = zoo.create_model(name, mixer=registered, width=32, depth=2, heads=2, max_length=32, seed=0).eval()
    ids = torch.randint(5, 60, (2, 5), generator=torch.Generator().manual_seed(0))
    generated = zoo.generate(model, input_ids=ids, max_new_tokens=8, temperature=0.0)
    with torch.no_grad():
        for _ in range(8):
            ids = torch.cat([ids, model(input_ids=ids)[:, -1:].argmax(-1)], 1)
    assert torch.equal(generated, ids)
