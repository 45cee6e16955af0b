"""Its place puts tests/ on the path, for the helpers that several folders share."""
