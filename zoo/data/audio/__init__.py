"""Audio clips with labels or transcripts: found, decoded, augmented."""
