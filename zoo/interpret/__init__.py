"""Attention maps: captured, summarized and plotted."""
