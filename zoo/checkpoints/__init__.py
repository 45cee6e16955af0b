"""Load, save, export and verify: our folders and those of timm, transformers and open_clip."""
