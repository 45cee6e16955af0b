"""Attention that computes only the pairs that a mask allows: blocks and tiles on a CPU, flex_attention on a GPU."""
