"""Mixers after attention: recurrences and convolutions over the tokens of a row. Each file registers its mixers."""
