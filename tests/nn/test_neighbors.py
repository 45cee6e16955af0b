"""Nearest neighbors, farthest points and the mask of neighbors, against what they are by definition."""

import torch

from zoo.nn.graphs import neighbors
from zoo.nn.graphs.neighbors import NeighborMask, farthest_points, nearest_neighbors, take

PLACES = torch.randn(3, 17, 3, generator=torch.Generator().manual_seed(0))
KEEP = torch.arange(17) < torch.tensor([[17], [2], [9]])


def test_nearest_neighbors_in_any_number_of_chunks(monkeypatch):
    whole = nearest_neighbors(PLACES, PLACES, 5, KEEP)
    distances = (PLACES[:, :, None] - PLACES[:, None]).norm(dim=-1).masked_fill(~KEEP[:, None], torch.inf)
    assert torch.equal(whole[0], distances[0].argsort(1)[:, :5])
    assert torch.equal(whole[2], distances[2].argsort(1)[:, :5])
    assert torch.equal(whole[1, :2, 0], torch.arange(2)) and set(whole[1, 0, :2].tolist()) == {0, 1}
    monkeypatch.setattr(neighbors, "PAIRS", 3 * 17 * 4)
    assert torch.equal(nearest_neighbors(PLACES, PLACES, 5, KEEP)[0], whole[0])
    assert nearest_neighbors(PLACES, PLACES[:, :2], 5).shape == (3, 17, 2)


def test_each_farthest_point_is_the_farthest_from_those_before():
    sample = farthest_points(PLACES, 6, KEEP)
    assert set(sample[1].tolist()) == {0, 1}  # it has two points, and then some of them again
    for row, count in ((0, 17), (2, 9)):
        points = PLACES[row, :count]
        assert sample[row, 0] == (points - points.mean(0)).norm(dim=1).argmax() and len(set(sample[row].tolist())) == 6
        for i in range(1, 6):
            to_sample = torch.cdist(points, points[sample[row, :i]]).min(1).values
            assert sample[row, i] == to_sample.argmax()
        alone = farthest_points(points[None], 6)
        assert torch.equal(alone[0], sample[row]) and torch.equal(farthest_points(points[None], 4), alone[:, :4])


def test_the_mask_is_the_same_as_a_matrix_and_as_a_function():
    mask = NeighborMask.of(PLACES, 4, KEEP)
    dense = mask.dense(17, 17)
    assert dense.shape == (3, 1, 17, 17) and torch.equal(dense.sum(-1)[:, 0], KEEP * torch.tensor([[4], [2], [4]]))
    assert not (dense & ~KEEP[:, None, None]).any() and dense[:, 0].diagonal(dim1=1, dim2=2).equal(KEEP)
    index = torch.arange(17)
    assert torch.equal(mask(torch.arange(3).view(-1, 1, 1, 1), index[:1], index.view(-1, 1), index), dense)
    assert torch.equal(mask.select_rows([2, 0]).dense(17, 17), dense[[2, 0]])
    assert torch.equal(mask.offsets[0], PLACES[0][:, None] - PLACES[0][mask.index[0]])
    assert NeighborMask.of(PLACES, 4).dense(17, 17).sum() == 3 * 17 * 4
    assert torch.equal(take(PLACES, mask.index)[1, 3], PLACES[1][mask.index[1, 3]])
