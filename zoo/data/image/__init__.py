"""Labeled images: found, decoded, augmented."""
