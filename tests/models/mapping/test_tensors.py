import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zoo.models.load_report import LoadReport
from zoo.models.mapping.tensors import OPS, export_tensors, find_tensors, import_tensors, parse, tie, tied_names
from zoo.utils.errors import LoadError

TABLE = """
    cls                    =  ~cls_token               row0 row0
    blocks.*.{q,k,v}.@     =  ~h.*.qkv.@               # fused
    blocks.*.norm.@        =  ~h.*.ln.@ | ~h.*.LayerNorm.@
    blocks.*.{gate,up}.@   =  ~h.*.fc.@                T
    blocks.*.up.@          =  ~h.*.fc.@                T
    blocks.*.v.weight      =  ~h.*.never.weight        if blocks.*.w.weight
    head.@                 =  lm_head.@
    scale                  =  scale                    ?
    -                      =  ~pooler.**
    -                      =  ~h.*.attn.mask
"""
LINEAR = {"weight": (6, 4), "bias": (6,)}


def model(*, layers=2, gated=False, head=True, scale=False, bias=True):
    shapes = {"cls": (4,)}
    for n in range(layers):
        for name in ("q", "k", "v", "up", *(["gate"] if gated else [])):
            shapes |= {f"blocks.{n}.{name}.{kind}": shape for kind, shape in LINEAR.items() if bias or kind != "bias"}
        shapes |= {f"blocks.{n}.norm.weight": (4,), f"blocks.{n}.norm.bias": (4,)}
    shapes |= {"head.weight": (9, 4), "head.bias": (9,)} if head else {}
    shapes |= {"scale": ()} if scale else {}
    torch.manual_seed(0)
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def test_imported_tensors_are_contiguous_and_exported_ones_too():
    """Theirs are transposed; a view of another layout computes the same, but slower, and is refused by safetensors."""
    own = model(gated=True)
    theirs = export_tensors(TABLE, own)
    imported, _ = import_tensors(TABLE, meta(own), theirs)
    assert all(tensor.is_contiguous() for tensor in [*theirs.values(), *imported.values()])


def meta(tensors):
    return {name: tensor.to("meta") for name, tensor in tensors.items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@given(
    layers=st.integers(0, 12),
    gated=st.booleans(),
    head=st.booleans(),
    bias=st.booleans(),
    base=st.sampled_from(["", "m."]),
)
def test_what_is_exported_is_imported_again(layers, gated, head, bias, base):
    ours = model(layers=layers, gated=gated, head=head, bias=bias)
    theirs = export_tensors(TABLE, ours, base=base)
    again, report = import_tensors(TABLE, meta(ours), theirs, base="m.")
    assert equal(ours, again)
    assert sorted(report.mapped) == sorted(ours) and report.plain


def test_layout_of_theirs():
    ours = model(gated=True)
    theirs = export_tensors(TABLE, ours, base="m.")
    assert theirs["m.cls_token"].shape == (1, 1, 4)
    assert torch.equal(theirs["m.h.1.qkv.weight"][6:12], ours["blocks.1.k.weight"])
    assert theirs["m.h.0.fc.weight"].shape == (4, 12)
    assert torch.equal(theirs["m.h.0.fc.weight"].T[:6], ours["blocks.0.gate.weight"])
    assert theirs["lm_head.weight"] is not None and "m.lm_head.weight" not in theirs
    assert all(tensor.is_contiguous() for tensor in theirs.values())


def test_split_tensors_are_views():
    ours = model()
    theirs = export_tensors(TABLE, ours)
    again, _ = import_tensors(TABLE, meta(ours), theirs)
    inside, whole = again["blocks.0.k.weight"], theirs["h.0.qkv.weight"]
    assert inside.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()


def fails(tensors, ours=None, match=""):
    with pytest.raises(LoadError, match=match):
        import_tensors(TABLE, meta(ours or model()), tensors, base="m.", source="file.bin")


def test_whatever_does_not_fit_is_named():
    good = export_tensors(TABLE, model(), base="m.")
    without = {name: t for name, t in good.items() if name != "m.h.1.ln.bias"}
    fails(without, match=r"file\.bin does not fit .*missing m\.h\.1\.ln\.bias \(our blocks\.1\.norm\.bias\)")
    fails(good | {"m.h.2.ln.bias": torch.ones(4)}, match=r"left over m\.h\.2\.ln\.bias$")
    fails(without | {"m.h.1.lm.bias": torch.ones(4)}, match=r"missing m\.h\.1\.ln\.bias.*left over m\.h\.1\.lm\.bias")
    fails(
        good | {"lm_head.weight": torch.ones(10, 4)},
        match=r"lm_head\.weight is \[10, 4\], expected \[9, 4\] \(our head",
    )
    fails(
        good | {"m.h.0.qkv.weight": torch.ones(17, 4)}, match=r"m\.h\.0\.qkv\.weight is \[17, 4\], expected \[18, 4\]"
    )
    fails(good | {"m.cls_token": torch.ones(4)}, match=r"m\.cls_token is \[4\], expected \[1, 1, 4\]")
    fails(good, model(gated=True), match=r"m\.h\.0\.fc\.weight is \[4, 6\], expected \[4, 12\]")
    fails(good, model(head=False), match=r"left over lm_head\.weight, lm_head\.bias")
    fails(good | {"scale": torch.tensor(1.0)}, match="left over scale")
    fails(good | {"h.0.ln.bias": torch.ones(4)}, match=r"left over h\.0\.ln\.bias")
    fails({}, match=r"and \d+ more")


def test_a_tensor_without_a_line_is_an_error_both_ways():
    ours = model() | {"novel.weight": torch.ones(1)}
    fails(export_tensors(TABLE, model()), ours, match=r"missing novel\.weight")
    with pytest.raises(ValueError, match=r"no line for novel\.weight"):
        export_tensors(TABLE, ours)


def test_dropped_and_optional_tensors_are_listed():
    ours = model(scale=True)
    theirs = export_tensors(TABLE, ours, base="m.")
    del theirs["scale"]
    theirs |= {"m.pooler.dense.weight": torch.ones(1), "m.h.0.attn.mask": torch.ones(1)}
    again, report = import_tensors(TABLE, meta(ours), theirs, base="m.")
    assert report.dropped == ["m.pooler.dense.weight", "m.h.0.attn.mask"]
    assert report.initialized == ["scale"] and "scale" not in again
    fails(theirs | {"m.h.0.attn.deep.mask": torch.ones(1)}, match="deep")


def test_other_names_and_historical_spellings():
    ours = model()
    theirs = export_tensors(TABLE, ours)
    rename = {"ln.weight": "LayerNorm.gamma", "ln.bias": "LayerNorm.beta"}
    old = {name.replace(name[4:], rename.get(name[4:], name[4:])): tensor for name, tensor in theirs.items()}
    assert any("gamma" in name for name in old)
    assert equal(import_tensors(TABLE, meta(ours), old)[0], ours)

    table = "g = conv.parametrizations.weight.original0\nv = conv.parametrizations.weight.original1\ngamma = ls.gamma"
    conv = {"g": torch.ones(1), "v": torch.zeros(2), "gamma": torch.ones(3)}
    old = {"conv.weight_g": conv["g"], "conv.weight_v": conv["v"], "ls.gamma": conv["gamma"]}
    assert equal(import_tensors(table, meta(conv), old)[0], conv)


def test_a_line_for_models_with_one_more_tensor():
    table = "a = both.a if b \n a = alone.a \n b = both.b"
    one, two = {"a": torch.ones(1)}, {"a": torch.ones(1), "b": torch.ones(2)}
    assert list(export_tensors(table, one)) == ["alone.a"] and list(export_tensors(table, two)) == ["both.a", "both.b"]
    assert equal(import_tensors(table, meta(two), export_tensors(table, two))[0], two)


def test_one_tensor_of_ours_may_be_two_of_theirs():
    table = "word = ~embed.{weight:5,more.weight}"
    own = {"word": torch.randn(7, 3)}
    theirs = export_tensors(table, own, base="m.")
    assert {name: len(x) for name, x in theirs.items()} == {"m.embed.weight": 5, "m.embed.more.weight": 2}
    tensors, report = import_tensors(table, meta(own), theirs, base="m.")
    assert equal(tensors, own) and report.mapped == ["word"]
    found = find_tensors(table, own, theirs, base="m.")
    assert found["word"][0] == "m.embed.weight" and torch.equal(found["word"][1], own["word"])
    with pytest.raises(LoadError, match=r"missing m.embed.more.weight \(our word\)"):
        import_tensors(table, own, {"m.embed.weight": own["word"]}, base="m.")
    with pytest.raises(LoadError, match=r"m.embed.weight is \[4, 3\], expected \[5, 3\]"):
        import_tensors(table, own, theirs | {"m.embed.weight": own["word"][:4]}, base="m.")


def test_tied_parameters_are_found_and_tied_again():
    net = torch.nn.ModuleDict({"embed": torch.nn.Embedding(5, 3), "out": torch.nn.Linear(3, 5, bias=False)})
    assert tied_names(net) == {}
    tie(net, {"out.weight": "embed.weight"})
    assert net["out"].weight is net["embed"].weight and tied_names(net) == {"out.weight": "embed.weight"}


@pytest.mark.parametrize("line", ["a b", "a = ", "a = b nonsense", "a = b | ", "a = b | c T nonsense", "a = b if"])
def test_a_bad_table_is_refused(line):
    with pytest.raises(ValueError, match="table line"):
        parse(line)


@pytest.mark.parametrize("name", OPS)
def test_every_op_is_undone_by_its_inverse(name):
    to_ours, to_theirs = OPS[name]
    shapes = {"T": [(1, 3)], "column0": [(3, 1), (3, 1, 2)]}
    for shape in shapes.get(name, [(1, 3), (1, 3, 2)]):
        tensor = torch.randn(shape)
        assert torch.equal(to_theirs(to_ours(tensor)), tensor)
    assert torch.equal(OPS["T"][0](torch.arange(3)), torch.arange(3))  # biases have no second axis to swap


def test_the_report_is_one_line():
    report = LoadReport("google/vit", mapped=["a"] * 200, dropped=[f"d{n}" for n in range(9)], initialized=["head"])
    assert str(report) == "google/vit: 200 tensors mapped; 9 dropped (d0, d1, d2, d3 and 5 more); 1 initialized (head)"
    assert not report.plain and LoadReport(mapped=["a"]).plain


def test_the_old_name_of_initialized_still_reads():
    report = LoadReport(initialized=["head"])
    with pytest.warns(FutureWarning, match=r"LoadReport\.initialised is now called LoadReport\.initialized") as caught:
        assert report.initialised == ["head"]
    assert caught[0].filename == __file__
    with pytest.raises(AttributeError):
        report.initialised = []
    empty = LoadReport()
    assert [empty.mapped, empty.dropped, empty.initialized, empty.resampled] == [[], [], [], []]
