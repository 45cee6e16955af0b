"""From token ids, pixels, spectrograms or samples to tokens [B, N, D]."""
