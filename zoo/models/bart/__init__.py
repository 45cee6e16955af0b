"""BART (Lewis et al. 2020) and mBART (Liu et al. 2020): encoder-decoders with learned positions."""

from zoo.models.bart.model import FAMILY, Bart, BartConfig

__all__ = ["FAMILY", "Bart", "BartConfig"]
