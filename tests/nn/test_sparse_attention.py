"""Patterns of the sparse kinds; their outputs are tested in test_core.py and test_block_sparse.py."""

import pytest
import torch

from zoo.nn import CoreSpec
from zoo.nn.registry import build_core
from zoo.nn.sparse.block_patterns import BlockLayout, as_layout


def test_shifted_windows_are_those_of_swin():
    """Swin rolls the image by -shift, cuts it into windows and masks what does not belong together."""
    size, window = 6, 4
    for layer, shift in ((0, 0), (1, 2)):
        spec = CoreSpec(heads=1, kv_heads=1, head_dim=4, layer=layer)
        core = build_core({"kind": "shifted_window", "window": window, "grid": [size, size]}, spec)
        regions = [(i >= shift) + (i - shift) // window * (i >= shift) for i in range(size)]
        near = torch.tensor([[a == b for b in regions] for a in regions])
        expected = (near[:, None, :, None] & near[None, :, None, :]).reshape(size**2, size**2)
        assert torch.equal(core.pattern.dense(size**2, size**2)[0, 0], expected)
    with_class_token = build_core({"kind": "shifted_window", "grid": (2, 2), "window": 1, "prefix": 1}, spec)
    seen = with_class_token.pattern.dense(5, 5)[0, 0]
    assert seen[0].all() and seen[:, 0].all() and torch.equal(seen[1:, 1:], torch.eye(4).bool())


def test_dilated_windows_keep_their_number_of_keys():
    for causal, expected in ((True, [2, 5, 8]), (False, [2, 5, 8, 11, 14])):
        spec = CoreSpec(heads=1, kv_heads=1, head_dim=4, causal=causal)
        core = build_core({"kind": "dilated", "window": 3 if causal else 4, "dilation": 3}, spec)
        assert core.pattern.dense(20, 20)[0, 0, 8].nonzero().flatten().tolist() == expected


def test_layouts_of_blocks():
    spec = CoreSpec(heads=1, kv_heads=1, head_dim=4)
    layout = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 0]])
    for given in (layout, layout.bool(), layout.tolist()):
        core = build_core({"kind": "block_sparse", "block": 2, "layout": given}, spec)
        expected = layout.bool().repeat_interleave(2, 0).repeat_interleave(2, 1)
        assert torch.equal(core.pattern.dense(6, 6)[0, 0], expected) and core.pattern == BlockLayout(
            2, as_layout(layout)
        )
    q, k, v = torch.randn(3, 1, 1, 5, 4)  # the last block is partly filled; the second one sees nothing
    assert not core(q, k, v)[:, :, 2:4].any()
    neighbors = build_core({"kind": "block_sparse", "block": 3}, spec).pattern.dense(12, 12)[0, 0]
    assert neighbors[4].nonzero().flatten().tolist() == list(range(9))
    with pytest.raises(ValueError, match="3 blocks of 2 tokens, 6 in all, and got 7"):
        core(*torch.randn(3, 1, 1, 7, 4))
    with pytest.raises(ValueError, match="6 in all"):
        core.weights(*torch.randn(2, 1, 1, 7, 4))
    for wrong in ([[1, 2], [0, 1]], [[True], [False, True]], "all", [1, 0], [[1, 0]], torch.zeros(0, 0)):
        with pytest.raises(ValueError, match=r"layout: expected"):
            build_core({"kind": "block_sparse", "layout": wrong}, spec)
