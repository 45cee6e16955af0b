"""Synthetic datasets, so that every recipe runs without a download."""
