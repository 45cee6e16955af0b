"""Exact search over a memory-mapped file: the ten best of 1,000,000 vectors of width 512, with a warm page cache.

    python benchmarks/search.py [rows=1000000] [width=512] [threads=2] [rounds=7] [dtypes=float32,float16] [faiss=yes]
                                [folder=...]

Targets, on 2 cores: <= 0.15 s for one query, <= 0.4 s for 16. Wall time with all threads, so the machine should be
idle; the CPU time of all threads is reported as well. Results are compared with those in float64.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from _measure import machine, options, record

from zoo.retrieval.embeddings_file import DTYPES, Embeddings, Item
from zoo.retrieval.index import UNIT, Index


def random_embeddings(folder: Path, rows: int, width: int, dtype: str) -> Embeddings:
    """A file of random unit vectors, created if it does not exist."""
    file = folder / f"{rows}x{width}-{dtype}.safetensors"
    if not file.exists():
        generator = torch.Generator().manual_seed(0)
        vectors = torch.empty(rows, width, dtype=DTYPES[dtype])
        for part in vectors.split(50_000):
            part.copy_(torch.nn.functional.normalize(torch.randn(len(part), width, generator=generator), dim=1))
        Embeddings(vectors, [Item("text", str(i)) for i in range(rows)], "random").save(file)
    return Embeddings.open(file)


def timed(call: Callable[[], object], rounds: int) -> tuple[list[float], list[float]]:
    """(wall, CPU) seconds of each round, after a warm-up round."""
    walls, cpus = [], []
    for i in range(rounds + 1):
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        if i:
            walls.append(time.perf_counter() - wall)
            cpus.append(time.process_time() - cpu)
    return walls, cpus


def best(vectors: torch.Tensor, query: torch.Tensor, k: int) -> list[int]:
    """The k best rows, computed in float64."""
    scores = torch.cat([(part.double() * query.double()).sum(1) for part in vectors.split(20_000)])
    return scores.sort(descending=True, stable=True).indices[:k].tolist()


def main() -> None:
    smoke = dict(rows=2000, rounds=1, faiss="no")
    o = options(smoke, rows=1_000_000, width=512, threads=2, rounds=7, dtypes="float32,float16", faiss="yes", folder="")
    torch.set_num_threads(o.threads)
    queries = torch.nn.functional.normalize(torch.randn(16, o.width, generator=torch.Generator().manual_seed(1)), dim=1)
    print(f"\n{o.rows:,} vectors of width {o.width}, the ten best, {o.threads} threads")
    print("| | queries | wall ms, min / median | CPU ms, min | equals float64 |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        for dtype in o.dtypes.split(","):
            embeddings = random_embeddings(Path(o.folder or temporary), o.rows, o.width, dtype)
            for engine in ("exact", "faiss") if o.faiss == "yes" and dtype == "float32" else ("exact",):
                index = Index(embeddings.vectors, longest=UNIT, engine=engine)  # type: ignore[arg-type]
                for count in (1, 16):
                    batch = queries[:count]
                    walls, cpus = timed(lambda index=index, batch=batch: index.top(batch, 10), o.rounds)
                    correct = index.top(batch[:1], 10)[1][0] == best(embeddings.vectors, batch[0], 10)
                    least, median, cpu = (1e3 * s for s in (min(walls), statistics.median(walls), min(cpus)))
                    row = f"{dtype}, {engine} | {count} | {least:.0f} / {median:.0f} | {cpu:.0f} | {correct}"
                    print(f"| {row} |", flush=True)
                    title = f"search in {o.rows} rows of width {o.width}, {dtype}, {engine}, {count} queries"
                    record(title, {"wall": min(walls), "cpu": min(cpus)}, "wall")
    print(machine())


if __name__ == "__main__":
    main()
