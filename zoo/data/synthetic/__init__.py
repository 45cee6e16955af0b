"""Data that the program makes, so that every recipe runs without a download."""
