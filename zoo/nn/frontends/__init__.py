"""Input embeddings: from token ids, pixels, spectrograms or waveforms to hidden states [B, N, D]."""
