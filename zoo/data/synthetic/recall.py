"""Synthetic sequences whose answers stand earlier in the same sequence: associative recall and induction.

recall: the first half holds keys, each followed by its value; the second half repeats the keys in another order, each
followed by the value that it had (multi-query associative recall, Arora et al. 2023, https://arxiv.org/abs/2312.04927).
induction: the first half is a row of different tokens; the second half has pairs of a token of this row and the token
that followed it there (... A B ... A -> B; Olsson et al. 2022, https://arxiv.org/abs/2209.11895).

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
    """

    noun: ClassVar[str] = "sequences"
    ids: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Tensor) -> Self:
        return type(self)(self.ids[rows])

    def __getitems__(self, keys: Keys) -> dict[str, Any]:
        rows = torch.tensor(list(keys))
        ids = self.ids[rows].long()
        return {"input_ids": ids, "labels": answers_of(ids), "index": rows, "epoch": keys.epoch}


def answers_of(ids: Tensor) -> Tensor:
    """Labels [B, N] of sequences [B, N]: in the second half the token after each query, -100 elsewhere."""
    labels = torch.full_like(ids, IGNORED)
    half = ids.shape[1] // 2
    labels[:, half::2] = ids[:, half + 1 :: 2]
    return labels


def make_sequences(
    n: int, length: int, *, problem: Literal["recall", "induction"], vocab_size: int, seed: int
) -> RecallSequences:
    """Generate `n` different sequences of `length` tokens; the same ones for the same arguments, on every machine.

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
    make = recall if problem == "recall" else induction
    made = n + n // 8 + 16  # a few more, of which equal ones are dropped
    ids = make(torch.arange(made)[:, None], length, vocab_size, seed).int()
    first = {row.tobytes(): i for i, row in reversed(list(enumerate(ids.numpy())))}
    rows = sorted(first.values())[:n]
    if len(rows) < n:
        raise DataError(f"vocab_size={vocab_size} with length={length} has too few different sequences for {n:,}: set "
                        f"a larger one, or fewer samples")  # fmt: skip
    return RecallSequences(ids[rows])


def recall(row: Tensor, length: int, vocab_size: int, seed: int) -> Tensor:
    """[R, 1] numbers of rows -> [R, length]: keys of the lower half of the vocabulary, values of the upper one."""
    pairs, keys = length // 4, vocab_size // 2
    chosen = shuffled("keys", row, keys, seed)[:, :pairs]
    random = KeyedRandom(seed, 0, (row << 20) + torch.arange(pairs))
    values = keys + random.integers("values", vocab_size - keys)
    order = shuffled("queries", row, pairs, seed)
    read, asked = (torch.stack(both, 2).flatten(1) for both in (
        (chosen, values), (chosen.gather(1, order), values.gather(1, order))))  # fmt: skip
    return torch.cat([read, asked], 1)


def induction(row: Tensor, length: int, vocab_size: int, seed: int) -> Tensor:
    """[R, 1] numbers of rows -> [R, length]: different tokens, then pairs of neighbors among them."""
    half = length // 2
    read = shuffled("tokens", row, vocab_size, seed)[:, :half]
    at = shuffled("queries", row, half - 1, seed)[:, : length // 4]
    return torch.cat([read, torch.stack([read.gather(1, at), read.gather(1, at + 1)], 2).flatten(1)], 1)


def shuffled(purpose: str, row: Tensor, count: int, seed: int) -> Tensor:
    """A random order of 0 .. count - 1 for each row: [R, 1] -> [R, count]."""
    return KeyedRandom(seed, 0, (row << 20) + torch.arange(count)).bits(purpose).argsort(stable=True, dim=1)


def load_sequences(settings: RecallDataSettings, *, vocab_size: int, seed: int = 0) -> Splits[RecallSequences]:
    """The splits of a run; no sequence is in two of them.

    Raises: DataError, see `make_sequences`.
    """
    count, s = settings.max_train_samples + settings.max_test_samples, settings
    both = make_sequences(count, s.length, problem=s.problem, vocab_size=vocab_size, seed=seed)
    test = torch.arange(count) < s.max_test_samples
    source = f"generated sequences of {s.length} tokens for {s.problem}"
    train, tested = both.take((~test).nonzero()[:, 0]), both.take(test.nonzero()[:, 0])
    return Splits(train, tested, "synthetic", False, source)
