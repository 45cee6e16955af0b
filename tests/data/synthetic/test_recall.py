"""Sequences for associative recall and induction: every answer can be read, none can be learned by heart."""

from itertools import pairwise

import pytest
import torch

from zoo.data.keyed_batches import Keys
from zoo.data.synthetic.recall import answers_of, load_sequences, make_sequences
from zoo.data.text_config import RecallDataSettings
from zoo.utils.errors import DataError


@pytest.mark.parametrize("length", [8, 64, 96])
def test_recall_repeats_each_key_with_its_value(length: int) -> None:
    rows = make_sequences(20, length, problem="recall", vocab_size=128, seed=0).ids
    assert rows.shape == (20, length) and rows.dtype == torch.int32
    for row in rows.tolist():
        half = length // 2
        pairs = dict(zip(row[:half:2], row[1:half:2]))
        assert len(pairs) == length // 4 and max(pairs) < 64 <= min(pairs.values())
        assert dict(zip(row[half::2], row[half + 1 :: 2])) == pairs
        assert row[half::2] != row[:half:2] or length == 8  # in another order


def test_induction_asks_for_the_token_that_followed() -> None:
    for row in make_sequences(20, 64, problem="induction", vocab_size=100, seed=1).ids.tolist():
        read, asked = row[:32], row[32:]
        assert len(set(read)) == 32
        followers = dict(pairwise(read))
        assert [followers[token] for token in asked[::2]] == asked[1::2] and len(set(asked[::2])) == 16


def test_labels_are_the_answers_alone() -> None:
    ids = torch.arange(16).view(2, 8)
    labels = [[-100] * 4 + [5, -100, 7, -100], [-100] * 2 + [11, -100, 13, -100, 15, -100]]
    assert answers_of(ids, torch.tensor([4, 2])).tolist() == labels
    data = make_sequences(5, 16, problem="recall", vocab_size=32, seed=0)
    batch = data.__getitems__(Keys([3, 1], 2))
    assert torch.equal(batch["input_ids"], data.ids[[3, 1]].long()) and batch["index"].tolist() == [3, 1]
    assert torch.equal(batch["labels"], answers_of(batch["input_ids"], torch.tensor([8, 8]))) and batch["epoch"] == 2


@pytest.mark.parametrize("problem", ["recall", "induction"])
def test_easier_sequences_have_fewer_pairs_and_more_queries(problem) -> None:
    data = make_sequences(4, 32, problem=problem, vocab_size=64, seed=0, easier=30)
    assert data.read.tolist()[:4] == [16] * 4 and set(data.read.tolist()[4:]) == {16, 8, 4}
    for row, read in zip(data.ids.tolist(), data.read.tolist(), strict=True):
        pairs = list(zip(row[:read:2], row[1:read:2])) if problem == "recall" else list(pairwise(row[:read]))
        assert set(zip(row[read::2], row[read + 1 :: 2])) <= set(pairs) and len(dict(pairs)) == len(pairs)
        asked = set(row[read::2])
        assert len(asked) == min(len(pairs), (32 - read) // 2)


def test_the_same_seed_gives_the_same_sequences() -> None:
    one, same, other = (make_sequences(9, 32, problem="recall", vocab_size=64, seed=seed).ids for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert one[0, :8].tolist() == [4, 55, 22, 57, 31, 53, 19, 52]  # on every machine


@pytest.mark.parametrize("problem", ["recall", "induction"])
def test_no_sequence_is_in_two_splits(problem) -> None:
    """With a vocabulary so small that equal ones would be made often."""
    settings = RecallDataSettings(problem=problem, length=8, max_train_samples=60, max_test_samples=15)
    splits = load_sequences(settings, vocab_size=8, seed=0).with_validation(0.1, 0)
    parts = [{tuple(row) for row in part.ids.tolist()} for part in splits.parts]
    assert [len(part) for part in parts] == [60, 15, 15] and len(set.union(*parts)) == 90
    assert not splits.real and problem in splits.source


def test_values_and_keys_are_used_evenly() -> None:
    """A value follows each key equally often, so that a key alone says nothing about it."""
    ids = make_sequences(4000, 16, problem="recall", vocab_size=16, seed=0).ids.long()
    pairs = ids[:, :8].reshape(-1, 2)
    counts = torch.zeros(8, 8).index_put_((pairs[:, 0], pairs[:, 1] - 8), torch.tensor(1.0), accumulate=True)
    expected = len(pairs) / 64
    assert ((counts - expected).abs() < 6 * expected**0.5).all()


@pytest.mark.parametrize(("options", "message"), [
    (dict(length=10), "multiple of 4"), (dict(length=64, vocab_size=31), "16 keys and as many values.*vocab_size=32"),
    (dict(length=64, vocab_size=31, problem="induction"), "32 different tokens"),
    (dict(length=8, vocab_size=4, n=1000), "too few different sequences for 1,000"),
])  # fmt: skip
def test_lengths_and_vocabularies_that_do_not_fit(options: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make_sequences(**{"n": 4, "problem": "recall", "vocab_size": 128, "seed": 0} | options)


@pytest.mark.parametrize(("options", "message"), [(dict(length=4), "at least 8"), (dict(length=30), "multiple of 4"),
                                                  (dict(name="my.txt"), "generated"),
                                                  (dict(max_test_samples=0), "at least 1")])  # fmt: skip
def test_settings_that_do_not_fit(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RecallDataSettings(**options)
