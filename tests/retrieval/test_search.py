"""Exact search: the answers of float64 arithmetic, whatever the chunks, the storage and the engine."""

import importlib.util
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis_examples import examples
from search_models import Colors, draw, tiny
from torch import Tensor

import zoo
import zoo.retrieval.index
from zoo.retrieval.embed import embed
from zoo.retrieval.index import Index
from zoo.retrieval.search import Hit, search

HAS_FAISS = importlib.util.find_spec("faiss") is not None
FAISS = pytest.mark.skipif(not HAS_FAISS, reason="needs faiss, of the extra `search`")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def rows_of(n: int, width: int = 32, seed: int = 0) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(n, width, generator=torch.Generator().manual_seed(seed)), dim=1)


def plain(vectors: Tensor, queries: Tensor, k: int) -> tuple[list[list[float]], list[list[int]]]:
    """What the index should say: every product in float64, equal ones in the order of their rows."""
    scores = torch.stack([(vectors.double() * query).sum(1) for query in queries.double()])
    order = scores.sort(dim=1, descending=True, stable=True).indices[:, :k]
    return scores.gather(1, order).tolist(), order.tolist()


def same(found: tuple[list[list[float]], list[list[int]]], expected: tuple[list[list[float]], list[list[int]]]) -> None:
    """The same rows in the same order; their scores may differ by the rounding of float64 sums."""
    assert found[1] == expected[1]
    for one, other in zip(found[0], expected[0], strict=True):
        assert one == pytest.approx(other, rel=0, abs=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("engine", ["exact", pytest.param("faiss", marks=FAISS)])
def test_the_best_rows_are_those_of_float64(dtype, engine, monkeypatch):
    monkeypatch.setattr(zoo.retrieval.index, "SCORES", 700)
    monkeypatch.setattr(zoo.retrieval.index, "CONVERTED", 3200)
    vectors, queries = rows_of(1000).to(dtype), rows_of(5, seed=1)
    same(Index(vectors, engine=engine).top(queries, 7), plain(vectors, queries, 7))


@given(st.integers(1, 60), st.integers(1, 70), st.integers(1, 9), st.integers(0, 99))
@settings(max_examples=examples(40), deadline=None)
def test_many_equal_scores_come_in_the_order_of_their_rows(n, k, distinct, seed):
    """Coarse values: most scores are equal, or differ by rounding alone."""
    vectors = rows_of(distinct, 8, seed)[torch.arange(n) % distinct]
    queries = rows_of(2, 8, seed + 1)
    expected = plain(vectors, queries, k)
    same(Index(vectors).top(queries, k), expected)
    if HAS_FAISS:
        same(Index(vectors, engine="faiss").top(queries, k), expected)


@pytest.mark.skipif(HAS_FAISS, reason="faiss is installed")
def test_faiss_that_is_not_there_is_an_extra():
    with pytest.raises(ImportError, match=r"attention-zoo\[search\]"):
        Index(rows_of(3), engine="faiss")


def test_rounding_does_not_decide():
    """Rows whose float32 products are equal, and whose true ones are not."""
    base = torch.ones(1, 64)
    vectors = base.repeat(300, 1)
    vectors[:, 0] += torch.arange(300).flip(0) * 2.0**-23  # the products are about 64: its float32 steps are 2**-17
    (scores,), (rows,) = Index(vectors).top(base, 300)
    assert rows == list(range(300)) and scores == sorted(scores, reverse=True) and len(set(scores)) == 300


def test_rows_within_the_error_of_float32_are_compared_again():
    """Products near zero of large terms: their differences are smaller than what float32 rounds in the sums."""
    generator = torch.Generator().manual_seed(0)
    query, other = torch.nn.functional.normalize(torch.randn(2, 512, generator=generator), dim=1)
    near = torch.nn.functional.normalize(other - (other @ query) * query, dim=0)
    vectors = near + 1e-8 * torch.randn(2000, 512, generator=generator)
    expected = plain(vectors, query[None], 5)
    single = zoo.retrieval.index.product(vectors, query[None])[0]
    assert not set(expected[1][0]) <= set((single >= single.topk(5).values[-1]).nonzero()[:, 0].tolist())
    same(Index(vectors).top(query[None], 5), expected)


def test_some_rows_only(monkeypatch):
    vectors, query = rows_of(50), rows_of(1, seed=2)
    where = torch.arange(50) % 3 == 0
    scores, rows = Index(vectors).top(query, 40, where)
    assert len(rows[0]) == 17 and set(rows[0]) == set(range(0, 50, 3))
    assert scores[0] == sorted(scores[0], reverse=True)
    monkeypatch.setattr(zoo.retrieval.index, "SCORES", 7)  # of several chunks, too
    assert Index(vectors).top(query, 40, where) == (scores, rows)


def test_what_an_index_refuses():
    index = Index(rows_of(5))
    with pytest.raises(ValueError, match=r"queries \[1, 7\] do not fit vectors \[5, 32\]"):
        index.top(torch.ones(1, 7), 1)
    with pytest.raises(ValueError, match="k=0"):
        index.top(torch.ones(1, 32), 0)
    with pytest.raises(ValueError, match="not numbers"):
        Index(torch.full((3, 4), torch.nan)).top(torch.ones(1, 4), 1)
    with pytest.raises(ValueError, match="did you mean 'faiss'"):
        Index(rows_of(5), engine="fais")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="matrix of floats"):
        Index(torch.ones(3, dtype=torch.long))


def test_a_picture_and_a_text_find_what_looks_like_them(tmp_path):
    draw(tmp_path / "p", 8)
    model = Colors()
    hits = search("something red", tmp_path / "p", model, k=3)
    assert [type(hit) for hit in hits] == [Hit] * 3 and hits[0].score > hits[1].score > hits[2].score
    assert {hits[0].name, hits[1].name} == {"red-0.png", "red-4.png"} and hits[0].path.is_file()
    blue = search(tmp_path / "p" / "blue-2.png", tmp_path / "p", model, k=2)
    assert [hit.name for hit in blue] == ["blue-2.png", "blue-6.png"] and blue[0].score == pytest.approx(1)
    both = search(["green", str(tmp_path / "p" / "blue-2.png")], tmp_path / "p", model, k=2)
    assert [hit.name for hit in both[1]] == [hit.name for hit in blue]
    assert [hit.score for hit in both[1]] == pytest.approx([hit.score for hit in blue], abs=1e-6)
    assert both[0][0].name.startswith("more/green")


def test_texts_are_found_only_on_request_and_a_text_file_is_read(tmp_path):
    draw(tmp_path / "p", 4)
    (tmp_path / "p" / "note.txt").write_text("red")
    model, query = Colors(), tmp_path / "query.txt"
    hits = search("red", tmp_path / "p", model)
    assert len(hits) == 4 and {hit.kind for hit in hits} == {"image"}
    assert [hit.name for hit in search("red", tmp_path / "p", model, modalities=["text"])] == ["note.txt"]
    query.write_text("red")  # its name has no color in it
    assert search(query, tmp_path / "p", model) == hits


def test_a_folder_is_embedded_once_and_then_only_what_is_new(tmp_path, monkeypatch):
    draw(tmp_path / "p", 4)
    model, seen = Colors(), []
    real = Colors.encode_image

    def watched(self: Colors, pixel_values: Tensor) -> Tensor:
        seen.append(len(pixel_values))
        return real(self, pixel_values)

    monkeypatch.setattr(Colors, "encode_image", watched)
    first = search("green", tmp_path / "p", model, k=9)
    assert search("green", tmp_path / "p", model, k=9) == first and sum(seen) == 4
    draw(tmp_path / "p", 6)  # the same four are written again
    assert len(search("green", tmp_path / "p", model, k=9)) == 6
    assert not [f for f in (tmp_path / "p").rglob("*") if f.suffix != ".png" and f.is_file()]


def test_a_damaged_file_of_the_cache_is_made_anew(tmp_path):
    draw(tmp_path / "p", 4)
    first = search("green", tmp_path / "p", Colors())
    (file,) = (tmp_path / "cache").rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-50])
    assert search("green", tmp_path / "p", Colors()) == first


def test_broken_pictures_of_a_folder_are_left_out_with_a_warning(tmp_path):
    draw(tmp_path / "p", 4)
    (tmp_path / "p" / "broken.png").write_bytes(b"no picture")
    with pytest.warns(UserWarning, match=r"left out: .*broken\.png"):
        assert len(search("green", tmp_path / "p", Colors())) == 4
    with pytest.raises(ValueError, match=r"broken\.png"):
        search("green", tmp_path / "p", Colors(), on_error="raise")


def test_a_file_knows_its_model(tmp_path):
    draw(tmp_path / "p", 4)
    model = zoo.load(zoo.save(tiny(), tmp_path / "model"))
    found = embed(model, tmp_path / "p", tmp_path / "v.safetensors")
    assert search("a red bird", found.file, k=2) == search("a red bird", found, model, k=2)
    assert search(found.vectors[1], found.file, k=1)[0].name == found.items[1].name
    with pytest.raises(ValueError, match=r"another model.*fingerprint"):
        search("a red bird", found.file, tiny(seed=1))


@pytest.mark.parametrize("query", ["", "  \n", [""], ["red", " "]])
def test_an_empty_query_is_refused(query, tmp_path):
    with pytest.raises(ValueError, match="the query is empty"):
        search(query, tmp_path, Colors())


def test_what_search_refuses(tmp_path):
    draw(tmp_path / "p", 4)
    (tmp_path / "empty").mkdir()
    model = Colors()
    assert search([], tmp_path / "p", model) == []
    assert len(search("red", tmp_path / "p", model, k=1000)) == 4
    for words, options, said in [
        (("red", tmp_path / "empty", model), {}, "has no images or texts in it"),
        (("red", tmp_path / "gone", model), {}, "there is no file of embeddings"),
        (("gone.png", tmp_path / "p", model), {}, "there is no file gone.png"),
        (("red", tmp_path / "p", model), {"k": 0}, "k=0"),
        (("red", tmp_path / "p", model), {"modalities": ["pictures"]}, "modalities: 'pictures'"),
        (("red", tmp_path / "p", model), {"modalities": ["text"]}, "has no text: it has image"),
        (("red", tmp_path / "p"), {}, "which model"),
        ((torch.ones(3), embed(model, tmp_path / "p", tmp_path / "v.safetensors")), {}, "do not fit"),
    ]:
        with pytest.raises(ValueError, match=said):
            search(*words, **options)
    model.modalities = ("image",)
    with pytest.raises(ValueError, match="no text tower; it has image"):
        search("red", tmp_path / "p", model)


def test_a_model_of_one_tower_finds_by_picture(tmp_path):
    from zoo.preprocessing.image import ImageProcessor

    paths = draw(tmp_path / "p", 4)
    model = zoo.create_model("vit_cifar_tiny", depth=1, head="pool", seed=0)
    model.preprocess = ImageProcessor(size=(32, 32))
    assert search(paths[1], tmp_path / "p", model, k=1)[0].name == "more/green-1.png"
    with pytest.raises(ValueError, match="no text tower"):
        search("green", tmp_path / "p", model)
    with pytest.raises(ValueError, match="has no embeddings"):
        search("green", tmp_path / "p", zoo.create_model("vit_cifar_tiny", depth=1, seed=0))
