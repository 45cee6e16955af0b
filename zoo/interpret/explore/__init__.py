"""A page to look into the attention of any model: one HTML file that needs no network and no server."""

from zoo.interpret.explore.page import AttentionPage, explore

__all__ = ["AttentionPage", "explore"]
