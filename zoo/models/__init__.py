"""One file is one family. A new family is a file here and a line in this list."""

FAMILIES = ("vit", "gpt2", "llama")
