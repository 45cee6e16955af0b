"""RetNet (Sun et al. 2023): a decoder with multi-scale retention in place of attention."""

from zoo.models.retnet.model import FAMILY, RetNet, RetNetConfig

__all__ = ["FAMILY", "RetNet", "RetNetConfig"]
