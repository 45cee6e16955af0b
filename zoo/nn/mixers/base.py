"""Base class and registry of mixers: modules that mix the tokens of a row without attention weights."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn

MIXERS: dict[str, type[nn.Module]] = {}


@dataclass(frozen=True)
class MixerConfig:
    """What a mixer is built from: the configuration of its block, its layer number and the number of layers."""

    block: Any  # a `BlockConfig`, which imports this file
    layer: int
    depth: int

    @property
    def width(self) -> int:
        return int(self.block.width)

    @property
    def heads(self) -> int:
        return int(self.block.heads)

    @property
    def causal(self) -> bool:
        return bool(self.block.causal)


class Mixer(nn.Module):
    """Base class of token mixers that replace attention. Subclasses define `__init__(self, spec: MixerConfig)` and
    `forward(x [B, N, D], context, state) -> [B, N, D]`.

    Rows arrive without padding, grouped by length. `context.mask` holds the mask, such as a causal one. A mixer that
    supports decoding also defines `new_state(batch, capacity, like)`, a `State`, and gets it as `state.mixer`; the
    stack counts its tokens. With a `RecurrentState` the rows of a padded prompt may differ in length. A mixer with
    `masks_padding = True` also gets rows with padding, which `context.mask.keep` marks, where it must be kept: while
    decoding and under torch.compile.
    `zoo.check(MyMixer)` tests all of this.
    """

    kind: str  # the name of a built-in mixer
    fixed_length_graph: bool = False  # whether a traced graph holds for one length
    reads_bias: bool = False  # whether it adds `context.bias`; a model with a bias needs a layer that does

    def __init__(self, spec: MixerConfig) -> None:
        super().__init__()
        self.spec = spec


M = TypeVar("M", bound=Mixer)


def mixer(name: str) -> Callable[[type[M]], type[M]]:
    """Class decorator: register a built-in mixer, `mixer=name`. Its file is in `zoo/nn/mixers/`."""

    def register(cls: type[M]) -> type[M]:
        if name in MIXERS:
            raise ValueError(f"there are two mixers named {name!r}: {MIXERS[name].__name__}, {cls.__name__}")
        MIXERS[name], cls.kind = cls, name
        return cls

    return register
