"""The cost of each attention kind and mixer against what real models take."""

from itertools import product

import pytest
import torch
from allocations import most_allocated
from speeds import full_unless
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import zoo
from zoo.inference.cost import counted_flops, empty_batch, state_bytes
from zoo.inference.cost_by_kind import SavedTensors, cache_bytes, cost_by_kind
from zoo.nn.registry import BUILT_IN, BUILT_IN_MIXERS

KINDS = [*BUILT_IN, *BUILT_IN_MIXERS]
TOKENS, DEPTH = 128, 4  # layers of which the costs of two and three tell those of four
FIELDS = {"gpt_nano": {}, "bert_tiny": {"attention_dropout": 0.0, "vocab_size": 256}}


@pytest.mark.filterwarnings("ignore:.*Profiler clears events")
@pytest.mark.parametrize(
    ("name", "kind"),
    full_unless(lambda pair: (pair[0] == "gpt_nano") == (KINDS.index(pair[1]) % 2 == 0), product(FIELDS, KINDS)),
)
def test_costs_are_those_of_a_real_model(name, kind):
    (found,) = cost_by_kind(name, TOKENS, depth=DEPTH, names=[kind], **FIELDS[name])
    fields = {found.argument: kind, "depth": DEPTH, "max_length": TOKENS} | FIELDS[name]
    if found.refused:
        with pytest.raises(ValueError, match=r"."):
            zoo.create_model(name, **fields)(input_ids=torch.ones(1, TOKENS, dtype=torch.long))
        return
    model = zoo.create_model(name, seed=0, **fields).eval()
    ids = torch.randint(5, 60, (1, TOKENS), generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), counted_flops() as flops:
        model(input_ids=ids)
    assert found.flops == pytest.approx(flops[0], rel=0.1)
    with torch.no_grad():
        assert found.inference_bytes == pytest.approx(most_allocated(lambda: model(input_ids=ids)), rel=0.1)
    saved = SavedTensors([*model.parameters(), *model.buffers(), ids])
    with saved:
        model.train()(input_ids=ids)
    assert found.saved_bytes == pytest.approx(saved.bytes, rel=0.1)
    if name == "bert_tiny":
        assert found.cache_bytes is None
        return
    state = model.eval().new_state(1, TOKENS)
    with torch.no_grad():
        model.decode(ids, state)
    assert found.cache_bytes == pytest.approx(state_bytes(state), rel=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_of_constant_size_takes_constant_memory(kind):
    """A state that is a slice of the tokens of a prompt would keep all of them."""
    (found,) = zoo.attention_kinds(kind)
    if found.state == "constant":
        sizes = set()
        for length in (256, 512):
            model = zoo.create_model("gpt_nano", depth=1, max_length=length, **{found.argument: kind}).to("meta")
            sizes.add(cache_bytes(model, empty_batch(model, 1, length)))
        assert len(sizes) == 1


@pytest.mark.parametrize("kind", ["softmax", "additive", "linear", "performer"])
def test_flops_are_those_of_torch(kind):
    """torch's counter sees the products of a fused kernel where the kernel is switched off."""
    model = zoo.create_model("gpt_nano", seed=0, attention=kind).eval()
    ids = torch.ones(1, 64, dtype=torch.long)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(input_ids=ids)
    (found,) = cost_by_kind(model, 64, names=[kind])
    assert found.flops == counter.get_total_flops()


def test_formulas():
    softmax, linear = cost_by_kind("gpt2", 4096, names=["softmax", "linear"])
    assert softmax.cache_bytes == 12 * 2 * 4096 * 768 * 4
    assert linear.cache_bytes == 12 * 12 * 64 * (64 + 1 + 1) * 4  # values, their number and a maximum
    rest = 12 * 24 * 4096 * 768**2 + 2 * 4096 * 768 * 50257
    assert softmax.flops == rest + 12 * 4 * 4096**2 * 768
    assert rest < linear.flops < softmax.flops


class HalfFree(zoo.nn.Mixer):
    """Computes a part without autocast, which torch does not have for the meta device."""

    def forward(self, x, context, state=None):
        with torch.autocast(x.device.type, enabled=False):
            return x.flip(1)


def test_mixers_that_switch_autocast_off():
    zoo.register_mixer("half_free", HalfFree)
    assert cost_by_kind("bert_tiny", 64, names=["half_free"])[0].flops > 0


def test_encoder_decoders_and_refusals():
    found = {cost.name: cost for cost in cost_by_kind("t5_nano", 32, names=["softmax", "linear"])}
    assert "does not support a bias" in found["linear"].refused and found["linear"].flops == 0
    assert found["softmax"].cache_bytes and not found["softmax"].refused
    with pytest.raises(ValueError, match="takes no text"):
        cost_by_kind("vit_cifar_tiny", 32)
    with pytest.raises(ValueError, match="unknown kind 'flesh'"):
        cost_by_kind("gpt_nano", 32, names=["flesh"])
    with pytest.raises(ValueError, match="length=0"):
        cost_by_kind("gpt_nano", 0)
    with pytest.raises(ValueError, match="has its config already"):
        cost_by_kind(zoo.create_model("gpt_nano"), 8, depth=2)
