"""The registry of attention kinds and mixers, built-in and custom."""

import re
import sys

import pytest
import torch

from zoo.nn import Core, CoreSpec, LocalAttention, Mixer, register_attention, register_mixer
from zoo.nn.registry import CORES, MIXERS, build_core, for_layer, register_custom
from zoo.utils.class_import import load_class

SPEC = CoreSpec(heads=2, kv_heads=1, head_dim=8)


class Mine(Core):
    def __init__(self, spec, power: float = 1.0):
        super().__init__(spec)
        self.power = power

    def weights(self, q, k, mask=None, bias=None):
        return self.scores(q, k, mask, bias).softmax(-1)


class Still(Mixer):
    def forward(self, x, context, state=None):
        return x


@pytest.fixture(autouse=True)
def unregistered():
    """Each test finds the tables as they were."""
    before = dict(CORES), dict(MIXERS)
    yield
    for table, kept in zip((CORES, MIXERS), before):
        table.clear()
        table.update(kept)


def test_names_options_and_layers():
    assert isinstance(build_core("softmax", SPEC), CORES["softmax"])
    core = build_core({"kind": "local", "window": 5}, SPEC)
    assert isinstance(core, LocalAttention) and core.pattern.left == 2
    assert for_layer("softmax", 1, 3) == "softmax"
    assert for_layer(("softmax", "performer"), 1, 2) == "performer"
    with pytest.raises(ValueError, match="got 2 kinds for 3 layers"):
        for_layer(("softmax", "performer"), 1, 3)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("preformer", r"unknown attention 'preformer'; did you mean 'performer'\?.*register_attention"),
        (
            {"kind": "local", "windw": 5},
            r"LocalAttention has no option 'windw'; did you mean 'window'\?; known options: window,",
        ),
        ({"kind": "local", "window": 0}, r"window=0: expected a positive integer"),
        ({"kind": "local", "window": 2.5}, r"window=2\.5: expected"),
        ({"kind": "performer", "features": -1}, r"features=-1"),
        ({"window": 5}, r"a dict with 'kind'"),
        (7, r"got 7"),
        ("my_file:Mine", r"not registered.*from my_file import Mine; zoo\.register_attention\('my_file:Mine', Mine\)"),
        ("examples/own.py:Mine", r"from own import Mine; zoo\.register_attention\('examples/own\.py:Mine', Mine\)"),
    ],
)
def test_errors_name_the_kind_or_option(kind, message):
    with pytest.raises(ValueError, match=message):
        build_core(kind, SPEC)


@pytest.mark.parametrize(
    "kind",
    ["flash", "flash_attention_2", "flash_attention", "sdpa", "eager", "xformers", "fused", "mem_efficient", "cudnn",
     "flex", "flash-attention", "Flash"],
)  # fmt: skip
def test_names_of_fused_kernels_point_to_softmax(kind):
    message = (
        rf"attention='{kind}' is not an attention kind: attention=\"softmax\" already uses fused kernels \(flash, "
    )
    with pytest.raises(
        ValueError, match=message + r"memory-efficient\).*omit attention= or write attention=\"softmax\""
    ):
        build_core(kind, SPEC)
    with pytest.raises(ValueError, match="already uses fused kernels"):
        build_core({"kind": kind}, SPEC)


@pytest.mark.parametrize(
    ("kind", "known"),
    [
        *((name, "softmax") for name in ("full", "dense", "vanilla", "mha", "multihead", "standard", "full_attention")),
        *((name, "local") for name in ("sliding_window", "swa", "window", "sliding_window_attention", "Window")),
        ("favor", "performer"), ("favor+", "performer"), ("bahdanau", "additive"),
        ("random_feature", "rfa"), ("random_features", "rfa"), ("linear_attention", "linear"), ("sofmax", "softmax"),
        ("big_bird", "bigbird"), ("longfomer", "longformer"),
    ],
)  # fmt: skip
def test_names_of_papers_and_other_libraries_are_suggestions(kind, known):
    with pytest.raises(ValueError, match=rf"unknown attention '{re.escape(kind)}'; did you mean '{known}'\?"):
        build_core(kind, SPEC)


@pytest.mark.parametrize("kind", ["linformer", "reformer", "nystromformer", "hyena", "global"])
def test_other_kinds_get_no_misleading_suggestion(kind):
    with pytest.raises(ValueError, match=rf"unknown attention '{kind}' \(known: softmax, additive, local"):
        build_core(kind, SPEC)


def test_the_names_of_other_libraries_can_be_registered():
    register_attention("flash", Mine)
    register_attention("window", Mine)
    assert isinstance(build_core("flash", SPEC), Mine) and isinstance(build_core("window", SPEC), Mine)


def test_a_class_becomes_a_name():
    name = register_custom(Mine)
    assert name == f"{__name__}:Mine" and register_custom(Mine) == name and isinstance(build_core(name, SPEC), Mine)
    assert register_custom(CORES["performer"]) == "performer"
    assert build_core({"kind": name, "power": 2.0}, SPEC).power == 2.0
    assert register_custom(["softmax", Mine]) == ("softmax", name)
    assert register_custom({"kind": Mine, "power": 3.0}) == {"kind": name, "power": 3.0}
    with pytest.raises(ValueError, match=r"not a subclass of zoo\.nn\.Core.*register_mixer"):
        register_custom(torch.nn.Linear)


def test_names_can_be_registered_once():
    register_attention("mine", Mine)
    register_attention("mine", Mine)  # the same again: a file that is run twice
    assert isinstance(build_core("mine", SPEC), Mine)
    for taken in ("mine", "softmax"):
        with pytest.raises(ValueError, match=f"'{taken}' is already registered for"):
            register_attention(taken, type("Other", (Mine,), {}))
    with pytest.raises(ValueError, match="not a subclass"):
        register_attention("linear_layer", torch.nn.Linear)
    register_mixer("still", Still)
    assert MIXERS["still"] is Still


FILE = "from zoo.nn import Core\n\nclass Mine(Core):\n    pass\n\nprint('ran')\n"


@pytest.mark.parametrize("form", ["kinds_of_mine:Mine", "kinds_of_mine.py:Mine", "{folder}/kinds_of_mine.py:Mine"])
def test_a_class_in_a_file(tmp_path, monkeypatch, capsys, form):
    (tmp_path / "kinds_of_mine.py").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "kinds_of_mine", raising=False)
    kind = form.format(folder=tmp_path)
    name = register_custom(kind)
    assert isinstance(build_core(name, SPEC), Core) and register_custom(kind) == name
    assert capsys.readouterr().out == "ran\n"  # once
    with pytest.raises(ValueError, match=r"has no class 'Mien'; did you mean 'Mine'\?"):
        load_class(kind.replace(":Mine", ":Mien"))


@pytest.mark.parametrize("kind", ["nowhere:Mine", "nowhere.py:Mine", "folder/nowhere.py:Mine", "no.where:Mine"])
def test_a_file_that_is_missing(kind):
    with pytest.raises(ValueError, match=rf"{kind}: there is no file .*where.py here and no module"):
        load_class(kind)


def test_a_file_that_imports_what_is_missing(tmp_path, monkeypatch):
    (tmp_path / "needs_more.py").write_text("import not_installed_here\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="not_installed_here"):
        load_class("needs_more:Mine")


def test_names_in_configs_import_nothing(tmp_path, monkeypatch, capsys):
    (tmp_path / "kinds_of_theirs.py").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="loading a model runs no code"):
        build_core("kinds_of_theirs:Mine", SPEC)
    assert capsys.readouterr().out == "" and "kinds_of_theirs" not in sys.modules
