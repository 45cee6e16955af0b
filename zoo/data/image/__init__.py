"""Labelled images: found, decoded, augmented."""
