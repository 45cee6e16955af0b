"""HuBERT (Hsu et al. 2021)."""

from zoo.models.hubert.model import FAMILY, Hubert, HubertConfig

__all__ = ["FAMILY", "Hubert", "HubertConfig"]
