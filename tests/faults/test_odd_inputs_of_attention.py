"""An attention core refuses inputs that do not go together, in one line, and computes empty ones."""

import re

import pytest
import torch
from nn_cases import GATED, KERNELS, KINDS, core_of
from torch import Tensor

from zoo.nn import CAUSAL, BlockConfig, CoreSpec, PaddingMask

Q, K, V = torch.randn(3, 2, 4, 7, 8, generator=torch.Generator().manual_seed(0))
TYPES = "one floating point dtype"
SHAPES = r"expected q \[B, H, N, P\] and k, v \[B, G, M, P\]"
WRONG = {
    "k of another dtype": ((Q, K.double(), V), None, TYPES),
    "v of another dtype": ((Q, K, V.bfloat16()), None, TYPES),
    "integers": ((Q.long(), K.long(), V.long()), None, TYPES),
    "fewer values than keys": ((Q, K, V[:, :, :5]), None, SHAPES),
    "another head_dim": ((Q, K[..., :4], V), None, SHAPES),
    "another batch": ((Q, K[:1], V[:1]), None, SHAPES),
    "heads that cannot be shared": ((Q, K[:, :3], V[:, :3]), None, SHAPES),
    "a mask of numbers": ((Q, K, V), torch.ones(7, 7), "expected a zoo.nn.Mask or a bool tensor"),
    "padding of other rows": ((Q, K, V), PaddingMask(torch.ones(3, 7)), r"the mask has the shape \(3, 7\)"),
    "padding that is too short": ((Q, K, V), PaddingMask(torch.ones(2, 5)), r"the mask has the shape \(2, 5\)"),
    "a mask that is too small": ((Q, K, V), torch.ones(5, 5).bool(), r"the mask has the shape \(1, 1, 5, 5\)"),
    "rows in the place of heads": ((Q, K, V), torch.ones(2, 7, 7).bool(), r"the mask has the shape \(1, 2, 7, 7\)"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("kind", KINDS)
def test_what_does_not_go_together_is_refused(kind: str, case: str) -> None:
    qkv, mask, words = WRONG[case]
    with pytest.raises(ValueError) as error:
        core_of(kind)(*qkv, mask)
    assert re.search(words, str(error.value)) and "\n" not in str(error.value)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_in_it(kind: str) -> None:
    core = core_of(kind, causal=True)

    def shape(q: Tensor, k: Tensor, v: Tensor, mask: object = None) -> tuple[int, ...]:
        y = core(q, k, v, mask)
        assert not y.isnan().any()
        return tuple(y.shape)

    assert shape(Q[:0], K[:0], V[:0]) == (0, 4, 7, 8)
    assert shape(Q[:, :, :0], K[:, :, :0], V[:, :, :0], CAUSAL) == (2, 4, 0, 8)
    assert shape(Q[:, :, :0], K, V, CAUSAL if kind in GATED else None) == (2, 4, 0, 8)
    if kind in GATED:
        return  # for self-attention only
    assert shape(Q, K[:, :, :0], V[:, :, :0]) == (2, 4, 7, 8)
    if kind in KERNELS:
        assert core.weights(Q, K[:, :, :0]).shape == (2, 4, 7, 0)


@pytest.mark.parametrize("field", ["heads", "kv_heads", "head_dim"])
def test_sizes_of_zero_are_refused(field: str) -> None:
    sizes = {"heads": 4, "kv_heads": 4, "head_dim": 8} | {field: 0}
    with pytest.raises(ValueError, match=f"{field}=0.*positive"):
        CoreSpec(**sizes)
    with pytest.raises(ValueError, match=f"{field}=0.*positive"):
        BlockConfig(width=32, **sizes)
    with pytest.raises(ValueError, match=r"width=0.*positive"):
        BlockConfig(width=0, heads=4)
