"""RoBERTa (Liu et al. 2019) and XLM-R (Conneau et al. 2020)."""

from zoo.models.roberta.model import FAMILY, Roberta, RobertaConfig

__all__ = ["FAMILY", "Roberta", "RobertaConfig"]
