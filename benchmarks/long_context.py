"""Time and memory of language models against length, for every attention kind and mixer, with fitted exponents.

    python benchmarks/long_context.py [lengths=512,1024,...,131072] [kinds=all] [width=128] [depth=2] [heads=4]
        [seconds=20] [what=forward,backward,token] [out=.] [name=long_context]
    python benchmarks/long_context.py task=document [tokens=100000] [kinds=local,linear] [window=512]

For each kind in all layers of a small GPT: CPU seconds of a forward pass, of a forward and a backward pass, and of one
more token after a prompt of that length, with the peak of resident memory above that before, each length in a process
of its own. Quadratic kinds go to 8,192 tokens, additive to 2,048, linear kinds and all mixers to the end (the growth is
that of `zoo.attention_kinds`); a kind stops at the first length at which a pass takes longer than `seconds`. Exponents
are fitted to the longest half of the lengths. Prints tables, and writes `name` with .yaml and .png into `out`, after
each kind; values that a file of this name has from before, of other kinds, lengths or passes, are kept.

task=document: one text of `tokens` bytes, of tinyshakespeare in ZOO_DATA_DIR, in one forward pass through a GPT with
each of the kinds, with the loss of untrained weights, the time and the peak of memory.
"""

import math
import os
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import yaml
from _measure import machine, options, peak_bytes, record
from torch.nn import functional as F

import zoo
from zoo.nn.registry import BUILT_IN, BUILT_IN_MIXERS

LIMITS = {"N²": 8192, "N": 131072, "N log N": 131072}
ADDITIVE = 2048  # time and memory N² times the width
WHAT = {"forward": "forward", "backward": "forward and backward", "token": "one token"}
Results = dict[str, dict[str, dict[int, tuple[float, int]]]]  # {kind: {pass: {length: (seconds, bytes)}}}


def gpt(kind: Any, argument: str, length: int, o: SimpleNamespace) -> Any:
    sizes = dict(width=o.width, depth=o.depth, heads=o.heads, vocab_size=256, max_length=length + 8)
    return zoo.create_model("gpt_nano", seed=0, **sizes, **{argument: kind})


def timed(call: Callable[[], Any]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def measure(kind: str, argument: str, length: int, what: str, o: SimpleNamespace) -> tuple[float, int]:
    """(CPU seconds, peak of resident bytes above those before), in a process of its own."""
    torch.set_num_threads(1)
    model, ids = gpt(kind, argument, length, o).eval(), torch.arange(length)[None] % 256
    with torch.no_grad():
        model(input_ids=ids[:, :64])  # what is loaded and found once
    seconds: list[float] = []

    def run() -> None:
        if what == "forward and backward":
            seconds.append(timed(lambda: model.train()(input_ids=ids).logsumexp(-1).sum().backward()))
            return
        with torch.no_grad():
            if what == "forward":
                seconds.append(timed(lambda: model(input_ids=ids)))
                return
            state = model.new_state(1, length + 8)
            for part in ids.split(4096, 1):  # a long prompt is read in parts
                model.decode(part, state)
            seconds.extend(timed(lambda: model.decode(ids[:, :1], state)) for _ in range(5))

    peak = peak_bytes(run)
    return min(seconds), peak


def child(queue: Any, *args: Any) -> None:
    try:
        queue.put(measure(*args))
    except Exception as error:  # a kind that fails, as for lack of memory, does not end the others
        queue.put(str(error).split("\n")[0])


def alone(*args: Any) -> tuple[float, int] | str:
    """`measure` in a new process, whose peak of memory is its own; or why it failed."""
    context = get_context("forkserver")  # torch is loaded once, and no process has the peak of another one
    context.set_forkserver_preload(["torch", "zoo.models.gpt2.model", "zoo.nn.mixers"])
    queue = context.Queue()
    process = context.Process(target=child, args=(queue, *args))
    process.start()
    while process.is_alive() and queue.empty():
        process.join(0.1)
    found: tuple[float, int] | str = "ended without a result" if queue.empty() and process.exitcode else queue.get()
    process.join()
    return found


def exponent(points: dict[int, tuple[float, int]], part: int) -> float:
    """The slope of the logarithms over the longest half of the lengths."""
    kept = sorted(points)[len(points) // 2 :] if len(points) > 3 else sorted(points)
    pairs = [(math.log(n), math.log(points[n][part])) for n in kept if points[n][part] > 0]
    if len(pairs) < 2:
        return math.nan
    x, y = (sum(values) / len(pairs) for values in zip(*pairs, strict=True))
    return sum((a - x) * (b - y) for a, b in pairs) / sum((a - x) ** 2 for a, _ in pairs)


def curves(o: SimpleNamespace, results: Results) -> Results:
    """Adds to `results`; what fails is printed and left out."""
    lengths = [int(n) for n in o.lengths.split(",")]
    for row in zoo.attention_kinds(*chosen(o)):
        limit = ADDITIVE if row.name == "additive" else LIMITS[row.time]
        parts = results.setdefault(row.name, {what: {} for what in WHAT.values()})
        for what in (WHAT[name] for name in o.what.split(",")):
            for length in (n for n in lengths if n <= limit):
                found = alone(row.name, row.argument, length, what, o)
                if isinstance(found, str):
                    print(f"{row.name}, {what}, {length} tokens: {found}")
                    break
                parts[what][length] = found
                if found[0] > o.seconds:
                    break
            print(row.name, what, parts[what], flush=True)
        if o.out:
            write(results, o)
    return results


def write(results: Results, o: SimpleNamespace) -> None:
    file = Path(o.out) / f"{o.name}.yaml"
    kept = {
        k: {w: {n: list(v) for n, v in sorted(p.items())} for w, p in parts.items()} for k, parts in results.items()
    }
    file.write_text(yaml.safe_dump({"machine": machine(), "options": vars(o), "kinds": kept}, sort_keys=False))
    plot(results, file.with_suffix(".png"))


def before(o: SimpleNamespace) -> Results:
    """What the file of this name has from an earlier run."""
    file = Path(o.out) / f"{o.name}.yaml"
    kinds = yaml.safe_load(file.read_text())["kinds"] if o.out and file.exists() else {}
    return {k: {w: {n: tuple(v) for n, v in p.items()} for w, p in parts.items()} for k, parts in kinds.items()}


def chosen(o: SimpleNamespace) -> list[str]:
    return [*BUILT_IN, *BUILT_IN_MIXERS] if o.kinds == "all" else o.kinds.split(",")


def print_tables(results: dict[str, Any], lengths: list[int]) -> None:
    for part, unit in enumerate(("CPU seconds", "peak MB")):
        for what in WHAT.values():
            print(f"\n{unit}, {what}\n\n| kind | {' | '.join(f'{n:,}' for n in lengths)} | exponent |")
            print("|" + "---|" * (len(lengths) + 2))
            for kind, parts in results.items():
                points = parts[what]
                cells = []
                for n in lengths:
                    value = points[n][part] if n in points else None
                    cells.append("" if value is None else f"{value:.3g}" if not part else f"{value / 2**20:,.0f}")
                print(f"| {kind} | {' | '.join(cells)} | {exponent(points, part):.2f} |")


def plot(results: dict[str, Any], file: Path) -> None:
    """Time and memory against length, on logarithmic axes."""
    from matplotlib.figure import Figure

    shown = [what for what in WHAT.values() if any(len(parts[what]) > 1 for parts in results.values())]
    if not shown:
        return
    figure = Figure(figsize=(2 + 4 * len(shown), 7), layout="constrained")
    grid = figure.subplots(2, len(shown), sharex=True, squeeze=False)
    for part, unit in enumerate(("CPU seconds", "peak MB")):
        for axes, what in zip(grid[part], shown, strict=True):
            for number, (kind, parts) in enumerate(results.items()):
                points = parts[what]
                values = [points[n][part] / (2**20 if part else 1) for n in sorted(points)]
                style = ("-", "--", ":")[number // 10 % 3]
                axes.plot(sorted(points), values, style, marker=".", color=f"C{number % 10}", label=kind)
            axes.set(xscale="log", yscale="log", title=f"{what}, {unit}", xlabel="tokens" if part else "")
            axes.grid(alpha=0.3)
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8)
    figure.savefig(file, dpi=130)


def read(kind: str, text: bytes, o: SimpleNamespace) -> tuple[float, float, int]:
    """(loss, CPU seconds, peak bytes) of one pass through a document."""
    torch.set_num_threads(1)
    own: Any = {"kind": kind, "window": o.window} if kind in ("local", "longformer") else kind
    ids = torch.tensor(list(text))[None]
    model = gpt(own, "mixer" if kind in BUILT_IN_MIXERS else "attention", ids.shape[1], o).eval()
    found: list[float] = []

    @torch.no_grad()
    def run() -> None:
        start = time.process_time()
        loss = F.cross_entropy(model(input_ids=ids)[0, :-1], ids[0, 1:]).item()
        found.extend((loss, time.process_time() - start))

    peak = peak_bytes(run)
    loss, seconds = found
    return loss, seconds, peak


def document(o: SimpleNamespace) -> None:
    text = (Path(os.environ.get("ZOO_DATA_DIR", ".")) / "tinyshakespeare" / "input.txt").read_bytes()[: o.tokens]
    print(f"| kind | tokens | loss | CPU seconds | peak MB |\n{'|---' * 5}|")
    for kind in ["local", "linear"] if o.kinds == "all" else o.kinds.split(","):
        with get_context("spawn").Pool(1) as pool:
            loss, seconds, peak = pool.apply(read, (kind, text, o))
        print(f"| {kind} | {len(text):,} | {loss:.2f} | {seconds:.1f} | {peak / 2**20:,.0f} |", flush=True)
        record(f"document, {kind}", {"seconds": seconds, "MB": peak / 2**20})


def main() -> None:
    lengths = ",".join(str(2**power) for power in range(9, 18))
    smoke = dict(lengths="64,128", kinds="linear", width=16, depth=1, heads=2, out="", tokens=2000)
    o = options(smoke, task="curves", lengths=lengths, kinds="all", width=128, depth=2, heads=4, seconds=20.0,
                tokens=100000, window=512, what=",".join(WHAT), out=".", name="long_context")  # fmt: skip
    if not set(o.what.split(",")) <= set(WHAT):
        raise SystemExit(f"what={o.what}: expected some of {', '.join(WHAT)}")
    if o.task not in ("curves", "document"):
        raise SystemExit(f"task={o.task}: expected curves or document")
    if o.task == "document":
        return document(o)
    results = curves(o, before(o))
    print_tables(results, sorted({n for parts in results.values() for points in parts.values() for n in points}))
    print(f"CPU time of one thread; {machine()}")
    for what in WHAT.values():
        record(f"exponent, {what}", {kind: exponent(parts[what], 0) for kind, parts in results.items()})
    if o.out:
        print(f"written: {Path(o.out) / o.name}.yaml and .png")


if __name__ == "__main__":
    main()
