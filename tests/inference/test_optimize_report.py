"""The report of zoo.optimize: printed, saved, and pinned; a file that does not fit raises one clear error."""

import json

import pytest
import torch
from kernel_timers import fake_timer, fastest

import zoo
from zoo.inference import kernel_choice
from zoo.inference.optimize_report import OptimizeReport


def vit(**fields):
    small = dict(image_size=32, patch_size=16, width=64, depth=2, heads=4, num_classes=7, seed=0)
    return zoo.create_model("vit_tiny_patch16_224", **small | fields).eval()


def kinds(model):
    return [type(module).__name__ for module in model.modules()]


@pytest.fixture
def no_timer(monkeypatch):
    def refuse(trial):
        raise AssertionError("nothing is measured")

    return lambda: monkeypatch.setattr(kernel_choice, "seconds_of", refuse)


@pytest.mark.parametrize("rows", ["many", "one"])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_saved_report_gives_the_same_model_without_measuring(tmp_path, monkeypatch, no_timer, rows, dtype):
    model, x = vit(), torch.randn(3, 3, 32, 32)
    fake_timer(
        monkeypatch, lambda t: (len(t.key) * 7 + len(t.candidate) * 5 + t.rows * 3) % 11 + 1
    )  # all kinds of choices
    measured = zoo.optimize(model, rows=rows, dtype=dtype)
    measured.optimize_report.save(tmp_path / "choices.json")
    no_timer()
    for choices in (tmp_path / "choices.json", str(tmp_path / "choices.json"), measured.optimize_report):
        pinned = zoo.optimize(model, rows=rows, dtype=dtype, choices=choices)
        assert kinds(pinned) == kinds(measured) and torch.equal(pinned(x), measured(x))
        assert pinned.optimize_report.choices == measured.optimize_report.choices
    pinned.optimize_report.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_text() == (tmp_path / "choices.json").read_text()


def test_it_prints_what_was_chosen_and_how_fast_it_is(monkeypatch):
    fastest(monkeypatch, "onednn")
    report = zoo.optimize(vit()).optimize_report
    text = str(report)
    assert text.startswith("zoo.optimize, float32, rows='many': measured in")
    assert "| linear 64 -> 256, gelu, float32 | 2 | 512 | 1e+03 ms | onednn | 2.00x |" in text
    assert "| attention 64 -> 64 + 64 + 64, float32 | 2 | 8 | 1e+03 ms | joined_onednn | 2.00x |" in text
    assert "| patches 3 x 16 x 16 -> 64, float32 | 1 | 512 | 1e+03 ms | linear_onednn | 2.00x |" in text
    assert report.speed("linear 64 -> 7, float32", 8) == 2.0
    pinned = zoo.optimize(vit(), choices=report).optimize_report
    assert pinned.speed("linear 64 -> 7, float32", 8) is None and "| onednn | - |" in str(pinned)
    assert str(pinned).startswith("zoo.optimize, float32, rows='many': choices of the report, measured on ")


def test_it_names_what_was_not_optimized(monkeypatch):
    fastest(monkeypatch, "plain")
    model = vit()
    model.blocks[0].mixer.q.register_forward_hook(lambda module, args, y: y)
    with pytest.warns(UserWarning, match=r"blocks\.0\.mixer\.q"):
        report = zoo.optimize(model).optimize_report
    assert report.unoptimized == ["blocks.0.mixer.q"] and "blocks.0.mixer.q" in str(report)


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """A file of choices, and a function that changes its content."""
    fastest(monkeypatch, "onednn")
    path = tmp_path / "choices.json"
    zoo.optimize(vit()).optimize_report.save(path)

    def change(edit):
        content = json.loads(path.read_text())
        edit(content)
        path.write_text(json.dumps(content))
        return path

    return change


LAYER = "linear 64 -> 256, gelu, float32"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda c: c["choices"][LAYER].update({"8": "onedn"}),
            "'onedn'.*does not exist.*candidates here: plain, onednn",
        ),
        (lambda c: c["choices"][LAYER].update({"8": "mkl"}), "cannot be used on this machine"),
        (lambda c: c["choices"][LAYER].pop("8"), "choices for 64, 512 rows .* expected 8, 64, 512"),
        (lambda c: c["choices"].pop(LAYER), "is of another model: it has no choice for the part 'linear 64 -> 256"),
        (lambda c: c["choices"].update({"linear 1 -> 2": {"8": "plain"}}), "of another model: this one has no part"),
        (lambda c: c["choices"].update({LAYER: "onednn"}), "expected a candidate by number of rows"),
        (lambda c: c["choices"].update({LAYER: {"8": 3}}), "expected a candidate by number of rows"),
        (lambda c: c["choices"].update({LAYER: {"9" * 5000: "plain"}}), "expected a candidate by number of rows"),
        (lambda c: c["choices"].update({LAYER: {"08": "plain"}}), "expected a candidate by number of rows"),
        (lambda c: c.update(choices=[1]), "expected a candidate by number of rows"),
        (lambda c: c.update(dtype="bfloat16"), "dtype='bfloat16', expected 'float32'"),
        (lambda c: c.update(rows="one"), "rows='one', expected 'many'"),
        (lambda c: c.update(format=2), "format 2"),
        (lambda c: c.pop("machine"), "lacks the key 'machine'"),
        (lambda c: c.update(row=1), "unknown key 'row'; did you mean 'rows'"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_name(saved, edit, message):
    path = saved(edit)
    with pytest.raises(zoo.LoadError, match=message) as caught:
        zoo.optimize(vit(), choices=path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_the_choices_of_another_model_are_refused(saved):
    path = saved(lambda content: None)
    zoo.optimize(vit(depth=3), choices=path)  # the same layers, more often
    with pytest.raises(zoo.LoadError, match="another model"):
        zoo.optimize(vit(width=96), choices=path)
    with pytest.raises(zoo.LoadError, match="dtype='float32', expected 'bfloat16'"):
        zoo.optimize(vit(), dtype=torch.bfloat16, choices=path)


@pytest.mark.parametrize("choices", ["", 3, {"linear": "plain"}])
def test_what_is_not_a_path_or_report_is_refused(choices):
    with pytest.raises(ValueError, match=r"choices=.*expected a path"):
        zoo.optimize(vit(), choices=choices)


def test_a_missing_or_damaged_file_is_named(tmp_path):
    with pytest.raises(zoo.LoadError, match="nowhere"):
        zoo.optimize(vit(), choices=tmp_path / "nowhere.json")
    (tmp_path / "half.json").write_text('{"format": 1')
    with pytest.raises(zoo.LoadError, match=r"half\.json"):
        zoo.optimize(vit(), choices=tmp_path / "half.json")
    with pytest.raises(ValueError, match="path="):
        OptimizeReport("float32", "many", "", {}).save("")


def test_the_order_of_a_file_does_not_matter(saved):
    path = saved(lambda content: None)
    path.write_text(json.dumps(json.loads(path.read_text()), sort_keys=True))  # "512", "64", "8"
    chosen = zoo.optimize(vit(), choices=path).optimize_report.choices[LAYER]
    assert list(chosen) == [8, 64, 512]


def test_a_report_is_not_shared(saved):
    report = zoo.optimize(vit(), choices=saved(lambda content: None)).optimize_report
    pinned = zoo.optimize(vit(), choices=report).optimize_report
    pinned.choices[LAYER][8] = "plain"
    assert report.choices[LAYER][8] == "onednn"
