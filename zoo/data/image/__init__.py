"""Labeled image datasets: loading, decoding, augmentation."""
