"""The command `zoo serve`. Torch is imported when it runs."""

import argparse
from collections.abc import Callable
from typing import Any


def add_command(command: Callable[..., Any]) -> None:
    """The parser; `command(name, run, about, more)` makes one."""
    new = command("serve", run_serve, "Serve the predictions or embeddings of a model over HTTP.",
                  "JSON in, JSON out: POST /predict or /embed, GET /health, /info. Needs the extra serve.")  # fmt: skip
    new.add_argument("source", metavar="MODEL", help="a model or run folder, or a hub repository")
    new.add_argument("--host", default="127.0.0.1", help="address of the server (127.0.0.1: for this machine alone)")
    new.add_argument("--port", type=int, default=8000, help="port (8000); 0 takes a free one")
    model = new.add_argument_group("model")
    model.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1 ...")
    model.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="default: that of the file")
    model.add_argument("--optimize", action="store_true", help="use the copy that zoo.optimize makes")
    model.add_argument(
        "--truncation",
        action=argparse.BooleanOptionalAction,
        help="truncate texts that are too long, or refuse them (default: as the model was trained)",
    )
    model.add_argument("--resample", action="store_true", help="resample audio to the model's sampling rate")
    batches = new.add_argument_group("batches")
    batches.add_argument("--batch-window", type=float, default=5.0, metavar="MS",
                         help="milliseconds that a request may wait for others (5)")  # fmt: skip
    batches.add_argument("--max-batch-size", type=int, default=32, metavar="N", help="inputs in a batch (32)")
    limits = new.add_argument_group("limits")
    limits.add_argument("--max-body", type=float, metavar="MB", help="size of a request (texts: 1, others: 16)")
    limits.add_argument("--max-inputs", type=int, default=256, metavar="N", help="inputs of a request (256)")
    limits.add_argument("--max-pixels", type=float, default=50.0, metavar="MP", help="megapixels of an image (50)")
    limits.add_argument("--max-seconds", type=float, default=600.0, metavar="S", help="length of an audio clip (600)")
    limits.add_argument("--max-queue", type=int, default=1000, metavar="N", help="inputs that wait (1,000)")
    limits.add_argument("--rate", type=float, metavar="R", help="requests per second of one client (no limit)")
    limits.add_argument("--timeout", type=float, default=30.0, metavar="S", help="seconds of a request (30)")


def run_serve(args: argparse.Namespace) -> int:
    from zoo.cli.serve_run import run

    return run(args)
