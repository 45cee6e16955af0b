"""Scaling laws: sweeps over model size and training tokens, fits of the loss, and their report."""
