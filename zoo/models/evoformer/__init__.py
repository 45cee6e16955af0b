"""The Evoformer of AlphaFold 2 (Jumper et al. 2021): an alignment and the pairs of its residues, updated in turn."""

from zoo.models.evoformer.model import FAMILY, Evoformer, EvoformerConfig

__all__ = ["FAMILY", "Evoformer", "EvoformerConfig"]
