"""Synthetic sequences whose answers stand earlier in the same sequence: associative recall and induction.

recall: the first half holds keys, each followed by its value; the second half repeats the keys in another order, each
followed by the value that it had (multi-query associative recall, Arora et al. 2023, https://arxiv.org/abs/2312.04927).
induction: the first half is a row of different tokens; the second half has pairs of a token of this row and the token
that followed it there (... A B ... A -> B; Olsson et al. 2022, https://arxiv.org/abs/2209.11895).

Test sequences have as many pairs as fit into a half. Training sequences have that many or fewer, and more queries: a
model that has learned to look up one of two pairs soon does so among many, and learns little from many alone.

Only the answers are learned and scored. Keys, values and their order are random in every sequence, so that nothing can
be learned by heart: a model has to look up what it has read.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from zoo.data.keyed_batches import Keys
from zoo.data.splits import Items, Splits
from zoo.data.text_config import RecallDataSettings
from zoo.nn.losses.cross_entropy import IGNORED
from zoo.utils.errors import DataError
from zoo.utils.keyed_random import KeyedRandom


@dataclass
class RecallSequences(Items):
    """Sequences of tokens and the answers in them.

    Batches: `input_ids` [B, N], `labels` [B, N] (the answer that follows a query, -100 elsewhere), `index`, `epoch`.

    Attributes:
        ids: Tokens [R, N], int32.
        read: Number of tokens before the first query [R].
    """

    noun: ClassVar[str] = "sequences"
    ids: Tensor
    read: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Tensor) -> Self:
        return type(self)(self.ids[rows], self.read[rows])

    def __getitems__(self, keys: Keys) -> dict[str, Any]:
        rows = torch.tensor(list(keys))
        ids = self.ids[rows].long()
        return {"input_ids": ids, "labels": answers_of(ids, self.read[rows]), "index": rows, "epoch": keys.epoch}


def answers_of(ids: Tensor, read: Tensor) -> Tensor:
    """Labels [B, N] of sequences [B, N]: after the first `read` [B] tokens the one after each query, -100 elsewhere."""
    at = torch.arange(ids.shape[1])
    answered = (at >= read[:, None]) & (at % 2 == 0)
    return torch.where(answered, ids.roll(-1, 1), IGNORED)


def make_sequences(n: int, length: int, *, problem: Literal["recall", "induction"], vocab_size: int, seed: int,
                   easier: int = 0) -> RecallSequences:  # fmt: skip
    """Generate different sequences of `length` tokens; the same ones for the same arguments, on every machine.

    Args:
        n: Number of sequences of which one half is read.
        length: Tokens of a sequence.
        problem: See above.
        vocab_size: Number of different tokens.
        seed: Decides all of them.
        easier: Number of further sequences, of which a half, a quarter, ... is read, with at least two pairs.

    Raises: DataError for a length that is not a multiple of 4, and for a vocabulary without enough different tokens.
    """
    if length < 8 or length % 4:
        raise DataError(f"length={length}: expected a multiple of 4, at least 8: half of a sequence is read, the other "
                        f"half are queries and their answers")  # fmt: skip
    needed = 2 * (length // 4) if problem == "recall" else length // 2
    if vocab_size < needed:
        of = f"{length // 4} keys and as many values" if problem == "recall" else f"{needed} different tokens"
        raise DataError(f"vocab_size={vocab_size} with length={length}: {problem} needs {of}: set vocab_size={needed} "
                        f"or a smaller length")  # fmt: skip
    counts = [count + count // 8 + 16 if count else 0 for count in (n, easier)]  # a few more: equal ones are dropped
    sizes = [length // 4 >> i for i in range(length.bit_length()) if length // 4 >> i >= 2]
    read = torch.full((sum(counts),), length // 2)
    read[counts[0] :] = 2 * torch.tensor(sizes)[torch.arange(counts[1]) % len(sizes)]
    ids, make = torch.empty(len(read), length, dtype=torch.int32), recall if problem == "recall" else induction
    for size in sizes:
        own = (read == 2 * size).nonzero()
        ids[own[:, 0]] = make(own, size, length, vocab_size, seed).int()
    first = sorted({row.tobytes(): i for i, row in reversed(list(enumerate(ids.numpy())))}.values())
    rows = [i for i in first if i < counts[0]][:n] + [i for i in first if i >= counts[0]][:easier]
    if len(rows) < n + easier:
        raise DataError(f"vocab_size={vocab_size} with length={length} has too few different sequences for "
                        f"{n + easier:,}: set a larger one, or fewer samples")  # fmt: skip
    return RecallSequences(ids[rows], read[rows])


def recall(row: Tensor, pairs: int, length: int, vocab_size: int, seed: int) -> Tensor:
    """[R, 1] numbers of rows -> [R, length]: keys of the lower half of the vocabulary, values of the upper one."""
    keys = vocab_size // 2
    chosen = shuffled("keys", row, keys, seed)[:, :pairs]
    random = KeyedRandom(seed, 0, (row << 20) + torch.arange(pairs))
    values = keys + random.integers("values", vocab_size - keys)
    order = queries(row, pairs, length // 2 - pairs, seed)
    read, answered = (torch.stack(both, 2).flatten(1) for both in (
        (chosen, values), (chosen.gather(1, order), values.gather(1, order))))  # fmt: skip
    return torch.cat([read, answered], 1)


def induction(row: Tensor, pairs: int, length: int, vocab_size: int, seed: int) -> Tensor:
    """[R, 1] numbers of rows -> [R, length]: different tokens, then pairs of neighbors among them."""
    read = shuffled("tokens", row, vocab_size, seed)[:, : 2 * pairs]
    at = queries(row, 2 * pairs - 1, length // 2 - pairs, seed)
    return torch.cat([read, torch.stack([read.gather(1, at), read.gather(1, at + 1)], 2).flatten(1)], 1)


def queries(row: Tensor, among: int, count: int, seed: int) -> Tensor:
    """Numbers of the queries, [R, count] of 0 .. among - 1: each once in random order, then again if there are more."""
    rounds = [shuffled(f"queries {i}", row, among, seed) for i in range(-(-count // among))]
    return torch.cat(rounds, 1)[:, :count]


def shuffled(purpose: str, row: Tensor, count: int, seed: int) -> Tensor:
    """A random order of 0 .. count - 1 for each row: [R, 1] -> [R, count]."""
    return KeyedRandom(seed, 0, (row << 20) + torch.arange(count)).bits(purpose).argsort(stable=True, dim=1)


def load_sequences(settings: RecallDataSettings, *, vocab_size: int, seed: int = 0) -> Splits[RecallSequences]:
    """The splits of a run; no sequence is in two of them.

    Raises: DataError, see `make_sequences`.
    """
    s, held = settings, 2 * settings.max_test_samples
    made = make_sequences(held, s.length, problem=s.problem, vocab_size=vocab_size, seed=seed,
                          easier=s.max_train_samples)  # fmt: skip
    validation, test, train = (made.take(rows) for rows in torch.arange(len(made)).split(
        [s.max_test_samples, s.max_test_samples, s.max_train_samples]))  # fmt: skip
    source = f"generated sequences of {s.length} tokens for {s.problem}"
    return Splits(train, test, "synthetic", False, source, validation=validation)
