"""Each cell of `zoo.attention_kinds()` against real models: it runs with the right results, or raises ValueError."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import zoo
from zoo.inference.attention_kinds import COLUMNS, AttentionKind, grows
from zoo.inference.cost import measure, state_bytes
from zoo.nn.block_config import BlockConfig
from zoo.nn.context import Context
from zoo.nn.masks import Window
from zoo.nn.registry import BUILT_IN, BUILT_IN_MIXERS

KINDS = [*BUILT_IN, *BUILT_IN_MIXERS]
CELLS = {"yes", "refused", "-"}
IDS = torch.randint(5, 60, (2, 12), generator=torch.Generator().manual_seed(0))


def row(kind: str) -> AttentionKind:
    (found,) = zoo.attention_kinds(kind)
    return found


def model_of(name: str, kind: str, **fields) -> zoo.Model:
    return zoo.create_model(name, seed=0, vocab_size=64, depth=2, **{row(kind).argument: kind}, **fields).eval()


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=2e-4, rtol=1e-3)


def runs_or_raises(cell: str, run: Callable[[], None]) -> None:
    if cell == "refused":
        with pytest.raises(ValueError):
            run()
    else:
        assert cell == "yes"
        run()


@pytest.mark.parametrize("kind", KINDS)
def test_causal(kind):
    def run():
        model, other = model_of("gpt_nano", kind), IDS.clone()
        other[:, 8:] = 3
        close(model(input_ids=IDS)[:, :8], model(input_ids=other)[:, :8])

    runs_or_raises(row(kind).causal, run)


@pytest.mark.parametrize("kind", KINDS)
def test_cross(kind):
    def run():
        model = zoo.create_model("transformer_nano", seed=0, vocab_size=64, cross_attention=kind).eval()
        y = model(input_ids=IDS, decoder_input_ids=IDS[:, :5])
        longer = model(input_ids=torch.cat([IDS, IDS], 1), decoder_input_ids=IDS[:, :5])
        assert y.shape == longer.shape and y.isfinite().all() and not torch.equal(y, longer)

    runs_or_raises(row(kind).cross, run)


@pytest.mark.parametrize("kind", KINDS)
def test_padding(kind):
    def run():
        model, mask = model_of("bert_tiny", kind, head=None), torch.ones_like(IDS)
        mask[0, 7:] = 0
        close(model(input_ids=IDS, attention_mask=mask)[:1, :7], model(input_ids=IDS[:1, :7]))

    runs_or_raises(row(kind).padding, run)


@pytest.mark.parametrize("kind", KINDS)
def test_packing(kind):
    def run():
        model, documents = model_of("bert_tiny", kind, head=None), [IDS[0, :5], IDS[1, :3], IDS[1, 3:7]]
        packed = zoo.pack(documents, 8)
        y = model(**packed)
        close(y[0, :5], model(input_ids=documents[0][None])[0])
        close(y[0, 5:8], model(input_ids=documents[1][None])[0])
        close(y[1, :4], model(input_ids=documents[2][None])[0])

    runs_or_raises(row(kind).packing, run)


@pytest.mark.parametrize("kind", KINDS)
def test_masks(kind):
    argument = {row(kind).argument: kind}

    def run():
        stack = BlockConfig(width=32, heads=4, **argument).stack(1)
        zoo.nn.initialize(stack, 0)
        x, window = torch.randn(1, 12, 32), Context(mask=Window(1, 1))
        other = x.clone()
        other[:, 6:] += 1
        if row(kind).masks == "-":
            assert torch.equal(stack(x), stack(x, window))
        else:
            close(stack(x, window)[:, :5], stack(other, window)[:, :5])

    runs_or_raises(row(kind).masks.replace("-", "yes"), run)


@pytest.mark.parametrize("kind", KINDS)
def test_bias(kind):
    def run():
        model = model_of("t5_nano", kind)
        y = model(input_ids=IDS, decoder_input_ids=IDS)
        nn.init.normal_(model.encoder.relative_attention_bias.weight, 0, 3)
        assert not torch.allclose(y, model(input_ids=IDS, decoder_input_ids=IDS))

    runs_or_raises(row(kind).bias, run)


@pytest.mark.parametrize("kind", KINDS)
def test_gqa(kind):
    def run():
        shared, own = (model_of("llama_nano", kind, kv_heads=heads) for heads in (1, None))
        sizes = [sum(p.numel() for p in model.parameters()) for model in (shared, own)]
        assert sizes[0] < sizes[1] if row(kind).gqa == "yes" else sizes[0] == sizes[1]
        assert shared(input_ids=IDS).isfinite().all()

    runs_or_raises(row(kind).gqa.replace("-", "yes"), run)


@pytest.mark.parametrize("kind", KINDS)
def test_decoding_and_its_cache(kind):
    def run():
        model = model_of("gpt_nano", kind).eval()
        with torch.no_grad():
            full, state, parts = model(input_ids=IDS), model.new_state(2), []
            for part in IDS.split([5, 1, 6], 1):
                parts.append(model.decode(part, state, every=True))
            close(torch.cat(parts, 1), full)

    runs_or_raises(row(kind).decoding, run)
    if row(kind).decoding != "yes":
        assert row(kind).state == "-"
        return
    model, sizes = model_of("gpt_nano", kind, max_length=384), []
    for tokens in (128, 384):
        state = model.new_state(1, tokens)
        with torch.no_grad():
            for part in torch.ones(1, tokens, dtype=torch.long).split([tokens - 64, *[16] * 4], 1):
                model.decode(part, state)
        sizes.append(state_bytes(state))
    assert (sizes[0] == sizes[1]) == (row(kind).state == "constant"), sizes


@pytest.mark.parametrize("kind", KINDS)
def test_capture(kind):
    def run():
        model = model_of("bert_tiny", kind)
        with zoo.capture(model, layers=[0]) as maps:
            model(input_ids=IDS)
        assert all(weights.shape[-2:] == (12, 12) for weights in maps.values()) and maps

    runs_or_raises(row(kind).capture, run)


@pytest.mark.parametrize("kind", KINDS)
def test_time_and_memory(kind):
    """A linear kind has linear products and memory in a whole model, and a quadratic one has one of both quadratic."""
    fields = {row(kind).argument: kind, "max_length": 2048, "depth": 1, "head": None}
    lengths = 512, 2048
    costs = [measure("bert_tiny", length=length, **fields) for length in lengths]
    flops = grows([cost.flops for cost in costs], lengths, "constant")
    if row(kind).time == "N":
        assert flops == "N"
    if flops == "N²":
        assert row(kind).time == "N²"


def test_the_growth_of_values():
    assert grows([5, 5], (10, 20), "constant") == "constant" and grows([5, 11], (10, 20), "constant") == "N"
    assert grows([5, 19], (10, 20), "constant") == "N²" and grows([3, 24], (10, 20), "constant") == "N³"


def test_the_table():
    kinds = zoo.attention_kinds()
    assert {row.name for row in kinds} >= set(KINDS)
    lines = str(kinds).splitlines()
    assert len(lines) == 2 + len(kinds) and lines[0].split(" | ")[1:-1] == [*COLUMNS[1:-1]]
    for found in (row for row in kinds if row.name in KINDS):  # not those that other tests have registered
        cells = vars(found).copy()
        assert cells.pop("argument") in ("attention", "mixer") and cells.pop("state") in ("N", "constant", "-")
        assert {cells.pop("time"), cells.pop("memory")} <= {"N", "N²", "N log N"} and cells.pop("name")
        assert set(cells.values()) <= CELLS, found


def test_what_papers_say():
    cells = {found.name: found for found in zoo.attention_kinds("softmax", "additive", "linear", "performer")}
    assert [cells[name].time for name in ("softmax", "additive", "linear", "performer")] == ["N²", "N²", "N", "N"]
    assert [cells[name].memory for name in ("softmax", "additive", "linear", "performer")] == ["N", "N²", "N", "N"]
    assert cells["softmax"].state == "N" and cells["performer"].state == "constant"
    assert cells["softmax"].bias == "yes" and cells["performer"].bias == cells["performer"].masks == "refused"


class Leaks(zoo.nn.Core):
    """Ignores every mask."""

    def weights(self, q, k, mask=None, bias=None):
        return self.scores(q, k, None, bias).softmax(-1)


class Spectrum(zoo.nn.Mixer):
    """The real part of a Fourier transform over the tokens (FNet): no causal form."""

    def forward(self, x, context, state=None):
        if self.spec.causal:
            raise ValueError("a Fourier transform over the tokens has no causal form")
        return torch.fft.fft(x, dim=1).real


def test_own_classes():
    state = torch.get_rng_state()
    leaks, spectrum = zoo.attention_kinds(Leaks, Spectrum)
    assert (leaks.name, leaks.causal, leaks.padding, leaks.time) == ("Leaks", "FAILS", "FAILS", "N²")
    assert spectrum.causal == spectrum.decoding == spectrum.bias == spectrum.cross == "refused"
    assert (spectrum.argument, spectrum.time, spectrum.masks, spectrum.state) == ("mixer", "N log N", "-", "-")
    (local,) = zoo.attention_kinds({"kind": "local", "window": 3})
    assert local.name == "local" and local.causal == "yes"
    assert torch.equal(state, torch.get_rng_state())
    with pytest.raises(ValueError, match="did you mean 'performer'"):
        zoo.attention_kinds("preformer")
    with pytest.raises(ValueError, match="Linear is not a subclass"):
        zoo.attention_kinds(nn.Linear)


def test_a_model_with_a_bias_needs_a_layer_that_reads_it():
    model = zoo.create_model("t5_nano", seed=0, mixer=Spectrum)
    with pytest.raises(ValueError, match=r'Spectrum: mixers without attention .* mixer=."NAME", "attention".'):
        model(input_ids=IDS, decoder_input_ids=IDS)


class Convolution(zoo.nn.Mixer):
    """A mixer with a module of torch, whose calls are counted with hooks."""

    def __init__(self, spec):
        super().__init__(spec)
        self.conv = nn.Conv1d(spec.width, spec.width, 3, padding=1)

    def forward(self, x, context, state=None):
        return self.conv(x.mT).mT


def test_a_mixer_of_ones_own():
    (found,) = zoo.attention_kinds(Convolution)
    assert (found.name, found.time, found.memory, found.decoding) == ("Convolution", "N", "N", "refused")
