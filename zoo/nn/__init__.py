"""The shared attention core. Everything here imports torch and nothing else."""

from zoo.nn.attention import Attention
from zoo.nn.block import Block, LayerScale
from zoo.nn.block_config import BlockSpec, Mixer, MixerSpec
from zoo.nn.context import Context
from zoo.nn.core import Core, CoreSpec
from zoo.nn.init import initialise
from zoo.nn.kv_cache import KeyValues, RunningSum, State
from zoo.nn.linear_attention import Linear, Performer, RandomFeature
from zoo.nn.masks import (
    CAUSAL,
    FULL,
    Causal,
    Documents,
    Edges,
    Full,
    Given,
    Global,
    Mask,
    Padding,
    Prefix,
    RandomBlocks,
    Strided,
    Window,
    Window2D,
)
from zoo.nn.mlp import MLP
from zoo.nn.position_biases import ALiBi, Bias, Buckets, Tabled
from zoo.nn.registry import register_attention, register_mixer
from zoo.nn.rotary import Rotary, rotary
from zoo.nn.sinusoids import sinusoids, sinusoids_2d
from zoo.nn.softmax_attention import Additive, Softmax
from zoo.nn.sparse_attention import BigBird, Local, Longformer
from zoo.nn.stack import Stack

__all__ = [
    "CAUSAL", "FULL", "MLP", "ALiBi", "Additive", "Attention", "Bias", "BigBird", "Block", "BlockSpec", "Buckets",
    "Causal", "Context", "Core", "CoreSpec", "Documents", "Edges", "Full", "Given", "Global", "KeyValues", "LayerScale",
    "Linear", "Local", "Longformer", "Mask", "Mixer", "MixerSpec", "Padding", "Performer", "Prefix", "RandomBlocks",
    "RandomFeature", "Rotary", "RunningSum", "Softmax", "Stack", "State", "Strided", "Tabled", "Window", "Window2D",
    "initialise", "register_attention", "register_mixer", "rotary", "sinusoids", "sinusoids_2d",
]  # fmt: skip
