"""Audio datasets with labels or transcripts: loading, decoding, augmentation."""
