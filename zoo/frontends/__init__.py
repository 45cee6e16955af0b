"""Modality front ends: from pixels, samples or ids to tokens [B, N, D]."""
