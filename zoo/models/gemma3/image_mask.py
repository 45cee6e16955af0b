"""A causal mask under which the tokens of one image see each other."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.nn.index_functions import Index
from zoo.nn.masks import CAUSAL, Mask, Window
from zoo.nn.padding import places_real_first


@dataclass(frozen=True, eq=False)
class ImageMask(Mask):
    """The tokens of one image see each other; all tokens see what `inner` allows.

    images [B or 1, N]: the number of the image that a token is of, -1 for words, by the position of a token among the
    real tokens of its row. A window hides the tokens of an image that are farther back than its left side, and none
    that come after.
    """

    images: Tensor = field(repr=False)
    inner: Mask  # without a default, which torch.compile would not trace
    left: int | None = None

    @property
    def batch(self) -> int:  # type: ignore[override]
        return max(self.images.shape[0], self.inner.batch)

    def __and__(self, other: Mask) -> Mask:
        inner, left = self.inner & other, self.left
        if isinstance(other, Window):
            left = other.left if left is None else min(left, other.left)
        return self if inner is self.inner and left == self.left else ImageMask(self.images, inner, left)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, ImageMask)
            and self.images is other.images
            and (self.inner, self.left) == (other.inner, other.left)
        )

    def __hash__(self) -> int:
        own = vars(self)  # torch.compile asks before they are set
        return hash((id(own.get("images")), own.get("inner"), own.get("left")))

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        row = b if self.images.shape[0] > 1 else b * 0
        own = self.images[row, q]
        same: Tensor = (own == self.images[row, k]) & (own >= 0)
        same = same if self.left is None else same & (q - k <= self.left)
        return same | self.inner.__call__(b, h, q, k)


def image_mask(where: Tensor, attention_mask: Tensor | None) -> ImageMask:
    """The mask for tokens of images at `where` [B, N], of which each run is one image; attention_mask [B, N] is 0 at
    padding, wherever that is."""
    if attention_mask is not None:
        keep = attention_mask.bool()
        where = torch.zeros_like(where).scatter(1, places_real_first(keep), where & keep)
    begins = where & ~F.pad(where, (1, 0))[:, :-1]
    images = (begins.cumsum(1) - 1).masked_fill(~where, -1)
    return ImageMask(images, CAUSAL)
