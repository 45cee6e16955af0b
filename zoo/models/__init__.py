"""Models: one folder a family. A folder here that holds a `model.py` is found by itself."""
