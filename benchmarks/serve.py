"""`zoo serve` on loopback: 50 clients that send one text of 16 tokens after the other, with and without batching.

    python benchmarks/serve.py [model=bert_small] [requests=2000] [clients=50] [tokens=16] [rounds=3]

A classifier with random weights is served by the command itself, in a process of its own, once one request at a time
(--batch-window 0 --max-batch-size 1) and once as it is by default; each round loads one after the other. The clients
are threads of this process that keep their connection. Recorded are seconds for all requests on the wall clock,
requests per second, the 50th and 99th percentile of the time to an answer, and the number of requests without one.
Targets: none lost, batching >= 1.3x. A single client is measured as well: it must not wait for others.
"""

import http.client
import json
import os
import random
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from _measure import Table, options, record

ONE_BY_ONE, BATCHED = "one by one", "batched"
FLAGS = {ONE_BY_ONE: ("--batch-window", "0", "--max-batch-size", "1"), BATCHED: ()}
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [a + b for a in "bdfgklmnprstvz" for b in ("ai", "er", "il", "on", "un")]


def save_model(folder: Path, name: str) -> None:
    """A classifier with random weights and a tokenizer of whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    import zoo
    from zoo.preprocessing.text import TextProcessor

    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*SPECIAL, *WORDS])}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    model = zoo.create_model(name, head="classify", num_classes=2, seed=0)
    special = dict(zip(("pad", "unk", "cls", "sep", "mask"), SPECIAL))
    model.preprocess = TextProcessor(tokenizer=backend.to_str(), special=special, max_length=512, types=True)
    model.labels = ["negative", "positive"]
    zoo.save(model, folder)


@contextmanager
def served(folder: Path, flags: Sequence[str], threads: int) -> Any:
    """The port of a server in another process, which ends with status 0."""
    command = [sys.executable, "-m", "zoo.cli.main", "serve", str(folder), "--port", "0", *flags]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    try:
        found = re.search(r"http://127\.0\.0\.1:(\d+)", process.stdout.readline())
        if found is None:
            raise SystemExit("the server did not start")
        yield int(found[1])
    finally:
        process.terminate()
        if process.wait(60):
            raise SystemExit(f"the server ended with status {process.returncode}")


@dataclass
class Load:
    """What clients measured: seconds of all requests together, of each, and how many had no answer."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    lost: int = 0

    def percentile(self, share: float) -> float:
        """Milliseconds within which this share of the requests had an answer."""
        ordered = sorted(self.latencies) or [0.0]
        return 1e3 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def load_test(port: int, clients: int, requests: int, tokens: int) -> Load:
    """Send texts from `clients` threads, each one request after the other."""
    made, lock, ready = Load(), threading.Lock(), threading.Barrier(clients + 1)

    def client(number: int, count: int) -> None:
        chosen, latencies, lost = random.Random(number), [], 0
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.connect()
        bodies = [
            json.dumps({"inputs": [" ".join(chosen.choices(WORDS, k=tokens - 2))], "top_k": 1}) for _ in range(count)
        ]
        ready.wait()
        for body in bodies:
            started = time.perf_counter()
            try:
                connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
                response = connection.getresponse()
                answered = json.loads(response.read())
                lost += response.status != 200 or len(answered["predictions"]) != 1
            except (OSError, http.client.HTTPException, ValueError):
                connection.close()
                lost += 1
            latencies.append(time.perf_counter() - started)
        connection.close()
        with lock:
            made.latencies += latencies
            made.lost += lost

    counts = [requests // clients + (i < requests % clients) for i in range(clients)]
    threads = [threading.Thread(target=client, args=(i, count)) for i, count in enumerate(counts)]
    for thread in threads:
        thread.start()
    ready.wait()
    started = time.perf_counter()
    for thread in threads:
        thread.join()
    made.seconds = time.perf_counter() - started
    return made


def main() -> None:
    o = options(
        dict(model="bert_tiny", requests=60, clients=6, rounds=1),
        model="bert_small", requests=2000, clients=50, tokens=16, rounds=3, threads=os.cpu_count() or 1,
    )  # fmt: skip
    loads: dict[tuple[str, int], list[Load]] = {}
    with TemporaryDirectory() as folder:
        save_model(Path(folder) / "model", o.model)
        model = Path(folder) / "model"
        with (
            served(model, FLAGS[ONE_BY_ONE], o.threads) as one_by_one,
            served(model, FLAGS[BATCHED], o.threads) as batched,
        ):
            ports = {ONE_BY_ONE: one_by_one, BATCHED: batched}
            for round_ in range(-1, o.rounds):
                for clients in (o.clients, 1):
                    requests = o.requests if clients > 1 else max(20, o.requests // 10)
                    for name, port in ports.items():
                        made = load_test(port, clients, requests if round_ >= 0 else 2 * clients, o.tokens)
                        if round_ >= 0:
                            loads.setdefault((name, clients), []).append(made)
    for clients in (o.clients, 1):
        report({name: loads[name, clients] for name in FLAGS}, clients, o)


def report(loads: dict[str, list[Load]], clients: int, o: Any) -> None:
    """Print and record the table of a number of clients."""
    count = len(next(iter(loads.values()))[0].latencies)
    title = f"{o.model}, texts of {o.tokens} tokens, {clients} client{'s' * (clients > 1)}"
    table = Table(title, "wall", {name: [load.seconds for load in each] for name, each in loads.items()}, count)
    print(table)
    values: dict[str, float] = {}
    for name, each in loads.items():
        values[f"{name} p50"] = statistics.median(load.percentile(0.5) for load in each)
        values[f"{name} p99"] = statistics.median(load.percentile(0.99) for load in each)
        values[f"{name} lost"] = sum(load.lost for load in each)
        print(f"{name}: p50 {values[f'{name} p50']:.1f} ms, p99 {values[f'{name} p99']:.1f} ms, "
              f"{values[f'{name} lost']} lost of {count * len(each)}")  # fmt: skip
    record(title, table.seconds, "wall")
    record(f"{title}, milliseconds and requests lost", values, "wall")


if __name__ == "__main__":
    main()
