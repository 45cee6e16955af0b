"""`zoo compare`: compare several values of one setting of a recipe, over several seeds."""
