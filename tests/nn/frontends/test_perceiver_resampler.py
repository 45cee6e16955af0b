"""The perceiver resampler beside flamingo-pytorch and transformers' Idefics, by a mapping of their weights."""

import pytest
import torch
from peers import error, randomize
from transformers.models.idefics.configuration_idefics import IdeficsConfig
from transformers.models.idefics.perceiver import IdeficsPerceiverResampler

import zoo
from zoo.models.mapping.tensors import import_tensors
from zoo.nn.frontends.perceiver_resampler import PerceiverResampler

# Our names and those of lucidrains' flamingo-pytorch.
FLAMINGO_PYTORCH = """
    latents                     = latents
    frames                      = media_pos_emb
    blocks.*.mixer.memory_norm.@ = layers.*.0.norm_media.@
    blocks.*.norm1.@            = layers.*.0.norm_latents.@
    blocks.*.mixer.q.weight     = layers.*.0.to_q.weight
    blocks.*.mixer.{k,v}.weight = layers.*.0.to_kv.weight
    blocks.*.mixer.out.weight   = layers.*.0.to_out.weight
    blocks.*.norm2.@            = layers.*.1.0.@
    blocks.*.mlp.up.weight      = layers.*.1.1.weight
    blocks.*.mlp.down.weight    = layers.*.1.3.weight
    blocks.norm.@               = norm.@
"""
IDEFICS = """
    latents                     = latents
    blocks.*.mixer.memory_norm.@ = blocks.*.0.context_layer_norm.@
    blocks.*.norm1.@            = blocks.*.0.latents_layer_norm.@
    blocks.*.mixer.q.weight     = blocks.*.0.q_proj.weight
    blocks.*.mixer.k.weight     = blocks.*.0.k_proj.weight
    blocks.*.mixer.v.weight     = blocks.*.0.v_proj.weight
    blocks.*.mixer.q_norm.@     = blocks.*.0.q_layer_norm.@
    blocks.*.mixer.k_norm.@     = blocks.*.0.k_layer_norm.@
    blocks.*.mixer.out.weight   = blocks.*.0.output_proj.weight
    blocks.*.norm2.@            = blocks.*.1.ln.@
    blocks.*.mlp.up.weight      = blocks.*.1.fc.weight
    blocks.*.mlp.down.weight    = blocks.*.1.c_proj.weight
    blocks.norm.@               = layer_norm.@
"""


def ours(theirs: torch.nn.Module, table: str, **options) -> PerceiverResampler:
    resampler = PerceiverResampler(24, latents=5, depth=2, heads=4, head_dim=6, **options)
    found = {name: x.squeeze(1) if "pos_emb" in name else x for name, x in theirs.state_dict().items()}
    tensors, _ = import_tensors(table, resampler.state_dict(), found)
    resampler.load_state_dict(tensors)
    return resampler.eval()


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_as_flamingo_pytorch():
    peer = pytest.importorskip("flamingo_pytorch", reason="pip install --no-deps flamingo-pytorch einops einops-exts")
    theirs = randomize(peer.PerceiverResampler(dim=24, depth=2, dim_head=6, heads=4, num_latents=5, num_media_embeds=3))
    resampler = ours(theirs, FLAMINGO_PYTORCH, frames=3)
    features = random(2, 3, 7, 24)
    assert error(resampler(features), theirs(features)) <= 1e-5
    assert error(resampler(features[:, 0]), theirs(features[:, 0])[:, 0]) <= 1e-5
    theirs, resampler = theirs.double(), resampler.double()
    assert error(resampler(features.double()), theirs(features.double())) <= 1e-12


@pytest.mark.parametrize("norms", [False, True])
@torch.no_grad()
def test_as_idefics(norms):
    config = IdeficsConfig(
        vision_config=dict(embed_dim=24), perceiver_config=dict(use_resampler=True, qk_layer_norms_perceiver=norms)
    )
    theirs = randomize(IdeficsPerceiverResampler(config, 24, 2, 4, 6, 5))
    resampler = ours(theirs, IDEFICS, act="relu", qk_norm=norms)
    features = random(3, 7, 24)
    assert error(resampler(features), theirs(features)) <= 1e-5
    keep = torch.arange(7) < torch.tensor([[7], [4], [1]])
    y = resampler(features, keep)
    assert error(y[1:2], theirs(features[1:2, :4])) <= 1e-5 and error(y[2:], theirs(features[2:, :1])) <= 1e-5
    features = features.double()
    assert error(resampler.double()(features), theirs.double()(features)) <= 1e-12


@pytest.mark.parametrize("kind", ["softmax", "linear", "additive"])
def test_every_part_is_trained_and_images_are_independent(kind):
    resampler = PerceiverResampler(24, latents=5, depth=2, heads=4, head_dim=6, attention=kind, frames=2)
    zoo.nn.initialize(resampler, 0)
    features = random(3, 2, 7, 24)
    y = resampler(features)
    assert y.shape == (3, 2, 5, 24) and resampler.num_tokens == 5
    (y * random(*y.shape, seed=1)).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in resampler.parameters())
    assert error(resampler(features[1:2]), y[1:2]) <= 1e-5
    shuffled = features[:, :, torch.randperm(7, generator=torch.Generator().manual_seed(0))]
    assert error(resampler(shuffled), y) <= 1e-5  # the features of an image are a set


def test_bad_input():
    resampler = PerceiverResampler(24, latents=5, depth=1, heads=4, head_dim=6, frames=2)
    with pytest.raises(ValueError, match=r"expected features \[I, M, 24\] of images"):
        resampler(random(3, 7, 23))
    with pytest.raises(ValueError, match="got 3 frames, but the resampler has position embeddings for 2"):
        resampler(random(1, 3, 7, 24))
    with pytest.raises(ValueError, match="latents=0: expected a positive integer"):
        PerceiverResampler(24, latents=0)
    with pytest.raises(ValueError, match="gates of this kind"):
        PerceiverResampler(24, attention="gated_linear")
    with pytest.raises(ValueError, match="pattern"):
        PerceiverResampler(24, attention={"kind": "local", "window": 3})
