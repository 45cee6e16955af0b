"""Token sets and pieces: what a batch holds, and that its order is a pure function of (seed, epoch)."""

from dataclasses import replace

import pytest
import torch
from lightning.fabric.utilities.apply_func import move_data_to_device

from zoo.data.datamodule import Loader
from zoo.data.keyed_batches import GroupedByLengthBatches, KeyedBatches, Keys
from zoo.data.splits import Splits
from zoo.data.text.corpus import characters, chunks_of, ids_of
from zoo.data.text.datamodule import TextChunks, TextDataModule, TokenDataset
from zoo.data.text.dataset import TextDataset
from zoo.preprocessing.tokenizer_training import train


def ragged(n: int = 50) -> TokenDataset:
    return TokenDataset([[2, *range(10, 10 + i % 13), 3] for i in range(n)], torch.arange(n), pad=0, types=None)


def test_a_batch_is_padded_to_its_longest() -> None:
    batch = ragged().__getitems__(Keys([0, 4, 25], 7))
    assert batch["input_ids"].tolist() == [[2, 3] + [0] * 12,
                                           [2, 10, 11, 12, 13, 3] + [0] * 8,
                                           [2, *range(10, 22), 3]]  # fmt: skip
    assert batch["attention_mask"].sum(1).tolist() == [2, 6, 14]
    assert batch["labels"].tolist() == [0, 4, 25] and int(batch["epoch"]) == 7


def test_lengths_stay_on_the_host() -> None:
    """In the workers of a loader and in the transfer of Lightning, which moves every tensor."""
    loader = Loader(ragged(), KeyedBatches(50, 5, seed=0, step=lambda: 0), num_workers=1)
    for batch in loader:
        moved = move_data_to_device(batch, torch.device("meta"))
        assert moved["attention_mask"].is_meta and isinstance(moved["epoch"], int)
        assert type(moved["lengths"]) is list and moved["lengths"] == batch["attention_mask"].sum(1).tolist()


def test_buckets_visit_all_alike_and_are_keyed() -> None:
    lengths = torch.randint(2, 60, (1003,), generator=torch.Generator().manual_seed(0))

    def make(seed: int) -> GroupedByLengthBatches:
        return GroupedByLengthBatches(lengths, 8, seed=seed, step=lambda: 0)

    one = make(1)
    order = one.order(3)
    assert sorted(order.tolist()) == list(range(1003))
    assert torch.equal(order, make(1).order(3)) and not torch.equal(order, make(2).order(3))
    assert not torch.equal(order, one.order(4))
    spread = lengths[order[:1000]].view(-1, 8).float()
    assert (spread.amax(1) - spread.amin(1)).mean() < 5  # of 58
    assert abs(spread.mean(1)[:60].mean() - spread.mean(1)[60:].mean()) < 8  # no drift from short to long
    assert abs(spread.mean(1)[:16].mean() - spread.mean(1)[16:32].mean()) < 20  # nor within a pool of 32 batches


def test_buckets_resume_in_the_middle_of_an_epoch() -> None:
    lengths = torch.arange(100) % 17
    whole = list(GroupedByLengthBatches(lengths, 10, seed=0, step=lambda: 10))
    late = list(GroupedByLengthBatches(lengths, 10, seed=0, step=lambda: 14))
    assert late == whole[4:] and late[0].epoch == 1
    ranks = [list(GroupedByLengthBatches(lengths, 10, seed=0, step=lambda: 10, rank=r, world=2)) for r in (0, 1)]
    assert [a + b for a, b in zip(*ranks)] == whole


def test_pieces_know_what_follows() -> None:
    ids = torch.arange(101, dtype=torch.int32)
    still = TextChunks(ids, 10)
    assert len(still) == 10
    batch = still.__getitems__(Keys([0, 9], 0))
    assert batch["input_ids"][1].tolist() == list(range(90, 100)) and batch["labels"][1].tolist() == list(
        range(91, 101)
    )
    moving = TextChunks(ids, 10, moving=True, seed=1)
    starts = {int(moving.__getitems__(Keys([0], epoch))["input_ids"][0, 0]) for epoch in range(20)}
    assert len(starts) > 3
    assert all(moving.__getitems__(Keys([len(moving) - 1], epoch))["labels"][0, -1] <= 100 for epoch in range(20))


def test_characters_come_back() -> None:
    text = "To be,\nor not\n\nto be?\n"
    preprocess = characters(text, 64)
    ids = ids_of(text, preprocess)
    assert len(ids) == len(text) and preprocess.decode(ids) == text
    assert preprocess.vocab_size == len(set(text)) + 1
    assert preprocess.encode("tx")[1] == preprocess.id("unk")


def test_long_lines_become_several() -> None:
    lines = ["one two three four five six seven eight", "nine"]
    preprocess = train("wordpiece", lines * 5, 200, max_length=64)
    ids, _ = chunks_of(lines, preprocess, 6)
    assert max(map(len, ids)) == 6 and all(
        row[0] == preprocess.id("cls") and row[-1] == preprocess.id("sep") for row in ids
    )
    words = " ".join(preprocess.decode(row) for row in ids)
    assert words.split() == " ".join(lines).split()


def test_texts_in_batches(capsys: pytest.CaptureFixture[str]) -> None:
    texts = TextDataset([f"text number {i} of a few words" for i in range(12)], torch.arange(12) % 2)
    tokenizer = train("wordpiece", texts.texts, 200, max_length=4)
    splits = Splits(texts, texts.take(torch.arange(4)), "texts", False, "written here", classes=["even", "odd"])
    data = TextDataModule(splits, tokenizer, 4, truncate="cut", seed=1)
    batch = next(iter(data.train_dataloader()))
    assert batch["input_ids"].shape == (4, 4) and torch.equal(batch["labels"], batch["index"] % 2)
    assert data.val is data.test and len(data.test) == 4 and data.classes == ["even", "odd"]
    assert data.steps_per_epoch == 3 and set(data.sample(2)) >= {"input_ids", "labels"}
    with pytest.raises(ValueError, match="truncate"):
        TextDataModule(splits, tokenizer, 4)  # the tokenizer truncates only where it is asked to
    capsys.readouterr()
    small = TextDataModule(splits, tokenizer, 64, truncate="cut")
    assert "batch_size 64 -> 12: the training set has 12 texts" in capsys.readouterr().err
    assert small.batch_size == 12 and small.steps_per_epoch == 1
    assert sorted(next(iter(small.train_dataloader()))["index"].tolist()) == list(range(12))
    small.shrink_batch(5)
    assert small.batch_size == 10
    with pytest.raises(ValueError, match=r"12 training texts do not fill one batch of 13 \(13 micro-batches"):
        small.shrink_batch(13)
    own = replace(splits, validation=texts.take(torch.arange(5, 7)))
    assert TextDataModule(own, tokenizer, 4, truncate="cut").val.labels.tolist() == [1, 0]
