"""`zoo serve` as a process: it starts, answers, ends when it is interrupted, and refuses what it cannot serve."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from text_peers import text_folder

import zoo
from zoo.cli import serve_run
from zoo.cli.main import main, make_parser
from zoo.preprocessing.image import ImageProcessor


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """texts/: a classifier of texts; images/: one of images; vectors/: embeddings of texts."""
    folder = tmp_path_factory.mktemp("saved")
    text_folder("BertForSequenceClassification", folder / "bert")
    model = zoo.load(folder / "bert")
    model.labels = ["bad", "fair", "good"]
    zoo.save(model, folder / "texts")
    text_folder("sentence-transformers", folder / "vectors")
    images = zoo.create_model("vit_cifar_tiny", seed=0, depth=1, num_classes=3)
    images.preprocess = ImageProcessor(size=(32, 32))
    zoo.save(images, folder / "images")
    return folder


@contextmanager
def process(*words: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server, and its address."""
    command = [sys.executable, "-m", "zoo.cli.main", "serve", *map(str, words), "--port", "0"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert running.stdout is not None and running.stderr is not None
    try:
        line = running.stdout.readline()
        found = re.search(r"http://[\w.:\[\]]+:\d+", line)
        assert found, line + running.stderr.read()
        yield running, found[0]
    finally:
        running.kill()
        running.communicate()


def ended(running: subprocess.Popen[str]) -> None:
    """It has ended, without an error."""
    out, err = running.communicate(timeout=60)
    assert running.returncode == 0 and out == "stopped\n" and "Traceback" not in err


def post(address: str, request: Any, path: str = "/predict") -> Any:
    headers = {"Content-Type": "application/json"}
    sent = urllib.request.Request(address + path, json.dumps(request).encode(), headers)
    with urllib.request.urlopen(sent, timeout=60) as response:
        return json.loads(response.read())


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_server_answers_also_what_is_queued_when_it_is_stopped(saved: Path) -> None:
    """Stopped by SIGTERM; the next test ends one by Ctrl-C."""
    requests = [{"inputs": ["the soup was cold and warm"] * 200} for _ in range(6)]
    options = ("--optimize", "--dtype", "float32", "--max-batch-size", "1")
    with process(saved / "texts", *options) as (running, address):
        with urllib.request.urlopen(f"{address}/health", timeout=60) as response:
            assert json.loads(response.read())["status"] == "ok"
        expected = zoo.predict(zoo.load(saved / "texts"), "the soup was cold", 1)[0]
        first = post(address, {"inputs": ["the soup was cold"], "top_k": 1})["predictions"][0][0]
        assert first["label"] == expected[0] and first["probability"] == pytest.approx(expected[1], abs=1e-4)
        found: list[Any] = []
        threads = [threading.Thread(target=lambda r=r: found.append(post(address, r))) for r in requests]
        for thread in threads:
            thread.start()
        # until all have been received: one is computed while others wait
        while len(found) < 6 and any(thread.is_alive() for thread in threads):
            with urllib.request.urlopen(f"{address}/health", timeout=60) as response:
                queued = json.loads(response.read())["queued"]
            if queued and queued + 200 + 200 * len(found) >= 1200:
                break
        running.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(60)
        assert [len(each["predictions"]) for each in found] == [200] * 6
        ended(running)


def test_embeddings_and_limits_of_the_command(saved: Path) -> None:
    try:
        serve_run.bound("::1", 0).close()
        host = "::1"
    except ValueError:  # a machine without IPv6
        host = "localhost"
    with process(saved / "vectors", "--host", host) as (running, address):
        assert len(post(address, {"inputs": ["the soup", "a place"]}, "/embed")["embeddings"]) == 2
        with urllib.request.urlopen(f"{address}/info", timeout=60) as response:
            assert json.loads(response.read())["limits"]["max_body"] == 1 << 20
        if os.name == "posix":
            running.send_signal(signal.SIGINT)
            ended(running)


@pytest.mark.parametrize(("words", "message"), [
    (["texts", "--port", "70000"], "--port 70000: expected a number from 0 to 65535"),
    (["texts", "--batch-window", "-1"], "--batch-window -1: expected milliseconds, 0 or more"),
    (["texts", "--max-batch-size", "0"], "--max-batch-size 0: expected at least 1"),
    (["texts", "--max-body", "0"], "--max-body 0: expected a number above 0"),
    (["texts", "--rate", "nan"], "--rate nan: expected a number above 0"),
    (["texts", "--max-queue", "5"], "--max-queue 5, --max-inputs 256: expected room for a request"),
    (["texts", "--resample"], "--resample is for models of audio"),
    (["images", "--truncation"], "truncation=True is for texts"),
    (["vectors", "--truncation"], "--truncation is for predictions"),
    (["texts", "--host", "192.0.2.1"], "192.0.2.1, port 8000, cannot be used"),
    (["texts", "--device", "nowhere"], "nowhere"),
    (["absent"], "absent"),
])  # fmt: skip
def test_what_cannot_be_served(
    saved: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    assert main(["serve", str(saved / words[0]), *words[1:]]) == 2
    assert message in capsys.readouterr().err


def test_a_port_in_use(saved: Path) -> None:
    with serve_run.bound("127.0.0.1", 0) as taken:
        taken.listen()
        assert taken.proto == socket.IPPROTO_TCP  # or asyncio delays small responses by 40 ms
        with pytest.raises(ValueError, match=r"127.0.0.1, port \d+, cannot be used: .* --port"):
            serve_run.bound("127.0.0.1", taken.getsockname()[1])


def test_large_images_are_refused_by_their_header(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    serve_run.limit_pixels(0.5)
    processor = ImageProcessor(size=(32, 32))
    Image.new("L", (500, 900)).save(tmp_path / "fine.png")
    Image.new("L", (1000, 501)).save(tmp_path / "large.png")
    processor((tmp_path / "fine.png").read_bytes())
    with pytest.raises(ValueError, match="too large to be decoded safely"):
        processor((tmp_path / "large.png").read_bytes())


def test_others_than_this_machine_are_warned_about(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = make_parser().parse_args(["serve", "x", "--host", "0.0.0.0"])
    model = serve_run.service_of(zoo.load(saved / "texts"), args)
    with serve_run.bound("0.0.0.0", 0) as address:
        serve_run.announce(args, model, address)
    said = capsys.readouterr()
    assert "POST texts to /predict" in said.out and "no TLS and no password" in said.err


@pytest.mark.parametrize(("name", "modules"), [
    ("starlette.applications", ["zoo.inference.server", "zoo.cli.serve_run"]), ("uvicorn", ["zoo.cli.serve_run"]),
])  # fmt: skip
def test_without_the_extra(
    saved: Path, name: str, modules: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """modules: ours that import it, and so each other."""
    monkeypatch.setitem(sys.modules, name, None)
    for module in modules:
        monkeypatch.delitem(sys.modules, module)
    assert main(["serve", str(saved / "texts")]) == 2
    assert "pip install 'attention-zoo[serve]'" in capsys.readouterr().err
