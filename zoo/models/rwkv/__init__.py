"""RWKV-4 (Peng et al. 2023): a decoder of time mixing and channel mixing, both recurrent, without attention."""

from zoo.models.rwkv.model import FAMILY, RWKV, RwkvConfig

__all__ = ["FAMILY", "RWKV", "RwkvConfig"]
