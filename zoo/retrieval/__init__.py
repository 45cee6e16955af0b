"""Embeddings: computed, stored, searched; zero-shot classification."""
