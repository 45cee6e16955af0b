"""What the text models share: the last real token of new tokens that continue a cache, and hybrids of layers."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import zoo
from zoo.models.text import last_real
from zoo.nn import Context, Mixer
from zoo.nn.registry import MIXERS


def test_the_last_real_token_of_new_tokens_is_found_in_the_end_of_the_mask() -> None:
    x = torch.arange(12.0).view(2, 3, 2)  # three new tokens after two that are in the cache
    keep = torch.tensor([[1, 1, 1, 0, 0], [1, 0, 1, 1, 0]])
    assert torch.equal(last_real(x, keep), torch.stack([x[0, 0], x[1, 1]]))
    assert torch.equal(last_real(x, None), x[:, -1]) and torch.equal(last_real(x[:, :1], keep), x[:, 0])


class Nothing(Mixer):
    def forward(self, x: Tensor, context: Context, state: object = None) -> Tensor:
        return torch.zeros_like(x)


@pytest.fixture
def nothing() -> Iterator[type[Mixer]]:
    before = dict(MIXERS)
    yield Nothing
    MIXERS.clear()
    MIXERS.update(before)


def test_the_attention_layers_of_a_hybrid_keep_their_rotary_positions(nothing: type[Mixer]) -> None:
    mixed = zoo.create_model("llama_nano", mixer=[nothing, "attention"], depth=2, seed=0).eval()
    plain = zoo.create_model("llama_nano", depth=2, seed=0).eval()
    plain.load_state_dict(mixed.state_dict(), strict=False)
    torch.nn.init.zeros_(plain.blocks[0].mixer.out.weight)  # the first layer of both mixes nothing
    ids = torch.arange(8)[None] % 3
    torch.testing.assert_close(mixed(input_ids=ids), plain(input_ids=ids))
