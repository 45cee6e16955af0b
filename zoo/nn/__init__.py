"""The shared attention core. Everything here imports torch and nothing else."""

from .attention import Attention
from .biases import ALiBi, Bias, Buckets, Tabled
from .block import Block, LayerScale
from .context import Context
from .cores import Additive, BigBird, Core, CoreSpec, Local, Longformer, Softmax
from .init import initialise
from .kinds import register_attention, register_mixer
from .linear import Linear, Performer, RandomFeature
from .masks import (
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
from .mlp import MLP
from .positions import Rotary, rotary, sinusoids, sinusoids_2d
from .spec import BlockSpec, Mixer, MixerSpec
from .stack import Stack
from .state import KeyValues, RunningSum, State

__all__ = [
    "CAUSAL", "FULL", "MLP", "ALiBi", "Additive", "Attention", "Bias", "BigBird", "Block", "BlockSpec", "Buckets",
    "Causal", "Context", "Core", "CoreSpec", "Documents", "Edges", "Full", "Given", "Global", "KeyValues", "LayerScale",
    "Linear", "Local", "Longformer", "Mask", "Mixer", "MixerSpec", "Padding", "Performer", "Prefix", "RandomBlocks",
    "RandomFeature", "Rotary", "RunningSum", "Softmax", "Stack", "State", "Strided", "Tabled", "Window", "Window2D",
    "initialise", "register_attention", "register_mixer", "rotary", "sinusoids", "sinusoids_2d",
]  # fmt: skip
