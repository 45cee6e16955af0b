"""What attention removed: BLEU and loss by length of the source, for one vector, additive attention, the dot product
and the Transformer, at equal parameters and equal time.

    python benchmarks/why_attention.py [task=multi30k] [minutes=6] [seeds=3] [parameters=4000000] [vocab_size=4000]
        [models=vector,additive,dot,transformer] [batch_size=64] [dropout=0.1] [device=cpu] [threads=0] [out=.]

task: multi30k, English to German, from ZOO_DATA_DIR, or symbols, made here: each text says whether its symbols are to
be copied, reversed or sorted, training texts have 1 to 40 of them. The three recurrent models have one GRU layer on
each side, a bidirectional encoder, and differ in how the decoder sees the source; widths are chosen so that all have
nearly the same number of parameters. Each has its own best of three learning rates, found in a tenth of the time with
another seed. Time is that of training alone, on a CPU processor time for each thread; the learning rate falls to zero
over it. Greedy decoding.

Prints a table, mean and standard error over the seeds, and writes `why_attention_TASK.yaml` and `.png` into `out`.
"""

import math
import random
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import yaml
from _measure import clock, machine, options, record
from torch import Tensor
from torch.nn import functional as F

import zoo
from zoo.models.registry import build, find_variant

BOS, PAD, EOS = 0, 1, 2
FIELDS = dict(bos_token_id=BOS, pad_token_id=PAD, eos_token_id=EOS, decoder_start_token_id=BOS)
GRU = dict(cell="gru", depth=1, bidirectional=True, reverse_source=False)
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "vector": ("gru_seq2seq_nano", GRU),
    "additive": ("gru_bahdanau_nano", GRU),
    "dot": ("lstm_luong_nano", GRU),
    "transformer": ("transformer_nano", dict(depth=3, heads=4, order="pre")),
}
RATES = (5e-4, 1e-3, 2e-3)
SYMBOLS, LONGEST = 60, 40


@dataclass(frozen=True)
class Pair:
    """Tokens of a source and a target text, without special ones; length: of the source, in words or symbols."""

    source: list[int]
    target: list[int]
    length: int
    reference: str


@dataclass(frozen=True)
class Task:
    """Pairs, how tokens become a text, and the longest source of each group of lengths.

    held_out: for the choice of the learning rate.
    """

    name: str
    vocab_size: int
    train: list[Pair]
    held_out: list[Pair]
    test: list[Pair]
    groups: tuple[int, ...]
    decode: Any

    def group(self, pair: Pair) -> int:
        return next(i for i, limit in enumerate(self.groups) if pair.length <= limit)


# --- tasks ------------------------------------------------------------------------------------------------------------


def symbols(train: int, test: int, longest: int = LONGEST) -> Task:
    """Copy, reverse or sort: the first token says which."""
    uniform = random.Random(0).random
    first = EOS + 1  # three commands, then the symbols

    def pair(length: int) -> Pair:
        command = int(uniform() * 3)
        word = [first + 3 + int(uniform() * SYMBOLS) for _ in range(length)]
        target = (word, word[::-1], sorted(word))[command]
        return Pair([first + command, *word], target, length, decode(target))

    def decode(ids: Sequence[int]) -> str:
        return " ".join(map(str, ids))

    lengths = [1 + int(uniform() * longest) for _ in range(train)]
    edges = tuple(math.ceil(longest * part / 5) for part in range(1, 6))
    made, held = [pair(n) for n in lengths], train // 50
    tested = [pair(1 + i * longest // test) for i in range(test)]
    return Task("symbols", first + 3 + SYMBOLS, made[held:], made[:held], tested, edges, decode)


def multi30k(vocab_size: int) -> Task:
    """English captions and their German translations, as parts of words."""
    from zoo.data.text.parallel import load_parallel_texts
    from zoo.data.text_config import ParallelTextSettings
    from zoo.preprocessing.tokenizer_training import train as train_tokenizer

    splits = load_parallel_texts(ParallelTextSettings(name="multi30k"))
    texts = [*splits.train.sources, *splits.train.targets]
    tokenizer = train_tokenizer("seq2seq", texts, vocab_size)
    special = {BOS, PAD, EOS}

    def tokens(texts: Sequence[str]) -> list[list[int]]:
        found = []
        for start in range(0, len(texts), 1000):
            ids = tokenizer(list(texts[start : start + 1000]))["input_ids"].tolist()
            found += [[token for token in row if token not in special] for row in ids]
        return found

    def pairs(part: Any) -> list[Pair]:
        both = zip(tokens(part.sources), tokens(part.targets), part.sources, part.targets, strict=True)
        return [Pair(source, target, len(text.split()), reference) for source, target, text, reference in both]

    made, tested = pairs(splits.train), pairs(splits.test)
    return Task("multi30k", vocab_size, made[500:], made[:500], tested, (8, 11, 14, 18, 1000), tokenizer.decode)


# --- models and training ----------------------------------------------------------------------------------------------


def fitted(name: str, task: Task, o: SimpleNamespace) -> dict[str, Any]:
    """Overrides of a model with a width that gives it nearly `parameters` parameters."""
    variant, fields = MODELS[name]
    fields = fields | FIELDS | dict(vocab_size=task.vocab_size, max_length=512, dropout=o.dropout)
    own = find_variant(variant)
    config = own.config(**own.variants[variant])

    def count(width: int) -> int:
        return sum(p.numel() for p in build(own, config.replace(**fields, width=width)).parameters())

    step = 16  # a multiple of twice the heads
    low, high = step, step
    while count(high) < o.parameters:
        low, high = high, 2 * high
    while high - low > step:
        middle = (low + high) // (2 * step) * step
        low, high = (middle, high) if count(middle) < o.parameters else (low, middle)
    return fields | {"width": min((low, high), key=lambda width: abs(count(width) - o.parameters))}


def padded(rows: Sequence[list[int]], fill: int) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [fill] * (longest - len(row)) for row in rows])


def batch_of(pairs: Sequence[Pair], device: str) -> tuple[dict[str, Tensor], Tensor]:
    """(inputs, labels [B, T] with -100 at padding)."""
    source = padded([[*pair.source, EOS] for pair in pairs], PAD).to(device)
    inputs = padded([[BOS, *pair.target] for pair in pairs], PAD).to(device)
    labels = padded([[*pair.target, EOS] for pair in pairs], -100).to(device)
    return dict(input_ids=source, attention_mask=(source != PAD).long(), decoder_input_ids=inputs), labels


def batches(pairs: Sequence[Pair], size: int, seed: int) -> Iterator[list[Pair]]:
    """Endless batches of texts of similar lengths, in random order."""
    mixed = random.Random(seed)
    while True:
        order = mixed.sample(range(len(pairs)), len(pairs))
        found = []
        for start in range(0, len(order), 50 * size):
            some = sorted(order[start : start + 50 * size], key=lambda i: len(pairs[i].source))
            found += [some[i : i + size] for i in range(0, len(some), size)]
        mixed.shuffle(found)
        for rows in found:
            yield [pairs[i] for i in rows]


def train(name: str, task: Task, o: SimpleNamespace, seed: int, rate: float, minutes: float) -> tuple[Any, int]:
    """(the trained model, its number of steps)."""
    torch.manual_seed(seed)
    model = zoo.create_model(MODELS[name][0], seed=seed, **fitted(name, task, o)).to(o.device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, betas=(0.9, 0.98))
    stream, start, step = batches(task.train, o.batch_size, seed), clock(o.device), 0
    while (progress := (clock(o.device) - start) / (60 * minutes)) < 1 or not step:
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 100) * max(0.0, 1 - progress)
        inputs, labels = batch_of(next(stream), o.device)
        loss = F.cross_entropy(model(**inputs).flatten(0, 1), labels.flatten(), ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        if o.device != "cpu":
            torch.cuda.synchronize()
    return model.eval(), step


# --- evaluation -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def losses(model: Any, pairs: Sequence[Pair], device: str) -> list[tuple[float, int]]:
    """(sum of the loss over the target tokens, their number) of each pair."""
    found = []
    for start in range(0, len(pairs), 100):
        inputs, labels = batch_of(pairs[start : start + 100], device)
        each = F.cross_entropy(model(**inputs).transpose(1, 2), labels, ignore_index=-100, reduction="none")
        found += list(zip(each.sum(1).tolist(), (labels != -100).sum(1).tolist()))
    return found


@torch.no_grad()
def written(model: Any, pairs: Sequence[Pair], task: Task, device: str) -> list[str]:
    """The text that the model writes for each source, by greedy decoding."""
    texts = []
    for start in range(0, len(pairs), 100):
        inputs, _ = batch_of(pairs[start : start + 100], device)
        room = 2 * inputs["input_ids"].shape[1] + 10
        ids = zoo.generate(model, **{k: inputs[k] for k in ("input_ids", "attention_mask")}, max_new_tokens=room)
        for row in ids.tolist():
            row = row[1:]
            end = row.index(EOS) if EOS in row else len(row)
            texts.append(task.decode([token for token in row[:end] if token != PAD]))
    return texts


def evaluate(model: Any, task: Task, device: str) -> dict[str, list[float]]:
    """Measures of each group of lengths, and of all texts together in the last place."""
    from sacrebleu.metrics.bleu import BLEU

    bleu = BLEU(tokenize="none") if task.name == "symbols" else BLEU()
    pairs = sorted(task.test, key=lambda pair: pair.length)
    loss, texts, found = losses(model, pairs, device), written(model, pairs, task, device), {}
    members = [[i for i, pair in enumerate(pairs) if task.group(pair) == group] for group in range(len(task.groups))]
    for rows in (*members, range(len(pairs))):
        hypotheses, references = [texts[i] for i in rows], [pairs[i].reference for i in rows]
        values = {
            "bleu": bleu.corpus_score(hypotheses, [references]).score,
            "loss": sum(loss[i][0] for i in rows) / sum(loss[i][1] for i in rows),
            "exact": 100 * sum(map(str.__eq__, hypotheses, references)) / len(hypotheses),
        }
        for key, value in values.items():
            found.setdefault(key, []).append(round(value, 4))
    return found


def best_rate(name: str, task: Task, o: SimpleNamespace) -> float:
    """The learning rate with the lowest loss on held-out training texts after a tenth of the time, of its own seed."""

    def loss_of(rate: float) -> float:
        model, _ = train(name, task, o, 1000, rate, o.minutes / 10)
        each = losses(model, task.held_out, o.device)
        return sum(a for a, _ in each) / sum(b for _, b in each)

    return min(RATES, key=loss_of)


# --- tables and the plot ----------------------------------------------------------------------------------------------


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and its standard error (0 for one value)."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return statistics.fmean(values), error


def labels_of(task: Task) -> list[str]:
    """The groups of lengths: "1-8", "9-11", "19+" and "all"."""
    starts = [1, *(limit + 1 for limit in task.groups[:-1])]
    last = f"{starts[-1]}+" if task.groups[-1] >= 1000 else f"{starts[-1]}-{task.groups[-1]}"
    return [*(f"{a}-{b}" for a, b in zip(starts, task.groups[:-1])), last, "all"]


def print_table(task: Task, results: dict[str, list[dict[str, Any]]], measure: str) -> None:
    print(f"\n{measure} by length of the source, {task.name}\n")
    print(f"| model | parameters | steps | {' | '.join(labels_of(task))} |")
    print("|" + "---|" * (len(task.groups) + 4))
    for name, runs in results.items():
        cells = []
        for place in range(len(task.groups) + 1):
            mean, error = mean_and_error([run[measure][place] for run in runs])
            digits = 3 if measure == "loss" else 1
            cells.append(f"{mean:.{digits}f}" + (f" ± {error:.{digits}f}" if error else ""))
        steps = statistics.fmean(run["steps"] for run in runs)
        print(f"| {name} | {runs[0]['parameters'] / 1e6:.2f} M | {steps:,.0f} | {' | '.join(cells)} |")


def plot(task: Task, results: dict[str, list[dict[str, Any]]], file: Path) -> None:
    """BLEU and loss against the length, with standard errors."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, measure in zip(figure.subplots(1, 2), ("bleu", "loss")):
        for name, runs in results.items():
            points = [mean_and_error([run[measure][i] for run in runs]) for i in range(len(task.groups))]
            means, errors = zip(*points)
            axes.errorbar(range(len(points)), means, yerr=errors, marker="o", capsize=3, label=name)
        axes.set_xticks(range(len(task.groups)), labels_of(task)[:-1])
        axes.set_xlabel("length of the source")
        axes.set_title("BLEU" if measure == "bleu" else "loss per token")
        axes.grid(alpha=0.3)
    figure.axes[0].legend()
    figure.savefig(file, dpi=150)


def main() -> None:
    smoke = dict(task="symbols", minutes=0.01, seeds=2, parameters=20000, batch_size=8, models="vector,additive,dot",
                 train=200, test=20, out="")  # fmt: skip
    o = options(smoke, task="multi30k", minutes=6.0, seeds=3, parameters=4000000, vocab_size=4000,
                models="vector,additive,dot,transformer", batch_size=64, dropout=0.1, device="cpu", threads=0,
                train=100000, test=1000, out=".")  # fmt: skip
    if o.task not in ("multi30k", "symbols") or not set(names := o.models.split(",")) <= set(MODELS):
        raise SystemExit(
            f"task={o.task} models={o.models}: expected multi30k or symbols, and some of {', '.join(MODELS)}"
        )
    if o.threads:
        torch.set_num_threads(o.threads)
    task = symbols(o.train, o.test) if o.task == "symbols" else multi30k(o.vocab_size)
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    rates = {name: best_rate(name, task, o) for name in names}
    for seed in range(o.seeds):
        for name in names:  # in turns, so that a slow hour of the machine affects all
            model, steps = train(name, task, o, seed, rates[name], o.minutes)
            run = evaluate(model, task, o.device)
            parameters = sum(p.numel() for p in model.parameters())
            results[name].append({"seed": seed, "steps": steps, "parameters": parameters} | run)
            print(
                f"{name}, seed {seed}: {steps} steps, BLEU {run['bleu'][-1]:.1f}, loss {run['loss'][-1]:.3f}",
                flush=True,
            )
    for measure in ("bleu", "loss", *(["exact"] if task.name == "symbols" else [])):
        print_table(task, results, measure)
    record(
        f"BLEU, {task.name}",
        {name: mean_and_error([run["bleu"][-1] for run in runs])[0] for name, runs in results.items()},
    )
    if o.out:
        clock = "cpu" if o.device == "cpu" else "cuda"
        kept = {"machine": machine(clock), "options": vars(o), "lengths": labels_of(task), "learning_rates": rates}
        file = Path(o.out) / f"why_attention_{task.name}.yaml"
        file.write_text(yaml.safe_dump(kept | {"runs": results}, sort_keys=False))
        plot(task, results, file.with_suffix(".png"))
        print(f"\nwritten: {file} and {file.with_suffix('.png')}")


if __name__ == "__main__":
    main()
