"""Tokens and prompts of fill-in-the-middle, and the tokenizer of source code."""

from dataclasses import replace

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers

from zoo.preprocessing.fill_in_middle import (
    NAMES,
    FillInMiddleTokens,
    encode_parts,
    fill_in_middle_tokens,
    has_fill_in_middle,
    infilling_prompt,
)
from zoo.preprocessing.text import TextProcessor
from zoo.preprocessing.tokenizer_training import byte_bpe, train

CODE = ["def area(width, height):\n    return width * height\n", "for i in range(10):\n        print(i)\n"] * 4


@pytest.fixture(scope="module")
def processor() -> TextProcessor:
    return train("code", CODE, 320, max_length=64)


def code_llama() -> TextProcessor:
    """A tokenizer that begins each text with a space, as SentencePiece's do."""
    letters = ["<unk>", "<s>", "▁", "\n", *"abc", "▁a"]
    vocab = {token: number for number, token in enumerate(letters)}
    tokenizer = Tokenizer(models.BPE(vocab, [("▁", "a")], unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens([*NAMES[4], "▁<EOT>"])
    return TextProcessor(tokenizer=tokenizer.to_str(), special={"bos": "<s>"}, max_length=64)


def test_line_feeds_and_indentations_are_tokens(processor: TextProcessor) -> None:
    encoded = processor.backend.encode("def area(width):\n    return\n        print(1)\n\n")
    assert processor.decode(encoded.ids) == "def area(width):\n    return\n        print(1)\n\n"
    tokens = encoded.tokens
    assert tokens.count("Ċ") == 4 and "ĠĠĠĠ" in tokens and "Ġ" * 8 in tokens
    assert all(token == "Ċ" or "Ċ" not in token for token in processor.backend.get_vocab())
    assert [processor.backend.token_to_id(name) for name in NAMES[0]] == [1, 2, 3]
    assert processor.special == {"eos": "<|endoftext|>", "pad": "<fim_pad>"}


@pytest.mark.parametrize("names", NAMES, ids=lambda names: names[0])
def test_the_names_of_published_models(names: tuple[str, str, str]) -> None:
    tokenizer = byte_bpe({"a": 0}, [])
    tokenizer.add_special_tokens(["<|endoftext|>", *names])
    found = fill_in_middle_tokens(TextProcessor(tokenizer=tokenizer.to_str(), max_length=8))
    assert (found.prefix, found.suffix, found.middle) == (2, 3, 4) and set(found.ends) == {1, 2, 3, 4}


def test_both_orders() -> None:
    tokens = FillInMiddleTokens(1, 2, 3)
    assert tokens.arrange([10, 11], [20], "psm") == [1, 10, 11, 2, 20, 3]
    assert tokens.arrange([10, 11], [20], "spm") == [1, 2, 20, 3, 10, 11]


def test_a_prompt_has_room(processor: TextProcessor) -> None:
    before, after = "print(i)\n" * 20, "return width\n" * 20
    (long, other), tokens = encode_parts(processor, before, after), fill_in_middle_tokens(processor)
    assert infilling_prompt(processor, before, after) == tokens.arrange(long, other)
    assert infilling_prompt(processor, before, after, room=33) == tokens.arrange(long[-20:], other[:10])
    few = encode_parts(processor, "i")[0]
    assert infilling_prompt(processor, "i", after, room=13) == tokens.arrange(few, other[: 10 - len(few)])
    assert infilling_prompt(processor, before, "i", room=13) == tokens.arrange(long[-(10 - len(few)) :], few)
    assert len(infilling_prompt(processor, before, "", room=13, order="spm")) == 13
    with pytest.raises(ValueError, match="no token of the prefix has room in a prompt of 3 tokens"):
        infilling_prompt(processor, before, after, room=3)
    with pytest.raises(ValueError, match="prefix and suffix are empty"):
        infilling_prompt(processor, "", "")


def test_a_suffix_does_not_begin_with_a_space_of_the_tokenizer() -> None:
    processor = code_llama()
    id_of = processor.backend.token_to_id
    assert encode_parts(processor, "ab", "ab", " a", "") == [
        [id_of("▁a"), id_of("b")], [id_of("a"), id_of("b")], [id_of("▁a")], []
    ]  # fmt: skip
    assert fill_in_middle_tokens(processor).ends[-1] == id_of("▁<EOT>")


def test_a_tokenizer_without_the_tokens(processor: TextProcessor) -> None:
    other = train("bpe", CODE, 300)
    assert has_fill_in_middle(processor) and not has_fill_in_middle(other) and not has_fill_in_middle(None)
    with pytest.raises(ValueError, match=r"has no tokens for fill-in-the-middle: .*<fim_prefix> <fim_suffix>"):
        infilling_prompt(replace(other), "a", "b")
