"""Datasets of images or audio clips with captions."""
