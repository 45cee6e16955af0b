"""Text datasets with labels, and plain text: loading, tokenization, batching."""
