"""One file is one family. A new family is a file here and a line in this list."""

FAMILIES = (
    "vit", "bert", "roberta", "distilbert", "modernbert", "gpt2", "llama", "ast", "wav2vec2", "hubert",
    "clip_text", "contrast", "clip", "siglip",
)  # fmt: skip
