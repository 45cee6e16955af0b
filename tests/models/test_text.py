"""What the text models share: the last real token of new tokens that continue a cache."""

import torch

from zoo.models.text import last_real


def test_the_last_real_token_of_new_tokens_is_found_in_the_end_of_the_mask() -> None:
    x = torch.arange(12.0).view(2, 3, 2)  # three new tokens after two that are in the cache
    keep = torch.tensor([[1, 1, 1, 0, 0], [1, 0, 1, 1, 0]])
    assert torch.equal(last_real(x, keep), torch.stack([x[0, 0], x[1, 1]]))
    assert torch.equal(last_real(x, None), x[:, -1]) and torch.equal(last_real(x[:, :1], keep), x[:, 0])
