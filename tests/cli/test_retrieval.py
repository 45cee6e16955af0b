"""`zoo embed`, `zoo search`, `zoo classify`: what they print and what they refuse, in one line."""

from pathlib import Path

import pytest
from search_models import draw, tiny

import zoo
from zoo.cli.main import main


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(zoo.save(tiny(), tmp_path_factory.mktemp("saved") / "model"))


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    draw(tmp_path / "p", 4)
    (tmp_path / "p" / "broken.png").write_bytes(b"nothing")
    return tmp_path


def failing(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    return err


def test_embed_and_search_in_its_file(capsys, model):
    assert "broken.png" in failing(capsys, "embed", "p", "--model", model, "--out", "v.safetensors")
    assert (
        main(["embed", "p", "--model", model, "--out", "v.safetensors", "--on-error", "skip", "--dtype", "float16"])
        == 0
    )
    out = capsys.readouterr().out
    assert "v.safetensors: 4 vectors of 24 numbers (float16)" in out and "left out: 1\n" in out and "broken.png" in out
    assert main(["search", "a red bird", "p/red-0.png", "--corpus", "v.safetensors", "--top-k", "2"]) == 0
    out = capsys.readouterr().out
    hits = zoo.search("a red bird", "v.safetensors", k=2)
    assert "p/red-0.png" in out and all(f"{hit.score:.3f}" in out and hit.name in out for hit in hits)
    assert out.count(".png") == 5


def test_search_in_a_folder_with_a_page(capsys, model, place):
    words = ["search", "a red bird", "--corpus", "p", "--model", model, "--html", "found.html"]
    assert main(words) == 0
    first = capsys.readouterr()
    assert "left out: " in first.err and "broken.png" in first.err and "found.html shows them" in first.out
    assert (place / "found.html").read_text().count("<img") == 4
    assert main(words) == 0
    assert capsys.readouterr().out == first.out
    assert "broken.png" in failing(capsys, *words, "--on-error", "raise")


def test_classify(capsys, model):
    both = ["classify", "p/red-0.png", "p/blue-2.png", "--model", model]
    assert main([*both, "--labels", "red, blue", "--save", "c.safetensors"]) == 0
    first = capsys.readouterr().out
    assert first.count("%") == 4 and "red" in first and "blue" in first
    assert main([*both, "--labels", "c.safetensors"]) == 0
    assert capsys.readouterr().out == first
    Path("labels.txt").write_text("red\nblue\n")
    Path("t.txt").write_text("a {}\n")
    words = [
        "classify",
        "p/red-0.png",
        "--model",
        model,
        "--labels",
        "labels.txt",
        "--templates",
        "t.txt",
        "--top-k",
        "1",
    ]
    assert main(words) == 0
    assert capsys.readouterr().out.count("%") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["search", "--corpus", "p", "--model", "M"], "give a query"),
        (["search", " ", "--corpus", "p", "--model", "M"], "the query is empty"),
        (["search", "x", "--corpus", "p"], "which model"),
        (["search", "x", "--corpus", "gone", "--model", "M"], "there is no file of embeddings gone"),
        (["search", "gone.png", "--corpus", "p", "--model", "M"], "there is no file gone.png"),
        (["search", "x", "--corpus", "p", "--model", "M", "--top-k", "0"], "--top-k 0"),
        (["search", "x", "--corpus", "p", "--model", "M", "--engine", "fais"], "did you mean 'faiss'"),
        (["embed", "gone", "--model", "M", "--out", "v.safetensors"], "gone does not exist"),
        (["embed", "p", "--model", "M", "--out", "v.safetensors", "--modalities", "audio"], "no audio tower"),
        (["classify", "--model", "M", "--labels", "a,b"], "at least one image"),
        (["classify", "gone.png", "--model", "M", "--labels", "a,b"], "there is no image file or audio file gone.png"),
        (["classify", "p/red-0.png", "--model", "M", "--labels", "a,,b"], "one is empty"),
    ],
)
def test_refusals(capsys, model, words, said):
    assert said in failing(capsys, *[model if word == "M" else word for word in words])
