"""`zoo serve` over loopback: the answers are those of `zoo.predict`, and what is refused, with which status."""

import base64
import concurrent.futures
import dataclasses
import http.client
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import uvicorn
from PIL import Image
from text_peers import SENTENCES, text_folder

import zoo
from zoo.inference.server import RateLimit, create_app
from zoo.inference.server_models import Embeddings, Predictions
from zoo.inference.server_requests import Limits
from zoo.preprocessing.ctc_vocabulary import Vocabulary
from zoo.preprocessing.image import ImageProcessor
from zoo.preprocessing.waveform import WaveformFeatureExtractor
from zoo.retrieval.encode import Encoder

TEXTS = [text for text, _ in SENTENCES[:5]]


class Client:
    """One connection to a server."""

    def __init__(self, port: int, app: Any) -> None:
        self.port, self.app = port, app

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, Any]:
        """(status, body, headers) of a response."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        content = response.read()
        connection.close()
        return response.status, json.loads(content) if content else None, response.headers

    def post(self, request: Any, path: str = "/predict") -> tuple[int, Any]:
        """(status, body) of a request in JSON."""
        return self.send("POST", path, json.dumps(request), Content_Type="application/json")[:2]

    def error(self, request: Any, path: str = "/predict") -> tuple[int, str]:
        status, body = self.post(request, path)
        assert set(body) <= {"error", "failures", "id"}, body
        return status, body["error"]


@contextmanager
def serving(model: Any, limits: Limits | None = None, **options: Any) -> Iterator[Client]:
    app = create_app(model, limits, **options)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
        yield Client(server.servers[0].sockets[0].getsockname()[1], app)
    finally:
        server.should_exit = True
        thread.join(30)


@pytest.fixture(scope="module")
def texts_model(tmp_path_factory: pytest.TempPathFactory) -> zoo.Model:
    folder = tmp_path_factory.mktemp("bert")
    text_folder("BertForSequenceClassification", folder)
    model = zoo.load(folder)
    model.labels = ["bad", "fair", "good"]
    return model


@pytest.fixture(scope="module")
def texts(texts_model: zoo.Model) -> Iterator[Client]:
    with serving(Predictions(texts_model), Limits(max_body=20_000, max_inputs=40)) as client:
        yield client


@pytest.fixture(scope="module")
def images_model() -> zoo.Model:
    model = zoo.create_model("vit_cifar_tiny", seed=0, depth=1, num_classes=3)
    model.preprocess, model.labels = ImageProcessor(size=(32, 32)), ["bad", "fair", "good"]
    return model


@pytest.fixture(scope="module")
def images(images_model: zoo.Model) -> Iterator[Client]:
    with serving(Predictions(images_model)) as client:
        yield client


def png(seed: int = 0) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def wav(seconds: float, rate: int = 8000) -> bytes:
    file = io.BytesIO()
    noise = 0.1 * np.random.default_rng(0).standard_normal(round(seconds * rate))
    soundfile.write(file, noise, rate, format="WAV")
    return file.getvalue()


def coded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def same(found: list[dict[str, Any]], expected: list[tuple[str, float]], *names: str) -> None:
    label, value = names or ("label", "probability")
    assert [set(each) for each in found] == [{label, value}] * len(expected)
    assert [each[label] for each in found] == [name for name, _ in expected]
    assert [each[value] for each in found] == pytest.approx([number for _, number in expected], abs=1e-5)


# --- what comes out -----------------------------------------------------------------------------------------------


def test_texts_and_pairs_are_predicted_as_zoo_predict_does(texts: Client, texts_model: zoo.Model) -> None:
    status, body = texts.post({"inputs": [*TEXTS, [TEXTS[0], TEXTS[1]]], "top_k": 2})
    assert status == 200 and set(body) == {"predictions"}
    for found, expected in zip(body["predictions"], zoo.predict(texts_model, [*TEXTS, (TEXTS[0], TEXTS[1])], 2)):
        same(found, expected)
    assert len(texts.post({"inputs": TEXTS[:1]})[1]["predictions"][0]) == 3  # top_k=5 of three labels


def test_requests_at_the_same_time_get_their_own_answers(texts: Client, texts_model: zoo.Model) -> None:
    words = [f"the {first} {second}" for first in ("soup", "evening", "place") for second in ("cold", "warm", "dark")]
    expected = dict(zip(words, zoo.predict(texts_model, words, 3)))
    before = texts.app.state.service.batcher.batches

    def one(i: int) -> None:
        word, top_k = words[i % 9], i % 3 + 1
        if i % 10 == 9:
            found = texts.post({"inputs": [word, ""], "top_k": top_k})
            assert found == (422, {"error": "inputs[1] is empty", "failures": {"1": "inputs[1] is empty"}})
        else:
            status, body = texts.post({"inputs": [word], "top_k": top_k})
            assert status == 200
            same(body["predictions"][0], expected[word][:top_k])

    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        list(pool.map(one, range(200)))
    assert texts.app.state.service.batcher.batches - before < 150


def test_raw_bodies(texts: Client, texts_model: zoo.Model, images: Client, images_model: zoo.Model) -> None:
    status, body, _ = texts.send(
        "POST", "/predict?top_k=1", TEXTS[0].encode(), Content_Type="text/plain; charset=utf-8"
    )
    assert status == 200
    same(body["predictions"][0], zoo.predict(texts_model, TEXTS[0], 1))
    for mime in ("image/png", "application/octet-stream"):
        status, body, _ = images.send("POST", "/predict?top_k=2", png(), Content_Type=mime)
        assert status == 200
        same(body["predictions"][0], zoo.predict(images_model, png(), 2))
    assert texts.send("POST", "/predict", b"\xff\xfe", Content_Type="text/plain")[0] == 400
    assert texts.send("POST", "/predict", b"a", Content_Type="text/plain; charset=utf-16")[0] == 415
    assert texts.send("POST", "/predict?top_k=x", b"a", Content_Type="text/plain")[0] == 400
    assert texts.send("POST", "/predict?topk=2", b"a", Content_Type="text/plain")[0] == 400
    for client, mime in (
        (texts, "image/png"),
        (texts, "application/octet-stream"),
        (images, "text/plain"),
        (texts, ""),
    ):
        status, body, _ = client.send("POST", "/predict", b"abc", Content_Type=mime)
        assert status == 415 and "application/json" in body["error"]


def test_images_in_base64_and_data_urls(images: Client, images_model: zoo.Model) -> None:
    url = f"data:image/png;base64,{coded(png(1))}"
    wrapped = "\n".join(coded(png(2))[i : i + 76] for i in range(0, len(coded(png(2))), 76))
    status, body = images.post({"inputs": [coded(png(0)), url, wrapped]})
    assert status == 200
    for i, found in enumerate(body["predictions"]):
        same(found, zoo.predict(images_model, png(i)))


def test_regression_has_values(texts_model: zoo.Model) -> None:
    before = texts_model.config
    texts_model.config = before.replace(problem_type="regression")
    try:
        with serving(Predictions(texts_model)) as client:
            body = client.post({"inputs": TEXTS[:2]})[1]
            same(body["predictions"][1], zoo.predict(texts_model, TEXTS[1]), "label", "value")
    finally:
        texts_model.config = before


def test_speech_has_texts_and_clips_of_limited_length() -> None:
    model = zoo.create_model("wav2vec2_tiny", head="ctc", vocab_size=5, seed=0, width=32, depth=1, heads=2)
    model.preprocess = WaveformFeatureExtractor(sampling_rate=8000, normalize=False, vocabulary=Vocabulary.of(["abc"]))
    with serving(Predictions(model), Limits(max_seconds=3)) as client:
        clip = wav(0.5)
        status, body, _ = client.send("POST", "/predict?top_k=2", clip, Content_Type="audio/wav")
        assert status == 200
        same(body["predictions"][0], zoo.predict(model, clip, 2), "text", "probability")
        assert client.error({"inputs": [coded(clip), coded(wav(4))]}) == (
            413, "inputs[1] has 4 s, expected at most 3 s: send it in parts",
        )  # fmt: skip
        status, message = client.error({"inputs": [coded(wav(0.5, rate=4000))]})
        assert status == 422 and message.startswith("inputs[0]: ") and "expected 8000 Hz" in message
        assert client.error({"inputs": [coded(b"RIFF of nothing")]})[0] == 422
        assert client.error({"inputs": [coded(clip)], "top_k": 101})[0] == 400


def test_tokens_for_a_mask(tmp_path: Path) -> None:
    text_folder("BertForMaskedLM", tmp_path)
    model = zoo.load(tmp_path)
    with serving(Predictions(model)) as client:
        body = client.post({"inputs": ["the soup was [MASK]"], "top_k": 3})[1]
        same(body["predictions"][0], zoo.predict(model, "the soup was [MASK]", 3))
        assert client.error({"inputs": ["the soup"]})[0] == 422


def test_truncated_texts_are_counted_in_the_response(texts_model: zoo.Model) -> None:
    long = "cold " * 60
    with serving(Predictions(texts_model, truncation=True)) as client:
        assert client.post({"inputs": ["cold", long]})[1]["truncated"] == {"1": 62}
    with serving(Predictions(texts_model, truncation=False)) as client:
        status, message = client.error({"inputs": ["cold", long]})
        assert status == 422 and message.startswith("inputs[1] has 62 tokens, expected at most max_length=40")


def test_embeddings(tmp_path: Path) -> None:
    text_folder("sentence-transformers", tmp_path)
    model = zoo.load(tmp_path)
    encoder = Encoder(model)
    with serving(Embeddings(model, encoder.modalities, encoder.vectors)) as client:
        status, body = client.post({"inputs": TEXTS}, "/embed")
        assert status == 200
        assert torch.allclose(torch.tensor(body["embeddings"]), encoder.vectors("text", TEXTS), atol=1e-5)
        status, body = client.post({"inputs": [TEXTS[0], "", TEXTS[1]]}, "/embed")
        assert status == 422 and set(body["failures"]) == {"1"} and body["error"].startswith("inputs[1]: ")
        assert client.error({"inputs": TEXTS, "top_k": 2}, "/embed")[0] == 400
        assert client.error({"inputs": TEXTS}) == (
            404, "this model has no /predict: POST /embed, and GET /info describes it"
        )  # fmt: skip
        assert client.send("GET", "/info")[1]["endpoint"] == "/embed"


def test_embeddings_of_two_modalities() -> None:
    class TwoTowers:
        def vectors(self, kind: str, items: list[Any]) -> torch.Tensor:
            if any(item == b"broken" for item in items):
                raise ValueError("the image is damaged")
            return torch.tensor([[float(kind == "image"), float(len(item))] for item in items])

    model = Embeddings(TwoTowers(), ("image", "text"), TwoTowers().vectors)
    with serving(model) as client:
        assert client.post({"inputs": [coded(b"abc")]}, "/embed")[1] == {"embeddings": [[1.0, 3.0]]}
        assert client.post({"inputs": ["ab"], "modality": "text"}, "/embed")[1] == {"embeddings": [[0.0, 2.0]]}
        assert client.error({"inputs": ["ab"], "modality": "audio"}, "/embed")[0] == 400
        status, body = client.post({"inputs": [coded(b"abc"), coded(b"broken")]}, "/embed")
        assert (status, body["failures"]) == (422, {"1": "inputs[1]: the image is damaged"})
        assert client.send("POST", "/embed", b"abc", Content_Type="text/plain")[1] == {"embeddings": [[0.0, 3.0]]}
        status, body, _ = client.send("POST", "/embed?modality=text", b"ab", Content_Type="text/plain")
        assert body == {"embeddings": [[0.0, 2.0]]}
        assert client.send("POST", "/embed?modality=text", b"ab", Content_Type="image/png")[0] == 415


def test_health_and_info(texts: Client) -> None:
    assert texts.send("GET", "/health")[:2] == (200, {"status": "ok", "queued": 0})
    info = texts.send("GET", "/info")[1]
    assert (info["labels"], info["inputs"], info["endpoint"]) == (["bad", "fair", "good"], ["text"], "/predict")
    assert info["limits"]["max_body"] == 20_000 and info["version"] == zoo.__version__


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("request_", "message"), [
    ("{", "is not JSON"), ("[" * 5000, "is not JSON"), (b"\xff", "is not JSON"), ("[]", "a list of 0: expected an obj"),
    ({}, '"inputs" is missing'), ({"inputs": []}, '"inputs" is an empty list'), ({"inputs": "a"}, '"inputs" is a text'),
    ({"inputs": [1]}, "inputs[0] is a number: expected a text"), ({"inputs": ["a", None]}, "inputs[1] is null"),
    ({"inputs": [["a"]]}, "a list of 1: expected a text"), ({"inputs": [{"text": "a"}]}, "is an object"),
    ({"inputs": ["a"], "top_k": 0}, "a whole number from 1"), ({"inputs": ["a"], "top_k": True}, "a whole number"),
    ({"inputs": ["a"], "topk": 1}, "unknown key 'topk': expected inputs, top_k; did you mean 'top_k'?"),
    ({"inputs": ["a"], "modality": "text"}, "unknown key 'modality'"),
])  # fmt: skip
def test_requests_of_another_form(texts: Client, request_: Any, message: str) -> None:
    body = request_ if isinstance(request_, str | bytes) else json.dumps(request_)
    status, found, _ = texts.send("POST", "/predict", body, Content_Type="application/json")
    assert status == 400 and message in found["error"], found


def test_inputs_that_cannot_be_predicted(texts: Client, images: Client) -> None:
    assert texts.error({"inputs": ["", "a", "\ud800"]})[0] == 422
    status, body = images.post({"inputs": [coded(png()), coded(b"no image"), coded(png()[:50])]})
    assert status == 422 and set(body["failures"]) == {"1", "2"}
    assert body["error"].startswith("inputs[1]: ") and body["error"].endswith("(and 1 more)")
    assert images.error({"inputs": [""]}) == (400, "inputs[0] is empty: expected the bytes of an image file")
    assert images.error({"inputs": ["data:image/png,abc"]})[0] == 400
    assert images.error({"inputs": [f"{coded(png())[:8]}!{coded(png())[8:]}"]})[0] == 400
    assert images.send("POST", "/predict", b"", Content_Type="image/png")[0] == 400


def test_nothing_on_the_disk_of_the_server_is_read(
    texts: Client, texts_model: zoo.Model, images: Client, tmp_path: Path
) -> None:
    there, absent = "/etc/passwd", "/etc/passwb"  # texts like any other: whether there is such a file is not said
    for text in (there, absent):
        status, body = texts.post({"inputs": [text]})
        assert status == 200
        expected = texts_model(**texts_model.preprocess([text])).softmax(-1)[0].max().item()
        assert body["predictions"][0][0]["probability"] == pytest.approx(expected, abs=1e-5)
    (tmp_path / "a.png").write_bytes(png())
    for path in (str(tmp_path / "a.png"), f"file://{tmp_path}/a.png", "https://example.com/a.png"):
        status, message = images.error({"inputs": [path]})
        assert status == 400 and "the server opens no paths and addresses" in message


def test_requests_that_are_too_large(texts: Client) -> None:
    status, message = texts.error({"inputs": ["a"] * 41})
    assert (status, message) == (413, "the request has 41 inputs, expected at most 40: send several requests")
    for size in (20_001, 300_000, 8_000_000):
        status, message = texts.error({"inputs": ["a" * (size - 16)]})
        assert status == 413 and message.startswith(f"the body has {size:,} bytes, expected at most 20,000 bytes")
    parts = iter([b'{"inputs": ["', *[b"a" * 5000] * 5, b'"]}'])  # chunked: the length is not declared
    status, body, _ = texts.send("POST", "/predict", parts, Content_Type="application/json")
    assert status == 413 and "has more, expected at most" in body["error"]
    started = http.client.HTTPConnection("127.0.0.1", texts.port, timeout=30)
    started.putrequest("POST", "/predict")
    for name, value in (("Content-Length", "9999999999"), ("Expect", "100-continue")):
        started.putheader(name, value)
    started.endheaders()  # curl asks before it sends
    assert started.getresponse().status == 413
    started.close()
    assert texts.app.state.service.held == 0
    assert texts.post({"inputs": TEXTS})[0] == 200


def test_other_addresses_and_methods(texts: Client) -> None:
    for method, path, status in (("GET", "/predict", 405), ("GET", "/docs", 404), ("POST", "/health", 405)):
        found, body, _ = texts.send(method, path)
        assert found == status and "expected POST /predict, GET /health or GET /info" in body["error"]
    assert texts.post({"inputs": ["a"]}, "/embed")[0] == 404


def test_a_client_beyond_its_rate(texts_model: zoo.Model) -> None:
    with serving(Predictions(texts_model), Limits(rate=0.1)) as client:
        found = [client.send("POST", "/predict", b"a", Content_Type="text/plain") for _ in range(6)]
        assert {status for status, _, _ in found[:1]} == {200}
        status, body, headers = next(each for each in found if each[0] != 200)
        assert (
            status == 429
            and headers["Retry-After"] in ("9", "10")
            and "more than 0.1 requests per second" in body["error"]
        )
        assert client.send("GET", "/health")[0] == 200
        large = client.send("POST", "/predict", b"a" * 5_000_000, Content_Type="text/plain")
        assert large[0] == 429  # and not a connection that is reset


def test_the_rate_of_each_client() -> None:
    limit = RateLimit(2.0)
    assert [limit.wait("a", 0.0) for _ in range(3)] == [0, 0, 0.5]
    assert limit.wait("b", 0.0) == 0
    assert limit.wait("a", 0.5) == 0 and limit.wait("a", 0.5) == 0.5
    for i in range(20_000):
        limit.wait(str(i), 1.0 + i)
    assert len(limit._buckets) <= 10_001


class Slow(Predictions):
    """Holds its thread until the test lets it go."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.gate, self.started = threading.Event(), threading.Event()

    def __call__(self, requests: Any) -> list[Any]:
        self.started.set()
        assert self.gate.wait(20)
        return super().__call__(requests)


def test_a_full_queue_and_a_request_that_takes_too_long(texts_model: zoo.Model) -> None:
    slow = Slow(texts_model)
    limits = Limits(max_queue=2, max_inputs=2, timeout=2)
    with serving(slow, limits) as client, concurrent.futures.ThreadPoolExecutor(2) as pool:
        first = pool.submit(client.post, {"inputs": ["a"]})
        assert slow.started.wait(10)
        second = pool.submit(client.post, {"inputs": ["a", "b"]})
        while client.send("GET", "/health")[1]["queued"] < 2:
            pass
        status, body, headers = client.send("POST", "/predict", b"c", Content_Type="text/plain")
        assert status == 503 and int(headers["Retry-After"]) >= 1 and "the queue has no room" in body["error"]
        assert {first.result()[0], second.result()[0]} == {504}
        assert client.send("GET", "/health")[1]["queued"] == 0
        slow.gate.set()
        assert client.post({"inputs": ["a"]})[0] == 200


def test_a_client_that_goes_away_leaves_the_queue(texts_model: zoo.Model) -> None:
    slow = Slow(texts_model)
    with serving(slow) as client, concurrent.futures.ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.post, {"inputs": ["a"]})
        assert slow.started.wait(10)
        connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=30)
        connection.request("POST", "/predict", b"b", {"Content-Type": "text/plain"})
        while not client.send("GET", "/health")[1]["queued"]:
            pass
        connection.close()
        while client.send("GET", "/health")[1]["queued"]:
            pass
        slow.gate.set()
        assert first.result()[0] == 200 and client.app.state.service.held == 0


def test_a_body_that_does_not_come(texts_model: zoo.Model) -> None:
    with serving(Predictions(texts_model), Limits(timeout=0.5)) as client:
        connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=30)
        connection.putrequest("POST", "/predict")
        connection.putheader("Content-Length", "50")
        connection.endheaders(b"{")
        assert connection.getresponse().status == 408
        connection.close()
        connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=30)
        connection.putrequest("POST", "/predict")
        connection.putheader("Content-Length", "50")
        connection.endheaders(b"{")
        connection.close()  # the client is gone
        assert client.send("GET", "/health")[0] == 200


def test_a_failure_inside_has_an_id_and_no_traceback(
    texts_model: zoo.Model, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Predictions(texts_model)
    whole = model.predictor.window

    def window(items: list[Any], **options: Any) -> Any:
        if "boom" in items:
            raise RuntimeError("a secret of the server\x1b[31m")
        return whole(items, **options)

    monkeypatch.setattr(model.predictor, "window", window)
    with serving(model) as client, concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(client.post, [{"inputs": ["boom" if i == 3 else "a"]} for i in range(8)]))
    assert [status for status, _ in found] == [200, 200, 200, 500, 200, 200, 200, 200]
    body = found[3][1]
    assert set(body) == {"error", "id"} and body["id"] in body["error"] and "secret" not in str(body)
    log = capfd.readouterr().err
    assert body["id"] in log and "RuntimeError: a secret of the server\\x1b[31m" in log


def test_memory_for_bodies_is_limited(texts_model: zoo.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Limits, "max_held", 100)
    with serving(Predictions(texts_model)) as client:
        assert client.post({"inputs": ["a"]})[0] == 200
        assert client.error({"inputs": ["a" * 200]})[0] == 503
        assert client.app.state.service.held == 0


def test_limits_are_checked() -> None:
    for values in ({"max_body": 0}, {"timeout": -1}, {"rate": 0}, {"max_queue": 5}, {"max_seconds": float("nan")}):
        with pytest.raises(ValueError, match="expected"):
            Limits(**values)


def test_models_that_do_not_predict_are_refused(texts_model: zoo.Model, images_model: zoo.Model) -> None:
    with pytest.raises(ValueError, match="needs a classifier"):
        Predictions(zoo.create_model("vit_cifar_tiny", head=None, depth=1))
    with pytest.raises(ValueError, match="is for texts"):
        Predictions(images_model, truncation=True)
    assert dataclasses.asdict(Limits())["timeout"] == 30


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def test_clouds_graphs_and_alignments_are_the_bytes_of_their_files() -> None:
    points = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    clouds = zoo.create_model("set_transformer_tiny", num_classes=3, width=16, depth=1, heads=2, seed=0)
    graphs = zoo.create_model("gat_small", head="token", in_features=3, num_classes=2, seed=0)
    families = zoo.create_model("evoformer_nano", depth=1, seed=0)
    xyz = "\n".join(" ".join(map(str, row)) for row in points.tolist()).encode()
    cases = [
        (clouds, [npz(points=points), xyz], zoo.predict(clouds, points)),
        (graphs, [npz(x=points, edge_index=[[0], [1]])], zoo.predict(graphs, zoo.Graph(points, [[0], [1]]))),
        (families, [b">q\nMKTAYIAKQR\n>b\nMK-AYIAKQR\n"], None),
    ]
    for model, files, expected in cases:
        with serving(Predictions(model)) as client:
            status, body = client.post({"inputs": [base64.b64encode(file).decode() for file in files]})
            assert status == 200 and len(body["predictions"]) == len(files), body
            for found in body["predictions"] if expected else ():
                amounts = [one["probability"] for one in found]
                assert amounts == pytest.approx([one[-1] for one in expected], abs=1e-5)
            status, error = client.error({"inputs": [base64.b64encode(b"PK?").decode()]})
            assert status == 422 and error.startswith("inputs[0]: ") and "/tmp" not in error
            assert " file in base64" in client.error({"inputs": ["cloud.ply"]})[1]
