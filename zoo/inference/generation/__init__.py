"""Text from decoders, token by token."""
