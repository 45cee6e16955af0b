"""Alignments of protein families with contact maps: loading, batches, and the classic predictions of contacts."""
