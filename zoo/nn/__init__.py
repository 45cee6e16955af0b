"""Building blocks that all models share: attention, blocks, stacks, masks, position biases. Needs torch alone."""

from typing import Any

from zoo.nn.attention import Attention
from zoo.nn.block import Block, LayerScale
from zoo.nn.block_config import BlockConfig
from zoo.nn.context import Context
from zoo.nn.core import Core, CoreSpec
from zoo.nn.delta_attention import DeltaAttention, GatedDeltaAttention
from zoo.nn.gated_cross import GatedCrossAttention
from zoo.nn.gated_linear_attention import GatedLinearAttention
from zoo.nn.graphs.graph_mask import GraphMask
from zoo.nn.init import initialize
from zoo.nn.kv_cache import KVCache, LinearAttentionState, RecurrentState, State
from zoo.nn.linear_attention import LinearAttention, Performer, RandomFeatureAttention
from zoo.nn.masks import (
    CAUSAL,
    NO_MASK,
    Causal,
    DocumentMask,
    GlobalTokensMask,
    Mask,
    NoMask,
    PaddingMask,
    Prefix,
    RandomBlocks,
    Strided,
    TensorMask,
    Window,
    Window2D,
)
from zoo.nn.mixers.base import Mixer, MixerConfig
from zoo.nn.mlp import MLP
from zoo.nn.position_biases import ALiBi, Bias, T5RelativeBias, TensorBias
from zoo.nn.registry import register_attention, register_mixer
from zoo.nn.rotary import Rotary, rotary
from zoo.nn.sinusoids import sinusoids, sinusoids_2d
from zoo.nn.softmax_attention import AdditiveAttention, SoftmaxAttention
from zoo.nn.sparse_attention import BigBird, LocalAttention, Longformer
from zoo.nn.stack import Stack
from zoo.utils import renamed

__all__ = [
    "CAUSAL", "MLP", "NO_MASK", "ALiBi", "AdditiveAttention", "Attention", "Bias", "BigBird", "Block", "BlockConfig",
    "Causal", "Context", "Core", "CoreSpec", "DeltaAttention", "DocumentMask", "GatedCrossAttention",
    "GatedDeltaAttention", "GatedLinearAttention", "GlobalTokensMask", "GraphMask", "KVCache", "LayerScale",
    "LinearAttention", "LinearAttentionState", "LocalAttention", "Longformer", "Mask", "Mixer", "MixerConfig", "NoMask",
    "PaddingMask", "Performer", "Prefix", "RandomBlocks", "RandomFeatureAttention",
    "RecurrentState", "Rotary", "SoftmaxAttention", "Stack", "State", "Strided", "T5RelativeBias", "TensorBias",
    "TensorMask", "Window", "Window2D", "initialize", "register_attention", "register_mixer", "rotary", "sinusoids",
    "sinusoids_2d",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Deprecated names."""
    return renamed.public_name(__name__, name)
