"""A text of `stop=` ends a generation wherever it appears: as a special token, or with a space at its start."""

import pytest
import torch
from fault_inputs import follower
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

import zoo


def generated(model: zoo.Model, tokenizer: Tokenizer, prompt: str, stop: str) -> list[str]:
    ids = torch.tensor([tokenizer.encode(prompt).ids])
    new = zoo.generate(model, ids, max_new_tokens=8, stop=stop)[0, ids.shape[1] :]
    return [tokenizer.id_to_token(i) for i in new.tolist()]


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        ("ab", ["a", "b"]),
        *(
            pytest.param(stop, ["a", "b", "<|im_end|>"], marks=pytest.mark.xfail(
                strict=True, raises=AssertionError, reason="special tokens are left out of the text that is searched"))
            for stop in ("<|im_end|>", "b<|im_end|>")
        ),
    ],
)  # fmt: skip
def test_special_tokens(stop: str, expected: list[str]) -> None:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    model = follower(tokenizer, {"i": "a", "a": "b", "b": "<|im_end|>"}, otherwise="c")
    assert generated(model, tokenizer, "hi", stop) == expected


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        ("b", ["▁b"]),
        (" c", ["▁b", "▁c"]),
        pytest.param(" b", ["▁b"], marks=pytest.mark.xfail(
            strict=True, raises=AssertionError, reason="the space before the first new word is not in its text")),
    ],
)  # fmt: skip
def test_a_space_at_the_start(stop: str, expected: list[str]) -> None:
    tokens = ["<unk>", "▁", *"abcdh", "▁b", "▁c", "▁h", "▁d"]
    merges = [("▁", letter) for letter in "bchd"]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )  # fmt: skip
    model = follower(tokenizer, {"▁h": "▁b", "▁b": "▁c"}, otherwise="▁d")
    assert generated(model, tokenizer, "h", stop) == expected
