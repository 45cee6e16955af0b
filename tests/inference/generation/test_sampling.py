"""The repetition penalty on known scores; the rest is compared with transformers in test_generate.py."""

import torch

from zoo.inference.generation.sampling import penalized


def test_the_penalty_lowers_scores_of_both_signs() -> None:
    scores, seen = torch.tensor([[2.0, -2.0, 2.0, -2.0]]), torch.tensor([[True, True, False, False]])
    assert penalized(scores, seen, 2.0).tolist() == [[1.0, -4.0, 2.0, -2.0]]
    assert penalized(scores, seen, 0.5).tolist() == [[4.0, -1.0, 2.0, -2.0]]
    assert torch.equal(penalized(scores, seen, 1.0), scores) and torch.equal(penalized(scores, None, 2.0), scores)
