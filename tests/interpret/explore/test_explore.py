"""The page of `zoo.explore` without a browser: what is stored of maps, the positions of each modality, bad input."""

import base64
import html
import json
import math
import re
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import soundfile
import torch
from torch import Tensor
from whisper_peers import transformers_whisper

import zoo
from zoo.cli.explore_run import short_names, split
from zoo.cli.main import main
from zoo.interpret.attention_maps import distance, entropy
from zoo.interpret.explore.strongest import Reduction, StrongestKeys
from zoo.interpret.faithfulness import Curve, FaithfulnessResult
from zoo.interpret.roles.result import HeadRole, HeadRoles
from zoo.preprocessing.graph import GraphProcessor
from zoo.preprocessing.image import ImageProcessor
from zoo.preprocessing.multimodal import MultimodalProcessor
from zoo.preprocessing.tokenizer_training import train
from zoo.preprocessing.whisper import WhisperProcessor

TEXT = "a red bird sat on a green frog"
SMALL: dict[str, Any] = dict(width=16, depth=2, heads=2, seed=0)


@pytest.fixture(scope="module")
def text_model() -> Any:
    tokenizer = train("wordpiece", [TEXT] * 5, 100, max_length=40)
    made = zoo.create_model("bert_tiny", vocab_size=tokenizer.vocab_size, mlp_dim=32, **SMALL).eval()
    made.preprocess = tokenizer
    return made


def description(page: Any) -> dict[str, Any]:
    return json.loads(re.search(r'id="description">(.*?)</script>', page.html, re.DOTALL)[1])


def block(page: Any, number: int) -> bytes:
    found = re.search(rf'id="block-{number}">(.*?)</script>', page.html)
    return zlib.decompress(base64.b64decode(found[1]))


def decoded(kept: StrongestKeys) -> tuple[Tensor, Tensor, Tensor]:
    """(maps [H, N, M] with the strongest keys alone, rest [H, N], received [H, M]) as the page reads them."""
    heads, queries, keys, count = kept.heads, kept.queries, kept.keys, kept.kept
    values = torch.from_numpy(numpy.frombuffer(zlib.decompress(kept.data), numpy.uint8).copy()).double()
    sizes = [heads * queries * count] * 3 + [heads * queries, heads * keys]
    low, high, codes, rest, received = values.split(sizes)
    columns = (low + 256 * high).view(heads, queries, count).cumsum(-1).long()
    codes = codes.view(heads, queries, count)
    if kept.signed:
        weights = kept.scale * (codes - 128).sign() * ((codes - 128) / 127) ** 2
    else:
        weights = kept.scale * (codes / 255) ** 2
    maps = torch.zeros(heads, queries, keys, dtype=torch.double).scatter_add(2, columns, weights)
    squares = [kept.scale * (part / 255) ** 2 for part in (rest, received)]
    return maps, squares[0].view(heads, queries), squares[1].view(heads, keys)


# --- What is stored ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("causal", [False, True])
def test_the_strongest_keys_are_read_back(causal: bool) -> None:
    scores = 3 * torch.randn(1, 2, 300, 300, generator=torch.Generator().manual_seed(0))
    if causal:
        scores = scores.masked_fill(torch.ones(300, 300, dtype=torch.bool).triu(1), -math.inf)
    weights = scores.softmax(-1)
    kept = Reduction(same=True)(weights)
    maps, rest, received = decoded(kept)
    best = weights[0].topk(32, -1)
    expected = torch.zeros_like(weights[0]).scatter(2, best.indices, best.values)
    assert torch.allclose(maps, expected.double(), atol=1 / 255, rtol=0)
    # steps of the square root keep small weights apart
    assert (maps.sqrt() - expected.double().sqrt()).abs().max() <= 0.51 / 255
    assert torch.allclose(rest, (weights[0] - expected).sum(-1).double(), atol=1 / 255)
    assert torch.allclose(received, weights[0].mean(1).double(), atol=1 / 255)
    assert kept.entropy == pytest.approx(entropy(weights)[0].tolist())
    assert kept.distance == pytest.approx(distance(weights)[0].tolist())
    assert kept.thumbnails.shape == (2, 16, 16) and int(kept.thumbnails.max()) == 255


def test_negative_weights_have_their_sign_and_no_entropy() -> None:
    weights = torch.tensor([[[[0.5, -0.2, 0.7], [0.0, 0.0, 0.0]]]])
    kept = Reduction()(weights)
    assert kept.signed and kept.entropy is None and kept.distance is None
    assert torch.allclose(decoded(kept)[0], weights[0].double(), atol=2 / 127)


def test_weights_that_do_not_sum_to_one() -> None:
    maps, rest, received = decoded(Reduction()(torch.full((1, 1, 2, 50), 0.9)))
    assert torch.allclose(rest, torch.full_like(rest, 18 * 0.9), atol=0.07)
    assert torch.allclose(received, torch.full_like(received, 0.9), atol=0.02) and int((maps > 0).sum()) == 64
    with pytest.raises(ValueError, match="attention weights are infinite or NaN"):
        Reduction()(torch.full((1, 1, 2, 2), torch.nan))


def test_positions_beyond_those_that_are_shown_are_the_rest() -> None:
    weights = torch.full((1, 1, 4, 4), 0.25)
    maps, rest, _ = decoded(Reduction(queries=3, keys=2)(weights))
    assert maps.shape == (1, 3, 2) and torch.allclose(rest, torch.full((1, 3), 0.5, dtype=torch.double), atol=0.003)


def test_the_page_of_a_text(text_model: Any, tmp_path: Path) -> None:
    batch = text_model.preprocess(TEXT)
    with zoo.capture(text_model) as maps, torch.no_grad():
        alone = text_model(**batch)
    roles = {(0, 1): "first token", ("blocks.1.mixer", 0): ("previous token", 0.912)}
    page = zoo.explore(text_model, TEXT, names="BERT", roles=roles)
    values = description(page)["models"][0]
    assert values["positions"][0][0]["texts"] == ["[CLS]", *TEXT.split(), "[SEP]"]
    layers = values["groups"][0]["layers"]
    assert [layer["number"] for layer in layers] == [0, 1]
    assert [layer["roles"] for layer in layers] == [["", "first token"], ["previous token 0.91", ""]]
    for layer, weights in zip(layers, maps.values()):
        kept = SimpleNamespace(**dict(zip(("heads", "queries", "keys", "kept"), layer["shape"])),
                               data=zlib.compress(block(page, layer["block"])), scale=1.0, signed=False)  # fmt: skip
        assert torch.allclose(decoded(kept)[0], weights[0].double(), atol=1 / 255)
    assert torch.equal(text_model(**batch), alone)
    assert page.save(tmp_path / "page.html").read_text() == page.html
    assert html.unescape(re.search(r'srcdoc="(.*)"', page._repr_html_(), re.DOTALL)[1]) == page.html
    assert "http://" not in page.html and "https://" not in page.html
    assert "Attention weights are not always reasons" in page.html


def test_max_tokens_layers_and_heads(text_model: Any) -> None:
    group = description(zoo.explore(text_model, TEXT, max_tokens=4, layers=[-1], heads=[1]))["models"][0]["groups"][0]
    assert group["cut"] and group["layers"][0]["heads"] == [1] and group["layers"][0]["shape"] == [1, 4, 4, 4]


def test_tables_of_other_measures(text_model: Any) -> None:
    falls, rises = torch.tensor([[0.8, 0.2, 0.0]]), torch.tensor([[0.0, 0.6, 0.8]])
    curves = [Curve(order, falls, rises) for order in ("attention", "random order")]
    measured = FaithfulnessResult([0.0, 0.5, 1.0], "text", "remove", ["a"], curves)
    roles = [
        HeadRole("blocks.0.mixer", head, role, score, 0.1, control)
        for head, role, score, control in [(0, "first", 0.9, 0.2), (1, "first", 0.15, 0.1), (0, "next", 0.5, 0.3)]
    ]
    found = description(zoo.explore(text_model, TEXT, faithfulness=measured, roles=HeadRoles(roles)))
    assert found["faithfulness"][0][0] == "Area under the probability of a, text removed by 'remove'"
    assert found["faithfulness"][1:] == [["attention", 0.3, 0.5], ["random order", 0.3, 0.5]]
    # the second head is not above the best one with random weights
    assert found["models"][0]["groups"][0]["layers"][0]["roles"] == ["first 0.90", ""]


# --- Modalities -------------------------------------------------------------------------------------------------------


def groups(page: Any) -> dict[str, tuple[list[Any], list[Any], list[int]]]:
    """{group: (parts of the queries, parts of the keys, shape of a map)}."""
    model = description(page)["models"][0]
    return {group["name"]: (model["positions"][group["queries"]], model["positions"][group["keys"]],
                            group["layers"][0]["shape"][1:3]) for group in model["groups"]}  # fmt: skip


def test_images_with_a_class_token() -> None:
    model = zoo.create_model("vit_tiny_patch16_224", image_size=64, mlp_dim=16, **SMALL).eval()
    queries, _, shape = groups(zoo.explore(model, torch.zeros(3, 80, 64, dtype=torch.uint8)))["self-attention"]
    assert queries[0]["texts"] == ["[CLS]"] and queries[1]["grid"] == [4, 4] and shape == [17, 17]
    assert queries[1]["box"] == [0, 0, 1, 1] and queries[1]["image"].startswith("data:image/png;base64,")
    with pytest.raises(ValueError, match="the image has 4 x 4 patches, which are shown all or not"):
        zoo.explore(model, torch.zeros(3, 80, 64, dtype=torch.uint8), max_tokens=3)


def test_spectrograms_and_waveforms() -> None:
    wave = torch.randn(16000, generator=torch.Generator().manual_seed(0)) * 0.1
    model = zoo.create_model("ast_tiny", mlp_dim=16, **SMALL).eval()
    queries, _, shape = groups(zoo.explore(model, (wave, 16000)))["self-attention"]
    rows, columns = queries[1]["grid"]
    assert queries[1]["kind"] == "audio" and shape == [2 + rows * columns] * 2 and queries[1]["seconds"] == 1.28
    model = zoo.create_model("wav2vec2_tiny", mlp_dim=16, width=16, depth=1, heads=2, position_groups=2, seed=0).eval()
    queries, _, shape = groups(zoo.explore(model, (wave, 16000), max_tokens=20))["self-attention"]
    assert queries[0]["grid"] == [1, 20] and shape == [20, 20]
    frame = 1 / int(model.frames(16000))
    assert queries[0]["seconds"] == pytest.approx(20 * frame, abs=2 * frame)


def test_a_clip_and_its_transcript() -> None:
    tokenizer = train("whisper", ["red car", "car red"] * 3, 280, max_length=40)
    ids = {name: tokenizer.id("eos") for name in ("eos_token_id", "bos_token_id", "pad_token_id")}
    model = zoo.create_model("whisper_nano", vocab_size=tokenizer.vocab_size, frames=200, mel_bins=16,
                             decoder_start_token_id=1, **SMALL, **ids).eval()  # fmt: skip
    model.preprocess = WhisperProcessor(sampling_rate=8000, num_mel_bins=16, frames=200, tokenizer=tokenizer)
    found = groups(zoo.explore(model, [(0.1 * torch.randn(8000), 8000), "red car"]))
    queries, keys, shape = found["decoder to encoder"]
    assert queries[0]["texts"][1:] == ["red", "car"] and keys[0]["grid"] == [1, 50] and shape == [3, 50]
    assert found["encoder"][2] == [50, 50] and keys[0]["seconds"] == 1.0
    assert len(groups(zoo.explore(model, (0.1 * torch.randn(8000), 8000)))["decoder"][0][0]["texts"]) > 1


def test_the_language_of_a_clip(text_model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    transformers_whisper(tmp_path / "whisper")
    wave = 0.1 * torch.randn(16000, generator=torch.Generator().manual_seed(0))
    soundfile.write(tmp_path / "talk.wav", wave.numpy(), 16000)
    words = ["explore", str(tmp_path / "whisper"), str(tmp_path / "talk.wav")]
    page = tmp_path / "page.html"
    for more in ([], ["so it is"]):
        assert main([*words, *more, "--language", "de", "--html", str(page)]) == 0
        assert "|de|" in page.read_text() and "|en|" not in page.read_text()
    assert main([*words, "so it is", "--html", str(page)]) == 2
    assert "give language= of the transcripts" in capsys.readouterr().err
    assert main([*words, "--language", "xx", "--html", str(page)]) == 2
    zoo.save(text_model, tmp_path / "words")
    assert main(["explore", str(tmp_path / "words"), TEXT, "--language", "de", "--html", str(page)]) == 2
    assert "--language is of speech, for Whisper, and a Bert takes none" in capsys.readouterr().err


def test_source_and_target_texts() -> None:
    tokenizer = train("seq2seq", ["the dog sleeps", "der Hund bellt"] * 3, 300)
    ids = {f"{name}_token_id": tokenizer.id(name) for name in ("bos", "eos", "pad")}
    model = zoo.create_model("transformer_nano", vocab_size=tokenizer.vocab_size, mlp_dim=16, **SMALL,
                             decoder_start_token_id=ids["bos_token_id"], **ids).eval()  # fmt: skip
    model.preprocess = tokenizer
    queries, keys, shape = groups(zoo.explore(model, ("the dog sleeps", "der Hund bellt")))["decoder to encoder"]
    assert keys[0]["texts"] == ["the", "dog", "sleeps", "</s>"] and queries[0]["texts"][1:] == ["der", "Hund", "bellt"]
    assert shape == [len(queries[0]["texts"]), len(keys[0]["texts"])]
    with pytest.raises(ValueError, match="the model reads texts: give one, with or without the text"):
        zoo.explore(model, {"target": "der Hund bellt"})


def test_an_image_and_its_text() -> None:
    tokenizer = train("wordpiece", [TEXT] * 5, 100, max_length=16)
    text = {"name": "bert_tiny", "depth": 1, "width": 32, "heads": 2, "vocab_size": 100, "mlp_dim": 16}
    image = {"name": "vit_cifar_tiny", "depth": 1, "width": 32, "heads": 2, "mlp_dim": 16}
    model = zoo.contrast(image=image, text=text, width=24, seed=0).eval()
    model.preprocess = MultimodalProcessor(image=ImageProcessor(size=(32, 32)), text=tokenizer)
    pixels = torch.zeros(3, 32, 32, dtype=torch.uint8)
    assert set(groups(zoo.explore(model, [pixels, TEXT]))) == {"image", "text"}
    assert set(groups(zoo.explore(model, {"images": pixels}))) == {"image"}
    with pytest.raises(ValueError, match="given several of the modality text"):
        zoo.explore(model, [TEXT, TEXT])
    with pytest.raises(ValueError, match="takes no 'audio': expected 'images', 'text'"):
        zoo.explore(model, {"audio": "a.wav"})


def test_gated_cross_attention_has_the_tokens_of_the_text() -> None:
    tokenizer = train("bpe", [TEXT] * 5, 300)
    text = zoo.create_model("llama_nano", vocab_size=tokenizer.vocab_size, kv_heads=2, mlp_dim=16, **SMALL)
    text.preprocess = tokenizer
    image = {"name": "vit_cifar_tiny", "depth": 2, "width": 16, "heads": 2, "mlp_dim": 16}
    model = zoo.bridge(image=image, text=text, by="cross", seed=0).eval()
    found = groups(zoo.explore(model, [torch.zeros(3, 32, 32, dtype=torch.uint8), TEXT]))
    queries, keys, shape = found["text to features"]
    assert queries == found["text"][0] and shape[0] == sum(len(part["texts"]) for part in queries)
    assert keys[0]["grid"] == [8, 8] and shape[1] == 64


def test_layers_without_weights_are_named() -> None:
    tokenizer = train("bpe", [TEXT] * 5, 300)
    model = zoo.create_model("granite4_nano", vocab_size=tokenizer.vocab_size, seed=0).eval()
    model.preprocess = tokenizer
    missing = description(zoo.explore(model, TEXT, layers="*"))["models"][0]["missing"]
    assert missing and all(name.startswith("blocks.") and "(Mamba2" in name for name in missing)


# --- Bad input --------------------------------------------------------------------------------------------------------


def test_what_cannot_be_shown_says_what_to_choose(text_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.interpret.explore.maps.MAX_POSITIONS", 5)
    with pytest.raises(ValueError, match="has 10 positions in self-attention, and a page shows at most 5: choose max_"):
        zoo.explore(text_model, TEXT)
    monkeypatch.setattr("zoo.interpret.explore.maps.MAX_BYTES", 100)
    with pytest.raises(ValueError, match=r"would have about .* MB, expected at most 0 MB: choose layers="):
        zoo.explore(text_model, TEXT, max_tokens=5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": 0}, "max_tokens=0: expected a whole number"),
        ({"roles": {(9, 0): "a"}}, r"roles: the model has no layer 9 with attention weights; it has \[blocks.0.mixer"),
        ({"roles": {(0, 2): "a"}}, "roles: layer 0 has no head 2; its heads are 0 to 1"),
        ({"roles": {3: "a"}}, "roles: expected"),
        ({"roles": "previous"}, "roles='previous': expected"),
        ({"names": ["a", "b"]}, "names= has 2 entries for 1 models"),
        ({"faithfulness": {"a": 1}}, "faithfulness=.* expected the result of zoo.faithfulness"),
        ({"faithfulness": {"a": {"b": "c"}}}, "faithfulness=.* expected the result of zoo.faithfulness"),
        ({"heads": 7}, "heads=7 is out of range"),
    ],
)  # fmt: skip
def test_options_that_are_not_valid(text_model: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        zoo.explore(text_model, TEXT, **options)


def test_inputs_that_are_not_valid(text_model: Any) -> None:
    for models, inputs, message in (
        (text_model, [TEXT, TEXT], "a page shows one input"),
        (text_model, [], "no input given"),
        ([], TEXT, "no models given"),
        (torch.nn.Linear(2, 2), TEXT, "expected a zoo.Model, given a Linear"),
        (zoo.create_model("bert_tiny", vocab_size=99, **SMALL), TEXT, "has no preprocessing"),
    ):
        with pytest.raises(ValueError, match=message):
            zoo.explore(models, inputs)


def test_the_command(
    text_model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    roles = HeadRoles([HeadRole("blocks.0.mixer", 1, "first", 0.9, 0.1, 0.2)])
    curve = Curve("attention", torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
    measured = FaithfulnessResult([0.0, 1.0], "text", "remove", ["a"], [curve])
    monkeypatch.setattr("zoo.cli.explore_run.head_roles", lambda model, data: seen.append(data) or roles)
    monkeypatch.setattr("zoo.cli.explore_run.faithfulness", lambda model, inputs: measured)
    for name in ("before", "after"):
        zoo.save(text_model, tmp_path / name)
    page = tmp_path / "page.html"
    before, after = str(tmp_path / "before"), str(tmp_path / "after")
    assert main(["explore", before, after, TEXT, "--html", str(page), "--layers", "0,-1", "--heads", "1",
                 "--roles", "--faithfulness"]) == 0  # fmt: skip
    assert "page.html (0.1 MB) shows the attention of" in capsys.readouterr().out
    found = description(SimpleNamespace(html=page.read_text()))
    assert [model["name"] for model in found["models"]] == ["before", "after"]
    assert found["models"][1]["groups"][0]["layers"][0]["roles"] == ["first 0.90"]
    assert seen == [[TEXT], [TEXT]]
    assert [row[0] for row in found["faithfulness"]] == ["", "before: attention", "after: attention"]
    assert main(["explore", before, "--pair", "a red", "bird", "--html", str(page)]) == 0
    assert main(["explore", before, "--html", str(page)]) == 2 and "give an input" in capsys.readouterr().err
    assert main(["explore", before, TEXT, "--html", str(page), "--heads", "x"]) == 2


def test_models_and_inputs_of_a_command_line(tmp_path: Path) -> None:
    folder = str(tmp_path)
    assert split("org/name", ["a text"], False) == (["org/name"], ["a text"])
    assert split("org/name", [folder, "other/model", "cat.png", "a cat"], False) == (
        ["org/name", folder, "other/model"], ["cat.png", "a cat"])  # fmt: skip
    assert split("org/name", ["either/or"], False) == (["org/name"], ["either/or"])
    assert split("org/name", [folder], True) == (["org/name", folder], [])
    assert short_names([f"{folder}/a", folder, "org/name"]) == [f"{folder}/a", tmp_path.name, "org/name"]
    for name in ("a", "b"):
        (tmp_path / name / "best").mkdir(parents=True)
    twice = [f"{folder}/a/best", f"{folder}/b/best"]
    assert short_names(twice) == twice
    with pytest.raises(ValueError, match="is a folder: after the models, give one input"):
        split("org/name", [folder], False)


# --- Graphs and clouds ------------------------------------------------------------------------------------------------


def test_nodes_of_a_graph_have_places_names_and_edges() -> None:
    import networkx

    graph = networkx.Graph([("ann", "bob"), ("bob", "cy"), ("cy", "ann"), ("cy", "dan")])
    model = zoo.create_model("gat_small", seed=0, in_features=4, num_classes=2).eval()
    model.preprocess = GraphProcessor(in_features=4)
    found = description(zoo.explore(model, graph))["models"][0]
    (part,) = found["positions"][0]
    assert part["texts"] == ["ann", "bob", "cy", "dan"] and part["edges"] == [[0, 1], [0, 2], [1, 2], [2, 3]]
    assert len(part["places"]) == 4 and all(0 <= x <= 1 for place in part["places"] for x in place)
    assert [(group["name"], group["queries"]) for group in found["groups"]] == [
        ("self-attention", 0),
        ("head.mixer", 0),
    ]


def test_a_part_of_a_large_graph_around_a_node() -> None:
    nodes = 9000
    ring = torch.stack([torch.arange(nodes), (torch.arange(nodes) + 1) % nodes])
    features = torch.randn(nodes, 4, generator=torch.Generator().manual_seed(0))
    graph = zoo.Graph(features, torch.cat([ring, ring.flip(0)], 1))
    model = zoo.create_model("gat_small", seed=0, depth=1, in_features=4, num_classes=2).eval()
    model.preprocess = GraphProcessor(in_features=4)
    page = zoo.explore(model, graph, around="5", max_tokens=4)
    (part,) = description(page)["models"][0]["positions"][0]
    assert part["texts"] == ["5", "4", "6", "3"] and part["edges"] == [[0, 1], [0, 2], [1, 3]]
    with zoo.capture(model, layers=0, edges=True) as maps, torch.no_grad():
        model(**model.preprocess(graph))
    edge_index, weights = maps["blocks.0.mixer"]
    found = description(page)["models"][0]["groups"][0]["layers"][0]
    kept = SimpleNamespace(**dict(zip(("heads", "queries", "keys", "kept"), found["shape"])),
                           data=zlib.compress(block(page, found["block"])), scale=1.0, signed=False)  # fmt: skip
    shown, rest, _ = decoded(kept)
    for query, node in enumerate((5, 4, 6, 3)):
        own = {source: weights[edge] for edge, (source, target) in enumerate(edge_index.T.tolist()) if target == node}
        seen = torch.stack([own.pop(key, torch.zeros(8)) for key in (5, 4, 6, 3)], 1)
        assert torch.allclose(shown[:, query], seen.double(), atol=1 / 255)
        assert torch.allclose(rest[:, query], sum(own.values(), torch.zeros(8)).double(), atol=0.01)
    with pytest.raises(ValueError, match=r"9,000 positions in self-attention.*nearest to that of around="):
        zoo.explore(model, graph)
    with pytest.raises(ValueError, match="around='x': expected the name or the number of a node, such as '0'"):
        zoo.explore(model, graph, around="x", max_tokens=4)


def test_residues_and_sequences_of_an_alignment(tmp_path: Path) -> None:
    (tmp_path / "family.a3m").write_text(">query\nMKTAYI\n>b\nMRT-YI\n>c\nMKSAYL\n")
    small = dict(width=16, heads=2, pair_width=8, pair_heads=2, outer_width=4, depth=1)
    model = zoo.create_model("evoformer_nano", seed=0, **small).eval()
    found = description(zoo.explore(model, tmp_path / "family.a3m"))["models"][0]
    texts = {group["name"]: found["positions"][group["queries"]][0]["texts"] for group in found["groups"]}
    residues = ["M1", "K2", "T3", "A4", "Y5", "I6"]
    assert texts == {
        "residues, of the query": residues,
        "sequences, at the first residue": ["query", "sequence 2", "sequence 3"],
        "pairs that start at the first residue": residues,
        "pairs that end at the first residue": residues,
    }


def test_points_of_a_cloud_and_the_induced_points_that_they_attend_to() -> None:
    model = zoo.create_model("set_transformer_tiny", seed=0, num_classes=2).eval()
    cloud = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    found = description(zoo.explore(model, cloud))["models"][0]
    group = found["groups"][0]
    points, induced = (found["positions"][group[side]] for side in ("queries", "keys"))
    assert not group["same"] and len(points[0]["places"]) == 20 and induced[0]["kind"] == "tokens"
    alone = description(zoo.explore(model, cloud[:1]))["models"][0]
    assert alone["positions"][0][0]["places"] == [[0.5, 0.5]]


def test_points_of_all_stages_are_seen_from_the_same_side() -> None:
    model = zoo.create_model("point_transformer_tiny", seed=0, width=8, stages=(1,), head="token", num_classes=2).eval()
    cloud = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    found = description(zoo.explore(model, cloud))["models"][0]
    names = [group["name"] for group in found["groups"]]
    first, last, back, bottom = (
        found["positions"][found["groups"][names.index(name)]["queries"]][0]
        for name in ("stages.0", "self-attention", "head.stages.0", "head")
    )
    assert first["texts"] == back["texts"] and len(first["texts"]) == 20
    assert last["texts"] == bottom["texts"] and len(last["texts"]) == 5
    places = [point.split(" at ")[1] for point in first["texts"]]
    assert all(point.split(" at ")[1] in places for point in last["texts"]), "a sample of the points"
