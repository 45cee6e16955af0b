"""A stream that ends in the first bytes of a character has written all whole characters before them."""

import pytest
from fault_inputs import follower
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from zoo.inference.generation.streaming import stream_text

FIRST_BYTE = "Ã"  # how a byte-level vocabulary writes 0xC3, the first of the two bytes of "é"


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, "hia"),
        (2, "hiab"),
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


def test_the_space_of_the_first_word() -> None:
    """Decoders that strip the space before a text strip it before the prompt alone."""
    tokens = ["<unk>", "▁", *"bch", "▁b", "▁c", "▁h"]
    merges = [("▁", letter) for letter in "bch"]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    model = follower(tokenizer, {"▁h": "▁b", "▁b": "▁c"}, otherwise="c")
    written: list[str] = []
    assert stream_text(model, "h", write=written.append, max_new_tokens=3) == "h b cc" == "".join(written)
