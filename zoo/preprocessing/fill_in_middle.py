"""Tokens and prompts of fill-in-the-middle: a causal model writes what stands between a prefix and a suffix.

Source: Bavarian et al. 2022, https://arxiv.org/abs/2207.14255.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from zoo.preprocessing.text import TextProcessor, encode_batch
from zoo.utils.errors import check_choice

# (prefix, suffix, middle) as published models name them; the first are those of a new tokenizer.
NAMES = (
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder, StarCoder2
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),  # SantaCoder
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen2.5-Coder, CodeGemma
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek-Coder
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),  # Code Llama
)
# Tokens that end a text in these models, which their configs do not always list.
ENDS = ("<|endoftext|>", "<|file_sep|>", "<|file_separator|>", "<file_sep>", "<｜end▁of▁sentence｜>", "▁<EOT>")
# Stands before a suffix that a tokenizer would otherwise begin with a space.
MARK = "\n"

Order = Literal["psm", "spm"]


@dataclass(frozen=True)
class FillInMiddleTokens:
    """Ids of the tokens before the prefix, before the suffix and before the middle, and of those that end a middle."""

    prefix: int
    suffix: int
    middle: int
    ends: tuple[int, ...] = ()

    def arrange(self, prefix: Sequence[int], suffix: Sequence[int], order: Order = "psm") -> list[int]:
        """The tokens after which the middle follows.

        "psm": `<prefix> prefix <suffix> suffix <middle>`. "spm": `<prefix> <suffix> suffix <middle> prefix`, the
        variant of the paper that a model trained on both orders shares with "psm".
        """
        check_choice("order", order, ("psm", "spm"))
        if order == "psm":
            return [self.prefix, *prefix, self.suffix, *suffix, self.middle]
        return [self.prefix, self.suffix, *suffix, self.middle, *prefix]


def fill_in_middle_tokens(processor: TextProcessor) -> FillInMiddleTokens:
    """The tokens of a tokenizer, by the names that published models give them.

    Raises: ValueError for a tokenizer without such tokens.
    """
    if (found := _tokens(processor)) is None:
        raise ValueError(
            f"the tokenizer has no tokens for fill-in-the-middle: expected those of one of these models: "
            f"{'; '.join(' '.join(names) for names in NAMES)}. Use a model that was trained to fill in, such as one of "
            f"recipes/code_text.py, or zoo.generate to continue the text before"
        )
    return found


def has_fill_in_middle(processor: object) -> bool:
    """Whether a tokenizer has the tokens of fill-in-the-middle."""
    return isinstance(processor, TextProcessor) and _tokens(processor) is not None


def _tokens(processor: TextProcessor) -> FillInMiddleTokens | None:
    backend = processor.backend
    for names in NAMES:
        ids = [number for name in names if (number := backend.token_to_id(name)) is not None]
        if len(ids) == len(names):
            ends = [number for name in ENDS if (number := backend.token_to_id(name)) is not None]
            prefix, suffix, middle = ids
            return FillInMiddleTokens(prefix, suffix, middle, ends=(*ids, *ends))
    return None


def encode_parts(processor: TextProcessor, first: str, *others: str) -> list[list[int]]:
    """Token ids of the parts of a document, without special tokens around them; an empty part has none.

    A tokenizer that begins each text with a space, such as that of Code Llama, does so for the first part alone: a line
    feed is encoded before each other part, and its tokens are dropped.
    """
    backend = processor.backend
    before = MARK if others and _adds_space(processor) else ""
    mark = len(backend.encode(before, add_special_tokens=False).ids)
    encoded = encode_batch(backend, [first, *(before + text for text in others)], add_special_tokens=False)
    return [encoded[0].ids, *(one.ids[mark:] for one in encoded[1:])]


def _adds_space(processor: TextProcessor) -> bool:
    return processor.backend.encode("x", add_special_tokens=False).tokens[0].startswith(("▁", "Ġ"))


def before_prompt(processor: TextProcessor) -> list[int]:
    """The special tokens that a tokenizer puts before a text, such as `<s>`."""
    encoded = processor.backend.encode("x")
    first = next(i for i, special in enumerate(encoded.special_tokens_mask) if not special)
    return encoded.ids[:first]


def infilling_prompt(
    processor: TextProcessor, prefix: str, suffix: str, *, order: Order = "psm", room: int = 0
) -> list[int]:
    """The tokens after which a model writes what stands between `prefix` and `suffix`.

    room: the most tokens of the prompt; 0 for any number. Of longer texts the beginning of the prefix and the end of
    the suffix are left out: the suffix gets a third of the tokens, and what one of them does not need the other gets.

    Raises: ValueError for a tokenizer without the tokens, for texts that are both empty, or if no token has room.
    """
    tokens, start = fill_in_middle_tokens(processor), before_prompt(processor)
    if not prefix and not suffix:
        raise ValueError("prefix and suffix are empty: expected some text around what is to be filled in")
    before, after = encode_parts(processor, prefix, suffix)
    if room:
        left = room - len(start) - 3
        if left < 1:
            raise ValueError(f"no token of the prefix has room in a prompt of {room} tokens")
        behind = min(len(after), max(left // 3, left - len(before)))
        before, after = before[max(0, len(before) - (left - behind)) :], after[:behind]
    return [*start, *tokens.arrange(before, after, order)]
