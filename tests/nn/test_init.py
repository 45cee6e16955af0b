"""Initial values are pure functions of (seed, parameter name, shape)."""

import initial_values
import pytest
import torch
from nn_cases import KINDS
from torch import nn

from zoo.nn import BlockConfig, Core, CoreSpec, LayerScale, initialize
from zoo.nn.init import skip_init, trunc_normal_
from zoo.nn.linear_attention import Performer
from zoo.nn.registry import build_core, register_custom


def stack(seed=0, depth=2, **options):
    with skip_init():
        made = BlockConfig(width=16, heads=2, **options).stack(depth)
    initialize(made, seed)
    return made


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_values_depend_on_the_seed_alone():
    first = stack(3)
    torch.manual_seed(99)
    torch.rand(7)
    assert same(first, stack(3))
    before = torch.get_rng_state()
    initialize(first, 3)
    assert torch.equal(torch.get_rng_state(), before)
    assert not same(first, stack(4))


def test_truncated_values_are_those_of_every_version_of_torch():
    """nn.init.trunc_normal_ has others in torch 2.11 than in 2.12."""
    x = torch.empty(1000)
    trunc_normal_(x, 1.0, torch.Generator().manual_seed(1))
    expected = [-1.5255959034, -0.7502318025, -0.6539809108, -1.6094847918]
    torch.testing.assert_close(x[:4], torch.tensor(expected), atol=1e-6, rtol=0)
    assert x.sum().item() == pytest.approx(34.46147, abs=1e-3) and 1.9 < x.abs().max() <= 2
    y = torch.empty(40, 25, dtype=torch.float64)
    trunc_normal_(y, 1.0, torch.Generator().manual_seed(1))
    assert torch.equal(y.flatten().float(), x)


@pytest.mark.parametrize("kind", KINDS)
def test_models_that_differ_in_attention_share_all_else(kind):
    one, other = stack().state_dict(), stack(attention={"kind": kind, **KINDS[kind]}).state_dict()
    common = one.keys() & other.keys()
    assert len(common) == len(one) and all(torch.equal(one[name], other[name]) for name in common)
    own = {name.split(".", 2)[-1] for name in other.keys() - one.keys()}
    assert {name for name in own if not name.startswith("gate.")} <= {
        "core.w", "core.a", "core.source", "core.target", "core.projection", "core.gate_bias", "core.log_rate"
    }  # fmt: skip


def test_values_do_not_depend_on_the_order_of_construction():
    shallow, deep = stack(depth=2).state_dict(), stack(depth=4).state_dict()
    assert all(torch.equal(deep[name], value) for name, value in shallow.items())

    class Pair(nn.Module):
        def __init__(self, names):
            super().__init__()
            for name in names:
                self.add_module(name, nn.Linear(5, 7))

    a, b = Pair("xy"), Pair("yx")
    initialize(a, 1)
    initialize(b, 1)
    assert torch.equal(a.x.weight, b.x.weight) and torch.equal(a.y.weight, b.y.weight)
    assert not torch.equal(a.x.weight, a.y.weight)


def test_only_initializes_the_named_parameters():
    made, fresh = stack(0), stack(5)
    initialize(made, 5, only={"0.mixer.q.weight", "norm.bias"})
    old = stack(0).state_dict()
    for name, value in made.state_dict().items():
        assert torch.equal(value, (fresh.state_dict() if name == "0.mixer.q.weight" else old)[name])


def test_the_rules():
    made = stack(layer_scale=1e-5)
    for linear in (m for m in made.modules() if isinstance(m, nn.Linear)):
        std = (3 * linear.in_features) ** -0.5  # cut off at two of it, which takes an eighth
        assert linear.weight.abs().max() <= 2 * std
        assert linear.weight.std().item() == pytest.approx(0.88 * std, rel=0.1)
    assert all((m.bias == 0).all() for m in made.modules() if isinstance(m, nn.Linear | nn.LayerNorm))
    assert all((m.weight == 1).all() for m in made.modules() if isinstance(m, nn.LayerNorm))
    assert all((m.gamma == 1e-5).all() for m in made.modules() if isinstance(m, LayerScale))
    assert made[0].mixer.q.weight.requires_grad
    initialize(core := build_core("additive", CoreSpec(8, 8, 64)), 0)
    assert core.w.std().item() == pytest.approx(64**-0.5, rel=0.1)
    initialize(table := nn.Embedding(99, 32), 0)
    assert table.weight.std().item() == pytest.approx(0.88 * 0.02, rel=0.1) and table.weight.abs().max() <= 0.04


def test_a_module_without_a_rule_is_an_error_not_a_guess():
    model = nn.Sequential(nn.Bilinear(2, 2, 2))
    with pytest.raises(NotImplementedError, match=r"Bilinear.*initialize"):
        initialize(model, 0)


class Scaled(nn.Module):
    """A custom module with a rule of its own."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.full((4,), 3.0))

    def initialize(self, generator_for):
        self.gain.normal_(generator=generator_for("gain"))


def test_custom_modules_with_the_method_are_initialized():
    first, second = nn.Sequential(Scaled()), nn.Sequential(Scaled())
    initialize(first, 0)
    initialize(second, 0)
    assert torch.equal(first[0].gain, second[0].gain) and (first[0].gain != 3).all()
    initialize(second, 1)
    assert not torch.equal(first[0].gain, second[0].gain)


def test_a_custom_core_inherits_the_initialization_of_its_base_class():
    """Its constructor leaves the projection uninitialized, as that of the built-in core does."""
    custom = type("Custom", (Performer,), {"__module__": "somewhere_else"})
    made, expected = (
        custom(CoreSpec(heads=2, kv_heads=2, head_dim=4)),
        Performer(CoreSpec(heads=2, kv_heads=2, head_dim=4)),
    )
    made.projection.fill_(torch.nan)
    for core in (made, expected):
        initialize(core, seed=0)
    assert torch.equal(made.projection, expected.projection)


def test_the_old_name_of_the_method_is_an_error():
    class Old(nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.empty(4))

        def initialise(self, draw):
            nn.init.ones_(self.gain)

    class OldLinear(nn.Linear):
        def initialise(self, draw):
            nn.init.ones_(self.weight)

    class Override(LayerScale):
        def initialise(self, draw):
            nn.init.ones_(self.gamma)

    for module in (Old(), OldLinear(2, 2), Override(4, 0.1)):
        name = type(module).__name__
        with pytest.raises(ValueError, match=f"{name} defines `initialise`.*rename the method to `initialize`"):
            initialize(nn.Sequential(nn.Linear(2, 2), module), 0)

    class Both(Old):
        def initialize(self, generator_for):
            nn.init.ones_(self.gain)

    class Empty(nn.Module):
        def initialise(self):
            pass

    model = nn.Sequential(Both(), Empty())
    initialize(model, 0)
    assert (model[0].gain == 1).all()


class Mine(Core):
    def __init__(self, spec):
        super().__init__(spec)
        self.mix = nn.Linear(spec.heads, spec.heads)
        nn.init.eye_(self.mix.weight)
        self.temperature = nn.Parameter(torch.full((1,), 7.0))

    def weights(self, q, k, mask=None, bias=None):
        return self.scores(q, k, mask, bias).softmax(-1)


def test_custom_classes_keep_the_values_of_their_constructor():
    with skip_init():
        made = BlockConfig(width=16, heads=2, attention="softmax").stack(1)
        mine = build_core(register_custom(Mine), CoreSpec(heads=2, kv_heads=2, head_dim=8))
        assert torch.equal(mine.mix.weight, torch.eye(2)) and mine.mix.bias.abs().max() > 0
        made[0].mixer.core = mine
    bias = mine.mix.bias.clone()
    initialize(made, 0)
    assert torch.equal(mine.mix.weight, torch.eye(2)) and torch.equal(mine.mix.bias, bias) and mine.temperature == 7
    assert (made[0].norm1.weight == 1).all()


def test_constructors_sample_nothing_under_skip_init():
    state = torch.get_rng_state()
    with skip_init():
        nn.Linear(4, 4)
        nn.Conv2d(3, 4, 2)
        nn.LayerNorm(4)
    assert torch.equal(torch.get_rng_state(), state)


def test_values_that_tests_draw_once_are_those_of_torch():
    """By tests/initial_values.py; also where the generator is used again."""
    expected, generator = torch.empty(2, 512, 512), torch.Generator().manual_seed(4)
    for values in expected:
        initial_values.DRAW(values, 0.0, 0.02, -0.04, 0.04, generator=generator)
    for _ in range(2):
        generator = torch.Generator().manual_seed(4)
        for values in expected:
            found = torch.empty(512, 512)
            assert torch.equal(initial_values.trunc_normal_(found, 0.0, 0.02, -0.04, 0.04, generator=generator), values)
            found.zero_()  # what is remembered does not change with it
