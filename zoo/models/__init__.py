"""Models, one folder per family. A folder with a `model.py` is registered automatically."""
