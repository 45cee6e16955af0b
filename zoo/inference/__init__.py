"""Predictions, decoding of CTC, optimized models, and what a model costs."""
