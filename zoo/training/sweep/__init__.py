"""`zoo compare`: one recipe, one setting with several values, several seeds."""
