"""Export to ONNX, in onnxruntime against torch.

Each family takes 3 to 8 seconds of CPU time, most of it in the exporter. Two families, a classifier with its int8
version and the refusals run for every change; all families and all attention kinds have the mark `full`.
"""

import hashlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

import zoo
from zoo.checkpoints import accuracy_gate
from zoo.checkpoints.golden import named_outputs
from zoo.checkpoints.onnx import graph, int8
from zoo.checkpoints.onnx.inputs import example_inputs, parts_of
from zoo.cli.main import main
from zoo.data.sources.labeled_examples import read_examples
from zoo.models.registry import family, family_names
from zoo.nn.mixers.short_convolution import ShortConvolution
from zoo.nn.registry import BUILT_IN
from zoo.preprocessing.tokenizer_training import train
from zoo.utils.errors import DataError

# A table of positions, padding and token types; a convolutional stem.
FAST = ("bert", "vit")
SMALL = dict(width=32, depth=2, heads=4, mlp_dim=48, vocab_size=60, max_length=32, mel_bins=64, eos_token_id=59,
             conv_channels=(8, 12, 8), conv_kernels=(10, 3, 2), conv_strides=(5, 2, 2), position_kernel=6,
             position_groups=4)  # fmt: skip


def tiny(name: str, **changes) -> zoo.Model:
    """The smallest variant of a family, its towers at their own size and other models at that of `SMALL`."""
    own = family(name)
    configs = {variant: own.config(**fields) for variant, fields in own.variants.items()}
    towers = {variant: config.parts.values() or [config] for variant, config in configs.items()}
    variant = min(towers, key=lambda name: sum(tower.width**2 * tower.depth for tower in towers[name]))
    fields = {} if own.modality == "multimodal" else {k: v for k, v in SMALL.items() if k in own.config.names()}
    if name == "ast":
        fields["max_length"] = 64
    if name == "granite":
        fields["mixer"] = ("mamba2", "attention")
    model = zoo.create_model(variant, seed=0, **fields | changes).eval()
    if name in ("evoformer", "idefics"):  # whose last layers and gates are zero at first
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture(scope="module", autouse=True)
def graphs_are_written_once():
    """Of equal models: the exporter takes two seconds for the smallest one."""
    written: dict[str, dict[str, bytes]] = {}
    plain = graph.write_graph

    def write(model, parts, file):
        tensors = b"".join(t.contiguous().numpy().tobytes() for t in model.state_dict().values())
        key = hashlib.sha256(repr((model.config, graph.ONE_FILE)).encode() + tensors).hexdigest()
        if key not in written:
            plain(model, parts, file)
            written[key] = {path.name: path.read_bytes() for path in file.parent.glob(f"{file.name}*")}
        for name, content in written[key].items():
            (file.parent / name).write_bytes(content)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, "write_graph", write)
        yield


def difference(model: zoo.Model, folder: Path, rows: int, size: int) -> float:
    """Of all outputs, relative to the largest value of each; the batch is not one that the export has compared."""
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    inputs = example_inputs(parts_of(model), rows, size, seed=77)
    with torch.no_grad():
        expected = named_outputs(model(**inputs))
    found = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    assert [output.name for output in session.get_outputs()] == graph.output_names(model, expected)
    pairs = [(want.detach().numpy(), got) for want, got in zip(expected.values(), found, strict=True)]
    assert all(want.shape == got.shape for want, got in pairs)
    return max(float(np.abs(got - want).max() / np.abs(want).max()) for want, got in pairs)


# A decoder beside an encoder: see test_onnx_encoder_decoder.py.
BOTH_SIDES = [name for name in family_names() if "decoder_input_ids" in family(name).model.inputs]
REFUSED = {  # and why
    "point_transformer": "TransitionDown chooses points one after another",
    "llava_next": "the number of its features depends on the size of each input",
}
ONE_SIDE = [name for name in family_names() if name not in [*BOTH_SIDES, *REFUSED]]


def fast_ones(names):
    return [pytest.param(name, marks=[] if name in FAST else pytest.mark.full) for name in names]


@pytest.mark.parametrize("name", fast_ones(ONE_SIDE))
def test_every_family(name, tmp_path):
    model = tiny(name)
    folder = zoo.export(model, tmp_path / "out", "onnx")
    for rows in (1, 4, 9):
        for size in (0, 1):
            assert difference(model, folder, rows, size) <= 1e-5
    inputs = onnx.load(folder / "model.onnx").graph.input
    axes = {value.name: [size.dim_param for size in value.type.tensor_type.shape.dim] for value in inputs}
    free = {name: [label for label in labels if label] for name, labels in axes.items()}
    first = {"node_features": "nodes", "edge_index": "edges", "edge_features": "edges"}
    assert all(labels[0].endswith(first.get(name, "batch")) for name, labels in free.items())
    others = {"length", "samples", "points", "sequences", "residues", "images"}
    assert all(set(labels[1:]) <= others for labels in free.values())


@pytest.mark.parametrize("name", REFUSED)
def test_families_that_a_graph_cannot_have_are_refused_by_name(name, tmp_path):
    with pytest.raises(ValueError, match=f"this {name} cannot be exported to ONNX: {REFUSED[name]}"):
        zoo.export(tiny(name), tmp_path / "out", "onnx")
    assert not (tmp_path / "out").exists()


GRAPHS = [
    ("gat", {"edge_dim": 3, "head": "classify"}),
    ("gat", {"edge_dim": 3, "attention": "gatv2", "shared": False, "add_self_loops": False}),
    ("gat", {"attention": "gatv2", "shared": False, "head": "pool"}),
    ("gat", {"edge_dim": 3, "attention": "softmax", "shared": False, "value_proj": True, "root_weight": True,
             "beta": True, "head": None}),
    ("graph_transformer", {"edge_dim": 3, "head": "classify"}),
    ("graph_transformer", {"edge_dim": 3, "add_self_loops": False}),
]  # fmt: skip


@pytest.mark.full
@pytest.mark.parametrize(("name", "changes"), GRAPHS)
def test_graphs_of_any_size(name, changes, tmp_path):
    """Also with one edge, with none at most nodes, and with a graph that has no nodes."""
    model = tiny(name, in_features=6, **changes)
    graph.write_graph(model.requires_grad_(False), parts_of(model), tmp_path / "model.onnx")
    session = graph.open_session(tmp_path / "model.onnx")
    (part,) = parts_of(model)
    for rows, nodes in ((1, 2), (2, 30), (9, 7)):
        inputs = part.examples(rows, nodes, seed=rows)
        few = {"edge_index": inputs["edge_index"][:, :1]} | (
            {"edge_features": inputs["edge_features"][:1]} if "edge_features" in inputs else {}
        )
        none = {"graph_sizes": torch.cat([inputs["graph_sizes"], torch.tensor([0])])} if "graph_sizes" in inputs else {}
        for given in (inputs, inputs | few, inputs | none):
            with torch.no_grad():
                want = model(**given)
            assert (graph.run(session, given)[0] - want).abs().max() <= 1e-5 * want.abs().max()


def bridge_to(audio: str, **changes) -> zoo.Model:
    return zoo.bridge(audio=tiny(audio), text=tiny("llama", max_length=128), seed=0, **changes).eval()


@pytest.mark.full
def test_texts_about_spectrograms(tmp_path):
    model = bridge_to("ast")
    assert difference(model, zoo.export(model, tmp_path / "out", "onnx"), 4, 1) <= 1e-5


@pytest.mark.parametrize(
    ("changes", "said"), [({}, "the number of its features depends on"), ({"by": "cross"}, "its texts attend to clips")]
)
def test_texts_about_waveforms_are_refused(changes, said, tmp_path):
    with pytest.raises(ValueError, match=f"this bridge cannot be exported to ONNX: {said}"):
        zoo.export(bridge_to("wav2vec2", **changes), tmp_path / "out", "onnx")
    assert not (tmp_path / "out").exists()


def test_paths_in_graphs_are_refused(tmp_path):
    with pytest.raises(ValueError, match="structure='shortest_paths' searches for paths"):
        zoo.export(tiny("graph_transformer", structure="shortest_paths"), tmp_path / "out", "onnx")
    assert not (tmp_path / "out").exists()


@pytest.mark.full
def test_points_without_stages(tmp_path):
    model = tiny("point_transformer", stages=(), neighbors=4)
    folder = zoo.export(model, tmp_path / "out", "onnx")
    assert max(difference(model, folder, rows, size) for rows in (1, 4) for size in (0, 1)) <= 1e-5


RECURRENCES = [
    *((name, {}) for name in ("mamba", "mamba2", "granite", "retnet", "rwkv")),
    *(("rwkv", {"mixer": mixer}) for mixer in ("rwkv6", "mamba", "retention")),
    *(("bert", {"mixer": mixer}) for mixer in ("retention", "rwkv4", "rwkv6", "mamba", "mamba2", "s4d", "short_conv")),
    ("gpt2", {"mixer": "s4d"}),
    *((name, {"attention": kind}) for name in ("bert", "gpt2") for kind in ("gated_linear", "delta", "gated_delta")),
    ("gpt2", {"attention": "performer"}),
]


@pytest.mark.full
@pytest.mark.parametrize(("name", "changes"), RECURRENCES)
def test_recurrences_at_any_length(name, changes, tmp_path):
    model = tiny(name, max_length=200, **changes)
    graph.write_graph(model.requires_grad_(False), parts_of(model), tmp_path / "model.onnx")
    session, (part,) = graph.open_session(tmp_path / "model.onnx"), parts_of(model)
    for length in (1, 9, 64, 200):
        for rows in (1, 5, 9):
            inputs = part.examples(rows, length, seed=rows)
            with torch.no_grad():
                want = model(**inputs)
            assert (graph.run(session, inputs)[0] - want).abs().max() <= 1e-5 * want.abs().max()


def test_a_mixer_for_one_length_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(ShortConvolution, "fixed_length_graph", True)
    with pytest.raises(ValueError, match="this bert cannot be exported to ONNX: the mixer 'short_conv' says"):
        zoo.export(tiny("bert", mixer="short_conv", depth=1), tmp_path / "out", "onnx")
    assert not (tmp_path / "out").exists()


@pytest.mark.full
def test_granite_without_state_spaces(tmp_path):
    model = tiny("granite", mixer="attention")
    assert difference(model, zoo.export(model, tmp_path / "out", "onnx"), 4, 1) <= 1e-5


@pytest.mark.full
@pytest.mark.parametrize("mixer", ["mamba", "mamba2", "short_conv"])
def test_images_have_a_fixed_length_for_recurrent_mixers(mixer, tmp_path):
    model = tiny("vit", mixer=mixer, depth=1)
    assert difference(model, zoo.export(model, tmp_path / "out", "onnx"), 4, 0) <= 1e-5


@pytest.mark.full
def test_the_encoder_of_t5_alone(tmp_path):
    model = tiny("t5", head=None, decoder_depth=0)
    assert difference(model, zoo.export(model, tmp_path / "out", "onnx"), 4, 1) <= 1e-5


KINDS = [("bert", kind) for kind in BUILT_IN] + [("gpt2", kind) for kind in BUILT_IN]


@pytest.mark.full
@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_every_attention_kind(name, kind, tmp_path):
    model = tiny(name, attention=kind, max_length=100, depth=1)
    folder = zoo.export(model, tmp_path / "out", "onnx")
    assert max(difference(model, folder, rows, size) for rows in (1, 3) for size in (0, 1, 2)) <= 1e-5


@pytest.mark.full
@pytest.mark.parametrize("head", ["classify", "token", "qa", "pool", None])
@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_every_head_of_a_text_model(name, head, tmp_path):
    model = tiny(name, head=head, depth=1)
    assert difference(model, zoo.export(model, tmp_path / "out", "onnx"), 5, 1) <= 1e-5


# --- one model in detail --------------------------------------------------------------------------------------------

TEXTS = [f"{'good' if i % 2 else 'bad'} film number {i} {'with a long end ' * (i % 3)}" for i in range(40)]


def classifier(**changes) -> zoo.Model:
    preprocess = train("wordpiece", TEXTS, 120, max_length=64)
    model = tiny("bert", vocab_size=preprocess.vocab_size, head="classify", depth=1, max_length=64, **changes)
    model.preprocess, model.labels = preprocess, ["bad", "good"]
    return model


def own_predictions(model: zoo.Model) -> list[tuple[str, str]]:
    return [(text, answer[0][0]) for text, answer in zip(TEXTS, zoo.predict(model, TEXTS, top_k=1))]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(model, folder) of a classifier in bfloat16."""
    model = classifier().bfloat16()
    return model, zoo.export(model, tmp_path_factory.mktemp("onnx") / "out", "onnx", readme="# a card")


def test_the_files_of_the_folder_make_its_inputs(exported):
    model, folder = exported
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "config.json", "model.onnx", "tokenizer.json"]
    config = json.loads((folder / "config.json").read_text())
    assert config["labels"] == ["bad", "good"] and config["family"] == "bert"
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    batch = model.preprocess(TEXTS[:5])
    (logits,) = session.run(None, {name: value.numpy() for name, value in batch.items()})
    with torch.no_grad():
        expected = model.float()(**batch).numpy()
    assert np.abs(logits - expected).max() <= 1e-5 * np.abs(expected).max()


def test_the_file_names_no_path_of_this_machine(exported):
    stored = (exported[1] / "model.onnx").read_bytes()
    assert str(Path(zoo.__file__).parent).encode() not in stored and b"site-packages" not in stored


def test_half_precision_is_written_as_float32(exported):
    weights = onnx.load(exported[1] / "model.onnx").graph.initializer
    assert {w.data_type for w in weights} <= {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64, onnx.TensorProto.BOOL}


def test_a_graph_that_differs_is_not_written(tmp_path, monkeypatch):
    model, folder = tiny("vit", depth=1), tmp_path / "out"
    real = graph.run
    monkeypatch.setattr(graph, "run", lambda session, inputs: [real(session, inputs)[0] * 1.0001])
    with pytest.raises(ValueError, match=r"was not written: its output 'logits' .* more than 1e-05"):
        zoo.export(model, folder, "onnx")
    assert not folder.exists() and not list(tmp_path.iterdir())


def test_nan_differs(exported, monkeypatch):
    model, folder = exported
    real, model = graph.run, model.float()
    assert graph.compare(model, parts_of(model), folder / "model.onnx") <= 1e-5
    monkeypatch.setattr(graph, "run", lambda session, inputs: [real(session, inputs)[0] * torch.nan])
    with pytest.raises(ValueError, match="was not written"):
        graph.compare(model, parts_of(model), folder / "model.onnx")


def test_without_the_extra_the_line_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r'pip install "attention-zoo\[export\]"'):
        zoo.export(tiny("vit"), tmp_path / "out", "onnx")
    assert not (tmp_path / "out").exists()


def test_an_optimized_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="the model it was made from"):
        zoo.export(zoo.optimize(tiny("vit", depth=1)), tmp_path / "out", "onnx")


# --- int8 -----------------------------------------------------------------------------------------------------------


def test_int8_is_smaller_and_as_accurate_as_it_says(tmp_path, exported, capsys):
    model = classifier()
    examples = own_predictions(model)
    folder = zoo.export(model, tmp_path / "out", "onnx", quantize="int8", examples=examples, tolerance=0.5)
    assert "accuracy 1.0000 in float32 and" in capsys.readouterr().err
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.onnx", "tokenizer.json"]
    kinds = [{w.data_type: w.name for w in onnx.load(path / "model.onnx").graph.initializer if len(w.dims) == 2}
             for path in (exported[1], folder)]  # fmt: skip
    assert onnx.TensorProto.INT8 not in kinds[0] and onnx.TensorProto.INT8 in kinds[1]
    assert (folder / "model.onnx").stat().st_size < (exported[1] / "model.onnx").stat().st_size
    labels = accuracy_gate.indices(model, [label for _, label in examples])
    assert int8.measure_file(model, folder / "model.onnx", examples, labels) >= 0.5


def test_weights_of_more_than_two_gigabytes_lie_beside_the_graph(tmp_path, monkeypatch, capsys):
    """With a lower limit, which a small model is above: in int8, in float32 over it, moved, in one file over that."""
    model, limit, out = classifier(), graph.ONE_FILE, tmp_path / "out"
    assert 1.9e9 < limit < 2**31
    monkeypatch.setattr(graph, "ONE_FILE", 1000)
    zoo.export(model, out, "onnx", quantize="int8", examples=own_predictions(model), tolerance=0.5)
    assert "weights are too large for one file: model.onnx.data must stay beside it" in capsys.readouterr().err
    small = out.joinpath("model.onnx.data").stat().st_size
    assert graph.open_session(out / "model.onnx").get_inputs()
    zoo.export(model, out, "onnx")
    files = ["config.json", "model.onnx", "model.onnx.data", "tokenizer.json"]
    assert sorted(path.name for path in out.iterdir()) == files
    assert small < out.joinpath("model.onnx.data").stat().st_size / 2
    moved = out.rename(tmp_path / "elsewhere")
    assert graph.compare(model, parts_of(model), moved / "model.onnx") <= 1e-5
    before = {path.name: path.read_bytes() for path in moved.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(graph, "run", lambda *_: [torch.zeros(1)])
        with pytest.raises(ValueError, match="was not written"):
            zoo.export(model, moved, "onnx")
    assert {path.name: path.read_bytes() for path in moved.iterdir()} == before
    monkeypatch.setattr(graph, "ONE_FILE", limit)
    zoo.export(model, moved, "onnx")
    assert sorted(path.name for path in moved.iterdir()) == [name for name in files if name != "model.onnx.data"]


def test_int8_is_refused_with_both_numbers(tmp_path, monkeypatch):
    values = iter([0.91, 0.85])
    monkeypatch.setattr(int8, "measure_file", lambda *_: next(values))
    model = classifier()
    with pytest.raises(ValueError, match=r"accuracy 0\.9100 in float32 and 0\.8500 in int8 on 40 examples.*=0\.01"):
        zoo.export(model, tmp_path / "out", "onnx", quantize="int8", examples=own_predictions(model), tolerance=0.01)
    assert not (tmp_path / "out").exists()


def test_a_loss_that_rises_is_worse():
    assert accuracy_gate.Change("loss", 1.0, 1.2).worse == pytest.approx(0.2)
    assert accuracy_gate.Change("accuracy", 0.9, 0.8).worse == pytest.approx(0.1)
    assert not accuracy_gate.Change("loss", 1.0, float("nan")).worse <= 0.1
    small = accuracy_gate.Change("loss", 2.451, 2.451012)
    assert str(small) == "loss 2.451000 in float32 and 2.451012 in int8"
    with pytest.raises(ValueError, match=r"worse by 0\.000012, more than tolerance=0"):
        accuracy_gate.check_change(small, 0, 300, "the int8 model was not written", "export it")


def test_scores_of_other_heads(exported):
    model = tiny("gpt2", depth=1)
    batch = {"input_ids": torch.tensor([[1, 2, 3], [4, 5, 0]]), "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]])}
    output = torch.randn(2, 3, 60, generator=torch.Generator().manual_seed(0))
    total, count = accuracy_gate.score(model, output, batch, [None, None])
    rows = output.log_softmax(-1)
    assert count == 3 and total == pytest.approx(-float(rows[0, 0, 2] + rows[0, 1, 3] + rows[1, 0, 5]), rel=1e-5)
    regression = tiny("bert", depth=1, head="classify", num_classes=1)
    assert accuracy_gate.score(regression, torch.tensor([[1.0], [3.0]]), {}, [[0.0], [1.0]]) == (5.0, 2)
    regression.preprocess = exported[0].preprocess
    accuracy_gate.check_options(regression, "int8", [("a", 9.0)], 5.0, "export it")  # a loss may rise by more than 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(quantize="int8"), "give labeled examples"),
        (dict(quantize="int8", examples=[("a", "bad")]), "give labeled examples"),
        (dict(quantize="int4", examples=[("a", "bad")], tolerance=0.01), "'int4': expected 'int8'"),
        (
            dict(quantize="int8", examples=[("a", "bad")], tolerance=5),
            "tolerance=5: expected a number of at least 0 and below 1",
        ),
        (dict(tolerance=0.01), "give quantize='int8', or omit them"),
        (dict(format="transformers", tolerance=0.01), "are for format=\"onnx\", given format='transformers'"),
    ],
)
def test_options_that_do_not_go_together(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        zoo.export(classifier(), tmp_path / "out", **{"format": "onnx"} | options)
    assert not (tmp_path / "out").exists()


def test_a_head_without_a_measure_and_an_unknown_label_are_refused(tmp_path):
    with pytest.raises(ValueError, match="this model has head='pool'"):
        accuracy_gate.check_options(tiny("vit", head="pool"), "int8", [(1, 1)], 0.1, "export it")
    with pytest.raises(ValueError, match="the label 'neutral' is not a class of the model: expected one of bad, good"):
        accuracy_gate.indices(classifier(), ["good", "neutral"])
    assert accuracy_gate.indices(classifier(), ["good", 0, "1"]) == [1, 0, 1]
    stars = classifier()
    stars.labels = ["1", "5"]
    assert accuracy_gate.indices(stars, [5, "1"]) == [1, 0]
    with pytest.raises(ValueError, match="the label 0 is not a class of the model: expected one of 1, 5"):
        accuracy_gate.indices(stars, [1, 0])


def test_labels_of_regressions_and_of_several_columns(tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("text;price;food;service\nwarm;8,06;1;0\ncold;6,5;0;1\n")
    number = tiny("bert", num_classes=1, problem_type="regression")
    assert [label for _, label in read_examples(number, table, "text", "price")] == [[8.06], [6.5]]
    several = tiny("bert", num_classes=2, problem_type="multi_label_classification")
    assert [label for _, label in read_examples(several, table, "text", "food,service")] == [[1, 0], [0, 1]]
    with pytest.raises(
        DataError, match="line 2: 1 numbers in 'food', and the model predicts 2: name a column for each"
    ):
        read_examples(several, table, "text", "food")


# --- the command line -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return zoo.save(classifier(), tmp_path_factory.mktemp("saved") / "model")


def test_the_command(saved, tmp_path, capsys):
    table, out = tmp_path / "validation.csv", tmp_path / "out"
    table.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in own_predictions(zoo.load(saved))))
    base = ["export", str(saved), str(out), "--format", "onnx"]
    assert main([*base, "--quantize", "int8"]) == 2
    assert "--table validation.csv --tolerance 0.01" in capsys.readouterr().err
    assert main([*base, "--column", "text", "--sep", ";"]) == 2
    assert "--column, --sep: these are options of --table" in capsys.readouterr().err
    assert main([*base, "--table", str(table)]) == 2
    assert "add --format onnx --quantize int8" in capsys.readouterr().err
    assert main([*base, "--quantize", "int8", "--table", str(table), "--tolerance", "0.5"]) == 0
    captured = capsys.readouterr()
    assert "is written for onnx" in captured.out and "in int8 on 40 examples" in captured.err
    assert (out / "model.onnx").exists()


def test_the_table_of_a_run(saved, tmp_path, capsys):
    """Columns default to those of the run, the format to what is found; messages name the flags."""
    run = tmp_path / "run"
    shutil.copytree(saved, run / "model")
    (run / "config.yaml").write_text("data: {text: review, label: stars}\n")
    rows = [f"{text};{label}" for text, label in own_predictions(zoo.load(saved))]
    table, out = tmp_path / "validation.csv", tmp_path / "out"
    table.write_text("\n".join(["review;stars", *rows]))
    command = ["export", str(run / "model"), str(out), "--format", "ONNX", "--quantize", "int8", "--tolerance", "0.5"]
    assert main([*command, "--table", str(table)]) == 0
    captured = capsys.readouterr()
    assert "in int8 on 40 examples" in captured.err and "--sep" in captured.err and " sep=" not in captured.err
    with pytest.raises(zoo.LoadError, match=r"is an ONNX export \(model.onnx\), which onnxruntime runs"):
        zoo.load(out)
    other = tmp_path / "other.csv"
    other.write_text("\n".join(["remark;opinion", *rows]))
    assert main([*command, "--table", str(other)]) == 2
    assert "e.g. --column " in capsys.readouterr().err
    assert main([*command, "--table", str(other), "--column", "remark", "--label-column", "opinon"]) == 2
    assert "--label-column opinon: " in (err := capsys.readouterr().err) and "did you mean 'opinion'" in err
    (tmp_path / "empty.csv").write_text("remark;opinion\ngood;\n")
    assert main([*command, "--table", str(tmp_path / "empty.csv"), "--column", "remark"]) == 2
    assert "on_error" not in capsys.readouterr().err


def test_examples_of_tables_and_folders(saved, tmp_path):
    text = zoo.load(saved)
    table = tmp_path / "pairs.csv"
    table.write_text("first,second,mood\na,b,good\nc,d,bad\n")
    assert read_examples(text, table, "first,second", "mood") == [(("a", "b"), "good"), (("c", "d"), "bad")]
    with pytest.raises(DataError, match="no column 'secnd'; did you mean 'second'"):
        read_examples(text, table, "first,secnd", "mood")
    with pytest.raises(DataError, match="is a folder: expected a table of texts"):
        read_examples(text, tmp_path)
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "images" / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / "images" / split / name / "one.png")
    found = read_examples(tiny("vit"), tmp_path / "images")
    assert [(item.parts[-3], label) for item, label in found] == [("test", "cat"), ("test", "dog")]
    listed = tmp_path / "images.csv"
    listed.write_text("file,label\nimages/test/cat/one.png,cat\nimages/none.png,dog\n")
    with pytest.raises(DataError, match=r"images.csv, line 3: .*none.png does not exist"):
        read_examples(tiny("vit"), listed)


def test_image_files_are_measured(tmp_path):
    model = tiny("vit", depth=1, num_classes=2)
    model.labels = ["cat", "dog"]
    files = []
    for i in range(4):
        files.append(tmp_path / f"{i}.png")
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(files[-1])
    examples = [(file, zoo.predict(model, file, top_k=1)[0][0]) for file in files]
    folder = zoo.export(model, tmp_path / "out", "onnx", quantize="int8", examples=examples, tolerance=0.9)
    assert (folder / "model.onnx").exists()
