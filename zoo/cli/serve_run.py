"""What `zoo serve` does: load the model, serve it until it is interrupted, and end when all is answered."""

import argparse
import math
import os
import signal
import socket
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from zoo.checkpoints.load import load
from zoo.inference.optimize import optimize
from zoo.inference.predict import writing_of
from zoo.inference.server import create_app
from zoo.inference.server_models import Embeddings, Predictions
from zoo.inference.server_requests import MIB, Limits
from zoo.inference.text_generation import writes_texts
from zoo.models.base import Model
from zoo.preprocessing.modality import MODALITIES, of_model
from zoo.retrieval.encode import Encoder
from zoo.utils.escape import say

try:
    import uvicorn
except ImportError as error:
    raise ImportError("serving a model needs starlette and uvicorn: pip install 'attention-zoo[serve]'") from error

LOOPBACK = ("127.0.0.1", "localhost", "::1")
BACKLOG = 2048  # connections that wait to be accepted
KEEP_ALIVE = 75  # seconds that an idle connection stays open: longer than the 60 of common proxies


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    if args.batch_window < 0 or not math.isfinite(args.batch_window):
        raise ValueError(f"--batch-window {args.batch_window:g}: expected milliseconds, 0 or more")
    if args.max_batch_size < 1:
        raise ValueError(f"--max-batch-size {args.max_batch_size}: expected at least 1")
    if not 0 <= args.port < 1 << 16:
        raise ValueError(f"--port {args.port}: expected a number from 0 to 65535")
    limits = limits_of(args)
    model = service_of(load_model(args), args)
    if all(MODALITIES[each].strings for each in model.modalities) and args.max_body is None:
        limits = replace(limits, max_body=MIB)
    limit_pixels(args.max_pixels)
    app = create_app(model, limits, window=args.batch_window / 1000, max_batch_size=args.max_batch_size)
    with bound(args.host, args.port) as address:
        config = uvicorn.Config(
            app,
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=math.ceil(limits.timeout) + 5,
            ws="none",
        )
        server = Server(config)
        server.announcement = partial(announce, args, model, address)
        for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises them again at its end, for the former handlers
            signal.signal(number, lambda *_: setattr(server, "should_exit", True))
        server.run([address])
    say("stopped")
    return 0 if server.started else 1


class Server(uvicorn.Server):
    """A server that says when it is ready. announcement: is called then."""

    announcement: Callable[[], None]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.announcement()


def limits_of(args: argparse.Namespace) -> Limits:
    """The limits that the options give."""
    for name in ("max_body", "max_inputs", "max_pixels", "max_seconds", "max_queue", "rate", "timeout"):
        value = getattr(args, name)
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise ValueError(f"--{name.replace('_', '-')} {value:g}: expected a number above 0")
    if args.max_queue < args.max_inputs:
        raise ValueError(f"--max-queue {args.max_queue}, --max-inputs {args.max_inputs}: expected room for a request")
    return Limits(
        max_body=round((args.max_body or 16) * MIB),
        max_inputs=args.max_inputs,
        max_seconds=args.max_seconds,
        max_queue=args.max_queue,
        rate=args.rate,
        timeout=args.timeout,
    )


def load_model(args: argparse.Namespace) -> Model:
    """The model with the options of the command."""
    dtype = None if args.dtype is None else getattr(torch, args.dtype)
    model = load(args.source, device=args.device, dtype=None if args.optimize else dtype)
    if args.resample:
        if [record.name for record in of_model(model)] != ["audio"]:
            raise ValueError(f"--resample is for models of audio, and the model takes {', '.join(model.inputs)}")
        model.preprocess = replace(model.preprocess, resample=True)
    return optimize(model, dtype=dtype) if args.optimize else model


def service_of(model: Model, args: argparse.Namespace) -> Predictions | Embeddings:
    """Predictions, or the embeddings of a model that has them. Raises ValueError for one that has neither."""
    embeds = any(hasattr(model, f"encode_{name}") for name in MODALITIES)
    if model.config.head == "lm" and not embeds and not writes_texts(model):
        raise ValueError(f"zoo serve answers with predictions or embeddings, and the model writes "
                         f"texts: to {writing_of(model)}")  # fmt: skip
    if embeds or model.config.parts or model.config.head == "pool":
        if args.truncation is not None:
            raise ValueError("--truncation is for predictions, and the model has embeddings")
        encoder = Encoder(model)
        return Embeddings(
            model, encoder.modalities, partial(encoder.vectors, batch_size=args.max_batch_size), args.max_batch_size
        )
    return Predictions(model, args.truncation, args.max_batch_size)


def limit_pixels(megapixels: float) -> None:
    """Refuse larger images, by their header; Pillow's own limit is one of the whole process."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = round(megapixels * 1e6 / 2)  # Pillow warns from here on, and refuses twice as many
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)


def bound(host: str, port: int) -> socket.socket:
    """A socket at an address. Raises ValueError for one that is in use or not of this machine."""
    server = None
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
        family, kind, protocol, _, address = found[0]
        # With the protocol: asyncio sends small responses at once (TCP_NODELAY) only where it is given.
        server = socket.socket(family, kind, protocol)
        if os.name == "posix":
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(address)
        return server
    except OSError as error:
        if server is not None:
            server.close()
        raise ValueError(
            f"{host}, port {port}, cannot be used: {error.strerror or error}. Choose another --port (0 takes a free "
            "one), or stop what is using this one"
        ) from None


def announce(args: argparse.Namespace, model: Predictions | Embeddings, bound_to: socket.socket) -> None:
    """Say where the server is, and who can reach it."""
    host, port = bound_to.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    path = "/predict" if isinstance(model, Predictions) else "/embed"
    what = " and ".join(MODALITIES[name].plural for name in model.modalities)
    say(f"{args.source} is served at {address} (POST {what} to {path}, GET /info describes it; Ctrl-C stops)")
    if args.host not in LOOPBACK:
        say(
            "there is no TLS and no password: everybody who can reach this address can use the model, so put it "
            "behind a proxy",
            file=sys.stderr,
        )
    sys.stdout.flush()
