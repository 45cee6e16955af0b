"""The language in which a family says how other libraries write it: tensor names and config keys, as text tables."""
