"""MaskGIT (Chang et al. 2022): a bidirectional stack that fills in masked image tokens, several at a time."""

from zoo.models.maskgit.model import FAMILY, MaskGIT, MaskGITConfig

__all__ = ["FAMILY", "MaskGIT", "MaskGITConfig"]
