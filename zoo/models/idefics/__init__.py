"""Idefics: an open Flamingo (Alayrac et al. 2022) of LLaMA and CLIP's ViT-H, by gated cross-attention."""

from zoo.models.idefics.model import FAMILY, Idefics

__all__ = ["FAMILY", "Idefics"]
