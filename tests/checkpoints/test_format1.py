"""Folders, checkpoints and files of format 1, as they were written, load and give what they gave then."""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import zoo
from zoo.models.registry import family, family_names

FIXTURES = Path(__file__).parent.parent / "fixtures" / "format1"
FOLDERS = sorted(path for path in FIXTURES.iterdir() if (path / "config.json").is_file())
RUN, FILES = FIXTURES / "run_finetune_text", FIXTURES / "files"
FAMILIES = {
    "ast", "bert", "clip", "clip_text", "contrast", "distilbert", "gpt2", "hubert", "llama", "modernbert", "roberta",
    "siglip", "vit", "wav2vec2",
}  # fmt: skip


class Shift(nn.Module):
    """The mixer of one of the folders."""

    def __init__(self, spec: Any, shift: int = 1) -> None:
        super().__init__()
        self.shift = shift
        self.map = nn.Linear(spec.width, spec.width)

    def forward(self, x: Tensor, context: Any = None, state: Any = None) -> Tensor:
        return self.map(x.roll(self.shift, 1))


@pytest.fixture(scope="module", autouse=True)
def mixer() -> None:
    zoo.register_mixer("fixture_shift", Shift)


each_folder = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)


def expected(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "expected.json").read_text(encoding="utf-8"))


def picture(height: int, width: int) -> numpy.ndarray:
    y, x, c = numpy.ogrid[:height, :width, :3]
    return ((7 * y + 13 * x + 50 * c + y * x * (c + 1)) % 256).astype(numpy.uint8)


def sound(hertz: float, rate: int, seconds: float) -> tuple[Tensor, int]:
    phase = 2 * torch.pi * hertz * torch.arange(int(rate * seconds), dtype=torch.float64) / rate
    return (0.5 * phase.sin() + 0.2 * (3.3 * phase).sin()).float(), rate


def made(spec: dict[str, Any]) -> Any:
    """What one line of an expected.json describes: {"text": ...}, {"pair": [a, b]}, {"image": [height, width]} or
    {"sine": [hertz, rate, seconds]}."""
    ((kind, value),) = spec.items()
    return {"text": str, "pair": tuple}[kind](value) if kind in ("text", "pair") else BUILT[kind](*value)


BUILT = {"image": picture, "sine": sound}
WORDS = {"image": "images", "text": "text", "sine": "audio"}


def named(output: Any) -> dict[str, Tensor]:
    """A model's answer as tensors with names."""
    if isinstance(output, Tensor):
        return {"output": output}
    return {f.name: value for f in fields(output) if (value := getattr(output, f.name)) is not None}


def run(model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    with torch.no_grad():
        return named(model(**batch))


def golden(folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(the seeded batch, the outputs) that were saved beside the weights."""
    saved = load_file(folder / "golden.safetensors")
    batch = {name.removeprefix("input."): value for name, value in saved.items() if name.startswith("input.")}
    return batch, {name: value for name, value in saved.items() if not name.startswith("input.")}


def predicted(model: Any, spec: dict[str, Any], answers: list[list[Any]]) -> None:
    got = zoo.predict(model, made(spec))
    assert dict(got) == pytest.approx(dict(answers), abs=1e-4)


@contextmanager
def undisturbed(capsys: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Loading prints no warning or report."""
    capsys.readouterr()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    ours = (str(Path(zoo.__file__).parent), __file__)
    said = [w for w in caught if issubclass(w.category, FutureWarning | DeprecationWarning)]
    assert not [str(w.message) for w in said if w.filename.startswith(ours)]
    assert capsys.readouterr().err == ""


def test_what_there_is() -> None:
    assert {expected(folder)["family"] for folder in FOLDERS} == FAMILIES
    for folder in FOLDERS:
        written = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        assert written["format"] == 1 and written["config"] == expected(folder)["config_old"], folder.name


def test_files_without_the_fields_of_later_versions() -> None:
    """They load as the model that they were; other values of such a field are written."""
    configs = [family(name).config for name in family_names() if family(name).config.added_later]
    assert len(configs) >= 5
    for config in configs:
        first = config(**config.added_later)
        assert not first.to_dict().keys() & config.added_later.keys()
        assert config.from_dict(first.to_dict()) == first
    other = replace(family("gat").config(), add_self_loops=False)
    assert other.to_dict()["add_self_loops"] is False and type(other).from_dict(other.to_dict()) == other


@each_folder
def test_loads_as_it_is(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    want = expected(folder)
    with undisturbed(capsys):
        model = zoo.load(folder)
    assert model.load_report.plain, model.load_report
    assert (model.family, model.variant, model.labels) == (want["family"], want["variant"], want["labels"])
    assert sum(p.numel() for p in model.parameters()) == want["parameters"]
    assert (model.preprocess is None) == (want["preprocess_old"] is None)


@each_folder
def test_golden_outputs(folder: Path) -> None:
    batch, theirs = golden(folder)
    ours = run(zoo.load(folder), batch)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        error = (ours[name] - value).abs().max() / value.abs().max().clamp_min(1)
        assert error <= 1e-5, name
    assert zoo.verify(folder).ok


@each_folder
def test_answers(folder: Path) -> None:
    """From an image, a text or an audio clip, through preprocessing, to the labels that were predicted then."""
    model, want = zoo.load(folder), expected(folder)
    for row in want["asked"]:
        spec = row["input"]
        if isinstance(spec, list):  # of several towers
            batch = model.preprocess(**{WORDS[next(iter(part))]: [made(part)] for part in spec})
        else:
            batch = model.preprocess(made(spec))
        ours = run(model, batch)
        assert ours.keys() == row["outputs"].keys()
        for name, last in row["outputs"].items():
            assert ours[name].flatten()[-8:].tolist() == pytest.approx(last, rel=1e-4, abs=1e-4), name
        if "predict" in row:
            predicted(model, spec, row["predict"])


@each_folder
def test_saved_again(folder: Path, tmp_path: Path) -> None:
    model = zoo.load(folder)
    again = zoo.load(zoo.save(model, tmp_path / "again"))
    assert again.load_report.plain
    assert again.config == model.config and again.preprocess == model.preprocess and again.labels == model.labels
    before, after = model.state_dict(), again.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(value, after[name]) for name, value in before.items())
    batch, _ = golden(folder)
    first, second = run(model, batch), run(again, batch)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert zoo.verify(tmp_path / "again").ok


@pytest.mark.parametrize("where", ["", "model", "checkpoints/best.ckpt"])
def test_a_run(where: str, capsys: pytest.CaptureFixture[str]) -> None:
    want = expected(RUN)
    with undisturbed(capsys):
        model = zoo.load(RUN / where)
    assert model.load_report.plain and (model.family, model.labels) == (want["family"], want["labels"])
    assert sum(p.numel() for p in model.parameters()) == want["parameters"]
    for row in want["asked"]:
        predicted(model, row["input"], row["predict"])
    batch, theirs = golden(RUN / "model")
    torch.testing.assert_close(run(model, batch), theirs, rtol=1e-5, atol=1e-5)


def test_a_zero_shot_classifier() -> None:
    """The fingerprint of the model has not changed, so the file is recognized as made by this model."""
    want = expected(FILES)["classifier.safetensors"]
    classifier = zoo.zero_shot(zoo.load(FIXTURES / want["model"]), FILES / "classifier.safetensors")
    assert (classifier.labels, list(classifier.templates), classifier.kind) == (
        want["labels"], want["templates"], want["kind"],
    )  # fmt: skip
    got = classifier.predict(made(want["input"]))
    assert dict(got) == pytest.approx(dict(want["predict"]), abs=1e-4)


@pytest.mark.parametrize("name", ["vectors.safetensors", "vectors.parquet", "vectors_half.safetensors",
                                  "texts.safetensors"])  # fmt: skip
def test_embeddings(name: str) -> None:
    """They open without further settings, and are recognized as made by this model."""
    want, found = expected(FILES)[name], zoo.Embeddings.open(FILES / name)
    assert [[item.kind, item.name] for item in found.items] == want["items"]
    assert found.vectors.shape == (len(want["items"]), want["width"])
    half = found.vectors.dtype == torch.float16
    assert half == ("half" in name)
    torch.testing.assert_close(found.vectors.float().norm(dim=1), torch.ones(len(found)), atol=1e-2, rtol=0)
    kinds = sorted({item.kind for item in found.items})
    model = zoo.load(FIXTURES / want["model"])
    hits = zoo.search(want["query"], found, model, k=len(found), modalities=kinds)
    got = {hit.name: hit.score for hit in hits}
    assert got == pytest.approx(dict(want["hits"]), abs=2e-3 if half else 1e-5)
    assert zoo.search(found.vectors[1].float(), found, k=1, modalities=["text"])[0].name == found.items[1].name
