"""Text generation with decoders."""
