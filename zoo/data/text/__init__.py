"""Labeled texts and plain text: found, tokenized, batched."""
