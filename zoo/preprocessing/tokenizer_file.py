"""The tokenizer of a `tokenizer.json`."""

from pathlib import Path
from typing import TYPE_CHECKING

from zoo.utils.errors import LoadError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def parse_tokenizer(text: str, file: str | Path = "tokenizer.json") -> "Tokenizer":
    """The tokenizer of the contents of a tokenizer.json. Raises LoadError naming `file` if they are damaged."""
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_str(text)
    except BaseException as error:  # the library has no class of its own, and a panic of Rust is not an Exception
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise LoadError(f"{file} is damaged, or not a file of a tokenizer: {error}") from None


def spaces_after_words(tokenizer: "Tokenizer") -> None:
    """Let a tokenizer that marks the ends of words, as CLIP's does by "</w>", decode them to spaces.

    The decoder in its files is that of bytes, which keeps the marks: transformers and open_clip replace them.
    """
    from tokenizers import decoders

    if (end := getattr(tokenizer.model, "end_of_word_suffix", None)) and isinstance(
        tokenizer.decoder, decoders.ByteLevel
    ):
        spaces = [decoders.Replace(end, " "), decoders.Strip(" ", 0, 1)]
        tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), *spaces])
