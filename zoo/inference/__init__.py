"""Predictions, CTC decoding, generation, optimized models, and the cost of a model."""
