"""Gated cross-attention beside flamingo-pytorch and transformers' Idefics, and what holds without a peer."""

import pytest
import torch
from peers import error, randomize
from torch import nn
from transformers.models.idefics.configuration_idefics import IdeficsConfig
from transformers.models.idefics.modeling_idefics import IdeficsGatedCrossAttentionLayer

import zoo
from zoo.models.mapping.tensors import import_tensors
from zoo.nn.block_config import BlockConfig
from zoo.nn.context import Context
from zoo.nn.gated_cross import GatedCrossAttention, TanhGate, images_seen
from zoo.nn.kv_cache import KVCache, LayerState
from zoo.nn.masks import PaddingMask
from zoo.nn.mlp import MLP

# Our names and those of lucidrains' flamingo-pytorch.
FLAMINGO_PYTORCH = """
    norm1.@             = attn.norm.@
    cross.q.weight      = attn.to_q.weight
    cross.{k,v}.weight  = attn.to_kv.weight
    cross.out.weight    = attn.to_out.weight
    gate1.alpha         = attn_gate
    norm2.@             = ff.0.@
    mlp.up.weight       = ff.1.weight
    mlp.down.weight     = ff.3.weight
    gate2.alpha         = ff_gate
"""
IDEFICS = """
    norm1.weight        = input_layernorm.weight
    cross.q.weight      = cross_attn.q_proj.weight
    cross.k.weight      = cross_attn.k_proj.weight
    cross.v.weight      = cross_attn.v_proj.weight
    cross.q_norm.weight = cross_attn.q_layer_norm.weight
    cross.k_norm.weight = cross_attn.k_layer_norm.weight
    cross.out.weight    = cross_attn.o_proj.weight
    gate1.alpha         = alpha_cross_attn      row0 row0
    norm2.weight        = post_attention_layernorm.weight
    mlp.gate.weight     = mlp.gate_proj.weight
    mlp.up.weight       = mlp.up_proj.weight
    mlp.down.weight     = mlp.down_proj.weight
    gate2.alpha         = alpha_dense           row0 row0
"""
IMAGES, TOKENS = 3, 5


def make(kind="softmax", *, memory_width=24, per_channel=False, **options) -> GatedCrossAttention:
    spec = BlockConfig(**dict(width=24, heads=4, head_dim=6, norm_eps=1e-5, bias=False) | options)
    cross = spec.attend(0, 1, kind, cross=True, memory_width=memory_width)
    mlp = MLP(24, spec.mlp_dim or 96, spec.act, spec.gated_mlp, bias=False)
    return GatedCrossAttention(cross, mlp, spec.make_norm, lambda: TanhGate(24 if per_channel else None))


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def context(memory: torch.Tensor | None, markers: torch.Tensor, sees="last") -> Context:
    """memory [B, I * L, D] of IMAGES images of TOKENS tokens each."""
    seen = images_seen(markers, IMAGES, sees).repeat_interleave(TOKENS, -1)[:, None]
    return Context(memory=memory, memory_mask=seen).for_forward(markers.shape[1])


def places() -> torch.Tensor:
    """Three images, two, and none; tokens before the first image in each row."""
    markers = torch.zeros(3, 9, dtype=torch.bool)
    markers[0, [1, 4, 5]] = True
    markers[1, [0, 7]] = True
    return markers


def fill(block: nn.Module, theirs: nn.Module, table: str) -> nn.Module:
    tensors, _ = import_tensors(table, block.state_dict(), theirs.state_dict())
    block.load_state_dict(tensors)
    return block.eval()


@pytest.mark.parametrize("sees", ["last", "all"])
@torch.no_grad()
def test_as_flamingo_pytorch(sees):
    peer = pytest.importorskip("flamingo_pytorch", reason="pip install --no-deps flamingo-pytorch einops einops-exts")
    theirs = randomize(
        peer.GatedCrossAttentionBlock(dim=24, dim_head=6, heads=4, only_attend_immediate_media=sees == "last")
    )
    block = fill(make(), theirs, FLAMINGO_PYTORCH)
    x, media, markers = random(3, 9, 24), random(3, IMAGES, TOKENS, 24, seed=1), places()
    # Theirs gives tokens before the first image the mean of all images if they see all of those before them.
    real = slice(None) if sees == "last" else markers.cumsum(1) > 0
    ours = block(x, context(media.flatten(1, 2), markers, sees))
    assert error(ours[real], theirs(x, media, markers)[real]) <= 1e-5
    block, theirs, x, media = block.double(), theirs.double(), x.double(), media.double()
    ours = block(x, context(media.flatten(1, 2), markers, sees))
    assert error(ours[real], theirs(x, media, markers)[real]) <= 1e-12


@pytest.mark.parametrize("kind", ["float", "vector"])
@torch.no_grad()
def test_as_idefics(kind):
    config = IdeficsConfig(
        hidden_size=24, intermediate_size=40, num_attention_heads=4, vision_config=dict(embed_dim=20),
        alpha_type=kind, qk_layer_norms=kind == "vector",
    )  # fmt: skip
    theirs = randomize(IdeficsGatedCrossAttentionLayer(config, 0))
    block = make(
        memory_width=20, per_channel=kind == "vector", qk_norm=kind == "vector", mlp_dim=40, act="silu", gated_mlp=True,
        norm="rms", norm_eps=1e-6,
    )  # fmt: skip
    fill(block, theirs, IDEFICS if kind == "vector" else IDEFICS.replace("row0 row0", ""))
    x, memory, markers = random(3, 9, 24), random(3, IMAGES * TOKENS, 20, seed=1), places()
    seen = images_seen(markers, IMAGES).repeat_interleave(TOKENS, -1)
    expected = theirs(
        x,
        image_hidden_states=memory,
        image_attention_mask=torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[:, None],
        cross_attention_gate=seen.any(-1).float(),
    )
    assert error(block(x, context(memory, markers)), expected) <= 1e-5


def test_images_seen():
    markers = torch.tensor([[0, 1, 0, 1, 0]]).bool()
    last, every = images_seen(markers, 2)[0].int().tolist(), images_seen(markers, 2, "all")[0].int().tolist()
    assert last == [[0, 0], [1, 0], [1, 0], [0, 1], [0, 1]]
    assert every == [[0, 0], [1, 0], [1, 0], [1, 1], [1, 1]]
    with pytest.raises(ValueError, match="sees='first': expected 'last'"):
        images_seen(markers, 2, "first")


@pytest.mark.parametrize("kind", ["softmax", "additive"])
def test_gates_at_zero_change_nothing_and_tokens_without_images_get_exactly_zero(kind):
    block = make(kind)
    zoo.nn.initialize(block, 0)
    x, memory, markers = random(3, 9, 24), random(3, IMAGES * TOKENS, 24, seed=1), places()
    assert torch.equal(block(x, context(memory, markers)), x)
    block(x, context(memory, markers)).square().sum().backward()
    assert all(gate.alpha.grad.all() for gate in (block.gate1, block.gate2))  # so they leave zero
    randomize(block)
    with torch.no_grad():
        y, alone = block(x, context(memory, markers)), block(x, Context())
    unseeing = ~images_seen(markers, IMAGES).any(-1)
    assert unseeing.any(1).tolist() == [True, False, True]
    with torch.no_grad():
        mixed = block.cross(block.norm1(x), context(memory, markers), memory=memory)
    assert not mixed[unseeing].any() and mixed[~unseeing].any(-1).all()
    assert error(y[unseeing], alone[unseeing]) <= 1e-6 and error(y[~unseeing], alone[~unseeing]) > 1e-3


@torch.no_grad()
def test_keys_and_values_are_projected_once():
    block = randomize(make(qk_norm=True))
    x, memory = random(2, 9, 24), random(2, IMAGES * TOKENS, 24, seed=1)
    keep = torch.ones(2, IMAGES * TOKENS, dtype=torch.bool)
    keep[1, 10:] = False
    given = Context(memory=memory, memory_mask=PaddingMask(keep)).for_forward(9)
    state, calls = LayerState(KVCache(2, 4, 8, 6, memory)), []
    block.cross.k.register_forward_hook(lambda *_: calls.append(1))
    steps = [block(x[:, i : i + 1], given, state) for i in range(9)]
    assert len(calls) == 1
    assert error(torch.cat(steps, 1), block(x, given)) <= 1e-5


@pytest.mark.parametrize("kind", ["softmax", "linear", "performer"])
@torch.no_grad()
def test_a_kind_without_weights_takes_images_that_all_tokens_see(kind):
    block = make(kind)
    zoo.nn.initialize(block, 0)
    randomize(block)
    x, memory = random(2, 9, 24), random(2, IMAGES * TOKENS, 24, seed=1)
    keep = torch.ones(2, IMAGES * TOKENS, dtype=torch.bool)
    keep[1, TOKENS:] = False
    y = block(x, Context(memory=memory, memory_mask=PaddingMask(keep)).for_forward(9))
    assert error(y[1:], block(x[1:], Context(memory=memory[1:, :TOKENS]))) <= 1e-5


def test_a_bias_of_the_output_is_refused():
    with pytest.raises(ValueError, match="build it with bias=False"):
        make(bias=True)
