"""The order of streamed data: a permutation of each epoch as a function of the position, and mixing by weight."""

from itertools import islice

import pytest
import torch

from zoo.data.keyed_batches import Keys
from zoo.data.stream_order import Mixture, Permutation, StreamBatches, StreamOrder, WindowShuffle


@pytest.mark.parametrize("count", [1, 2, 3, 5, 64, 65, 1000])
def test_a_permutation_has_each_number_once_and_an_inverse(count: int) -> None:
    permutation = Permutation(count, 3, 1)
    found = permutation(torch.arange(count))
    assert found.sort().values.tolist() == list(range(count))
    assert permutation.inverse(found).tolist() == list(range(count))
    assert count < 64 or not torch.equal(found, Permutation(count, 3, 2)(torch.arange(count)))


def test_a_permutation_of_many_numbers_is_spread_evenly() -> None:
    found = Permutation(10**12, 5)(torch.arange(20_000))
    assert len(found.unique()) == 20_000
    counts = torch.bincount(found * 10 // 10**12, minlength=10)
    assert counts.min() > 1800 and counts.max() < 2200
    first = torch.tensor([int(Permutation(8, seed)(torch.tensor([0]))) for seed in range(800)])
    assert torch.bincount(first, minlength=8).min() > 60  # of 100


@pytest.mark.parametrize(("count", "window", "chunk"), [
    (1, 8, 0), (10, 100, 0), (1003, 64, 8), (1003, 60, 8), (1000, 64, 8), (1003, 5, 100), (7, 4, 3), (1003, 2000, 50),
])  # fmt: skip
def test_an_epoch_has_each_row_once_wherever_it_starts(count: int, window: int, chunk: int) -> None:
    for epoch in range(3):
        order = WindowShuffle(count, window=window, chunk=chunk, seed=1)
        whole = order.rows(epoch, 0, count)
        assert whole.sort().values.tolist() == list(range(count))
        for start in range(0, count, max(1, count // 7)):
            again = WindowShuffle(count, window=window, chunk=chunk, seed=1).rows(epoch, start, min(count, start + 40))
            assert torch.equal(again, whole[start : start + 40])
    assert count < 10 or not torch.equal(whole, order.rows(0, 0, count))


def test_a_window_reads_few_places() -> None:
    order = WindowShuffle(100_000, window=1024, chunk=64, seed=0)
    rows = order.rows(0, 0, order.window)
    assert len((rows // 64).unique()) == 16
    assert rows.float().std() > 10_000, "its chunks come from the whole source"
    assert (rows.diff().abs() > 64).float().mean() > 0.8, "they are shuffled together"


def test_weights_hold_at_every_step_and_exactly_in_the_long_run() -> None:
    weights = [5.0, 2.5, 0.1, 1]
    mixture = Mixture(weights)
    shares = [weight / sum(weights) for weight in weights]
    for position in (1, 10, 333, 10**6, 10**12):
        counts = mixture.counts(position)
        assert sum(counts) == position
        error = max(abs(count - share * position) for count, share in zip(counts, shares))
        assert error < 2 + position * 1e-6
    items = mixture.sources(0, 500)
    assert items[200:300] == Mixture(weights).sources(200, 300)
    for source in range(4):
        numbers = [number for own, number in items if own == source]
        assert numbers == list(range(len(numbers)))
    with pytest.raises(ValueError, match="a number above 0"):
        Mixture([1, 0])


def batches(step: int = 0, mixed: bool = True, **place: int) -> StreamBatches:
    counts = [100, 30] if mixed else [130]
    order = StreamOrder([WindowShuffle(n, window=16, seed=2) for n in counts], [1, 1] if mixed else [])
    return StreamBatches(order, 130, 12, seed=2, step=lambda: step, **place)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize(("world", "accumulate"), [(1, 2), (3, 1), (2, 2)])
def test_ranks_and_accumulation_cut_the_same_batches_and_any_step_can_be_first(
    mixed: bool, world: int, accumulate: int
) -> None:
    whole = [key for epoch in range(3) for key in batches(epoch * 10, mixed)]
    assert len(whole) == 30
    parts = [list(batches(20, mixed, rank=r, world=world, accumulate=accumulate)) for r in range(world)]
    for step, batch in enumerate(whole[20:]):
        micro = [parts[j % world][step * accumulate + j // world] for j in range(world * accumulate)]
        assert [row for part in micro for row in part] == batch
        assert not mixed or [again for part in micro for again in part.passes or []] == batch.passes
    again = next(iter(batches(17, mixed)))
    assert (again, again.passes, again.epoch) == (whole[17], whole[17].passes, 1)


def test_mixed_sources_start_again_each_in_its_own_time() -> None:
    seen: list[list[tuple[int, int]]] = [[], []]
    for key in (key for epoch in range(3) for key in batches(epoch * 10)):
        for row, again in zip(key, key.passes or []):
            seen[row >= 100].append((again, row))
    assert [len(rows) for rows in seen] == [180, 180]
    for rows, count, start in ((seen[0], 100, 0), (seen[1], 30, 100)):
        assert len(set(rows)) == len(rows), "no row twice in one pass"
        first = [row for again, row in rows if again == 0]
        assert sorted(first) == list(range(start, start + count))
    assert isinstance(next(islice(batches(), 1)).random_epoch, torch.Tensor)
    assert Keys([1], 4).random_epoch == 4


def test_the_number_of_weights_is_that_of_the_sources() -> None:
    with pytest.raises(ValueError, match="expected 2 numbers, one for each source"):
        StreamOrder([WindowShuffle(3), WindowShuffle(4)], [1])
    with pytest.raises(ValueError, match="at least one row"):
        WindowShuffle(0)


@pytest.mark.parametrize("weights", [[1e-9, 1.0], [1.0, 1e-9], [1.0, 1e-9, 1.0]])
def test_no_source_is_too_small_to_be_read(weights: list[float]) -> None:
    assert min(Mixture(weights).counts(1 << 22)) >= 1
