"""Labelled texts and plain text: found, tokenized, batched."""
