"""The kinds for the tokens of images: patterns by hand, and the tiles that compute them."""

import pytest
import torch

import zoo
from zoo.nn import CAUSAL, CoreSpec
from zoo.nn.grid_attention import on_grid
from zoo.nn.registry import build_core
from zoo.nn.sparse.block_sparse import stride_of, tiles_of
from zoo.nn.sparse.mask_bounds import Spans, may_allow

# Of a text of two tokens and an image of three rows and three columns, the keys of the image that each of its tokens
# sees before it.
ROW = [[0], [0, 1], [0, 1, 2], [3], [3, 4], [3, 4, 5], [6], [6, 7], [6, 7, 8]]
COLUMN = [[0], [1], [2], [0, 3], [1, 4], [2, 5], [0, 3, 6], [1, 4, 7], [2, 5, 8]]
SQUARE = [[0], [0, 1], [0, 1, 2], [0, 3], [0, 1, 3, 4], [0, 1, 2, 3, 4, 5], [0, 3, 6], [0, 1, 3, 4, 6, 7], [*range(9)]]


def core_of(kind: str, causal: bool = True, **options):
    return build_core({"kind": kind, **options}, CoreSpec(heads=2, kv_heads=2, head_dim=8, causal=causal))


@pytest.mark.parametrize(("kind", "keys"), [("axial_row", ROW), ("axial_column", COLUMN), ("conv_like", SQUARE)])
def test_patterns(kind, keys):
    options = {"kernel": 3} if kind == "conv_like" else {}
    expected = torch.zeros(11, 11, dtype=torch.bool)
    expected[:2, :2] = torch.ones(2, 2).tril().bool()
    expected[2:, :2] = True
    for query, seen in enumerate(keys):
        expected[query + 2, [key + 2 for key in seen]] = True
    pattern = CAUSAL & core_of(kind, columns=3, prefix=2, **options).pattern
    assert torch.equal(pattern.dense(11, 11)[0, 0], expected)
    both = core_of(kind, causal=False, columns=3, prefix=2, **options).pattern.dense(11, 11)[0, 0]
    assert both[:2].all() and both[:, :2].all() and torch.equal(both, both.T)
    center = {"axial_row": [3, 4, 5], "axial_column": [1, 4, 7], "conv_like": [*range(9)]}[kind]
    assert both[6, 2:].nonzero().flatten().tolist() == center
    if kind == "conv_like":
        assert both[2, 2:].nonzero().flatten().tolist() == [0, 1, 3, 4]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("kind", ["axial_row", "axial_column", "conv_like"])
def test_tiles_skip_what_is_not_seen(kind, causal):
    core, tokens = core_of(kind, causal, columns=24, prefix=30), 30 + 24 * 24
    mask = CAUSAL & core.pattern if causal else core.pattern
    tiles = tiles_of(mask, tokens, tokens, 1 << 20, 1)
    assert tiles is not None
    pairs = sum(len(torch.arange(tokens)[t.queries]) * len(torch.arange(tokens)[t.keys]) for t in tiles.tiles)
    assert pairs < 0.7 * tokens**2
    q, k, v = torch.randn(3, 1, 2, tokens, 8, generator=torch.Generator().manual_seed(0))
    given = CAUSAL if causal else None
    assert torch.allclose(core(q, k, v, given), core.weights(q, k, given) @ v, atol=1e-5)
    first = torch.arange(0, tokens, 32)
    spans = Spans(first[None], (first + 31).clamp(max=tokens - 1)[None])
    dense, bound = mask.dense(tokens, tokens)[0, 0], may_allow(mask, spans, spans)[0]
    blocks = torch.nn.functional.max_pool2d(dense.float()[None], 32, ceil_mode=True)[0] > 0
    assert not (blocks & ~bound).any()


def test_grids_come_from_the_model():
    assert on_grid("softmax", 4, 9) == "softmax"
    assert on_grid(["axial_row", {"kind": "conv_like", "kernel": 3}], 4, 9) == (
        {"kind": "axial_row", "columns": 4, "prefix": 9},
        {"kind": "conv_like", "columns": 4, "prefix": 9, "kernel": 3},
    )
    assert stride_of(CAUSAL & core_of("axial_column", columns=5, prefix=7).pattern) == (5, 7)
    with pytest.raises(ValueError, match="kernel=2: expected an odd number"):
        core_of("conv_like", kernel=2)
    with pytest.raises(ValueError, match="columns=0"):
        core_of("axial_row", columns=0)


@pytest.mark.parametrize(("name", "options", "prefix"), [
    ("vit_cifar_tiny", {}, 0), ("vit_cifar_tiny", {"class_token": True, "registers": 2}, 3),
    ("blip_nano", {"encoder_attention": "conv_like"}, 1), ("coca_nano", {"encoder_attention": "conv_like"}, 1),
])  # fmt: skip
def test_models_of_images_give_the_kinds_their_grid(name: str, options: dict, prefix: int) -> None:
    """A patch on the grid of 8 x 8 sees the square around it and the tokens before the image."""
    attention = {} if "encoder_attention" in options else {"attention": "conv_like"}
    model = zoo.create_model(name, seed=0, image_size=32, patch_size=4, depth=1, **attention, **options)
    blocks = getattr(model, "encoder", model).blocks
    seen = blocks[0].mixer.core.pattern.dense(64 + prefix, 64 + prefix)[0, 0, prefix + 3 * 8 + 4]
    square = [prefix + row * 8 + column for row in range(1, 6) for column in range(2, 7)]
    assert seen.nonzero().flatten().tolist() == [*range(prefix), *square]


def test_another_grid_than_that_of_the_images_is_refused() -> None:
    for given in ({"columns": 4}, {"prefix": 1}):
        with pytest.raises(ValueError, match=r"have 8 tokens in a row, after 0 others: omit"):
            zoo.create_model("vit_cifar_tiny", seed=0, attention={"kind": "axial_row"} | given)
    model = zoo.create_model("vit_cifar_tiny", seed=0, depth=1, attention="axial_column")
    with pytest.raises(ValueError, match=r"kinds\) needs images of"):
        model([torch.zeros(3, 32, 32), torch.zeros(3, 64, 32)])
