"""The mask of a prefix language model whose prefix stays visible under a window."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from zoo.nn.index_functions import Index
from zoo.nn.masks import CAUSAL, Mask
from zoo.nn.padding import places_real_first
from zoo.nn.recurrent_core import RecurrentCore


@dataclass(frozen=True, eq=False)
class PrefixMask(Mask):
    """The tokens of the prefix see each other; all tokens see what `inner` allows.

    prefix [B or 1, N]: True for the tokens of the prefix, by their position among the real tokens of their row. What a
    kind of attention hides, such as a window, it hides from `inner` alone: within the prefix all is seen.
    """

    prefix: Tensor = field(repr=False)
    inner: Mask  # without a default, which torch.compile would not trace

    @property
    def batch(self) -> int:  # type: ignore[override]
        return max(self.prefix.shape[0], self.inner.batch)

    def __and__(self, other: Mask) -> Mask:
        inner = self.inner & other
        return self if inner is self.inner else PrefixMask(self.prefix, inner)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PrefixMask) and self.prefix is other.prefix and self.inner == other.inner

    def __hash__(self) -> int:
        own = vars(self)  # torch.compile asks before they are set
        return hash((id(own.get("prefix")), own.get("inner")))

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        row = b if self.prefix.shape[0] > 1 else b * 0
        inside: Tensor = self.prefix[row, q] & self.prefix[row, k]
        return inside | self.inner.__call__(b, h, q, k)


def prefix_mask(token_type_ids: Tensor, attention_mask: Tensor | None) -> PrefixMask:
    """The mask for token_type_ids [B, N], 0 in the prefix; attention_mask [B, N] is 0 at padding, wherever that is."""
    prefix = token_type_ids == 0
    if attention_mask is not None:
        prefix = torch.zeros_like(prefix).scatter(1, places_real_first(attention_mask != 0), prefix)
    return PrefixMask(prefix, CAUSAL)


def check_sees_ahead(blocks: Iterable[nn.Module], what: str) -> None:
    """Raise ValueError for a block that cannot let some tokens see later ones; what: these tokens, in a message."""
    for block in blocks:
        mixer: Any = block.mixer
        core = getattr(mixer, "core", None)
        if core is None or isinstance(core, RecurrentCore):
            name = type(mixer).__name__ if core is None else core.kind
            raise ValueError(
                f"{name!r} in the text tower reads the tokens in order, and {what} see later ones, which needs "
                "attention weights: use text.attention='softmax', 'additive', 'local' or another kind that has them, "
                "and no text.mixer"
            )
