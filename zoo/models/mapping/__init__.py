"""Mappings of checkpoints of other libraries: tensor names and config keys, as text tables."""
