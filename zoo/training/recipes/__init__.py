"""What the recipes of one task share."""
