"""Granite 4.0 (IBM 2025): stacks of Mamba-2 and attention layers."""

from zoo.models.granite.model import FAMILY, Granite, GraniteConfig

__all__ = ["FAMILY", "Granite", "GraniteConfig"]
