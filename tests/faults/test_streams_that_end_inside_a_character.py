"""A stream that ends in the first bytes of a character has written all whole characters before them."""

import pytest
from fault_inputs import follower
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from zoo.inference.generation.streaming import stream_text

FIRST_BYTE = "Ã"  # how a byte-level vocabulary writes 0xC3, the first of the two bytes of "é"


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, "hia"),
        pytest.param(2, "hiab", marks=pytest.mark.xfail(
            strict=True, raises=AssertionError, reason="the last token is held back, and never written")),
        (3, "hiabé"),
    ],
)  # fmt: skip
def test_nothing_is_lost(count: int, expected: str) -> None:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: i for i, letter in enumerate([*letters, f"b{FIRST_BYTE}"])}
    tokenizer = Tokenizer(models.BPE(vocab, [("b", FIRST_BYTE)]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    model = follower(tokenizer, {"i": "a", "a": f"b{FIRST_BYTE}", f"b{FIRST_BYTE}": "©"}, otherwise="c")
    written: list[str] = []
    text = stream_text(model, "hi", write=written.append, max_new_tokens=count)
    assert text.rstrip("\ufffd") == expected  # the mark of a broken character may follow
    assert "".join(written).rstrip("\ufffd") == expected
