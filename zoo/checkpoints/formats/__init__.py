"""Checkpoint formats: our own and those of other libraries."""
