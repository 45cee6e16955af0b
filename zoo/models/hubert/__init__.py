"""HuBERT (Hsu et al. 2021): the network of wav2vec 2.0, trained to predict hidden units."""

from zoo.models.hubert.model import FAMILY, Hubert, HubertConfig

__all__ = ["FAMILY", "Hubert", "HubertConfig"]
