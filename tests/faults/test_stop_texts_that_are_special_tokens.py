"""A text of `stop=` ends a generation wherever it appears: as a special token, or with a space at its start."""

import pytest
import torch
from fault_inputs import follower
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

import zoo

WAYS = {
    "one by one": {},
    "beams": {"num_beams": 2},
    "a draft": {"draft": True},
    "samples": {"temperature": 1e-4, "num_return_sequences": 2},
}


def generated(model: zoo.Model, tokenizer: Tokenizer, prompt: str, stop: str, **options) -> list[str]:
    """The new tokens of a batch, in which the prompt has more and less padding than another one."""
    ids = tokenizer.encode(prompt).ids
    other, pad = [ids[-1]], tokenizer.token_to_id("d")
    batch = torch.tensor([[pad, *ids], [*[pad] * len(ids), *other], [*ids, pad]])
    mask = torch.tensor([[0, *[1] * len(ids)], [*[0] * len(ids), 1], [*[1] * len(ids), 0]])
    options = options | ({"draft": model} if options.get("draft") else {})
    rows = zoo.generate(model, batch, mask, max_new_tokens=8, stop=stop, pad_token_id=pad, seed=0, **options)
    texts = {tuple(tokenizer.id_to_token(i) for i in row[len(ids) + 1 :].tolist()) for row in rows}
    assert len(texts) == 1
    return list(texts.pop())


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        ("ab", ["a", "b"]),
        ("<|im_end|>", ["a", "b", "<|im_end|>"]),
        ("b<|im_end|>", ["a", "b", "<|im_end|>"]),
        ("b<|im", ["a", "b", "<|im_end|>"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("way", WAYS)
def test_special_tokens(way: str, stop: str, expected: list[str]) -> None:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    model = follower(tokenizer, {"i": "a", "a": "b", "b": "<|im_end|>"}, otherwise="c")
    assert generated(model, tokenizer, "hi", stop, **WAYS[way]) == expected


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        ("b", ["▁b"]),
        (" c", ["▁b", "▁c"]),
        (" b", ["▁b"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("way", WAYS)
def test_a_space_at_the_start(way: str, stop: str, expected: list[str]) -> None:
    tokens = ["<unk>", "▁", *"abcdh", "▁b", "▁c", "▁h", "▁d"]
    merges = [("▁", letter) for letter in "bchd"]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )  # fmt: skip
    model = follower(tokenizer, {"▁h": "▁b", "▁b": "▁c"}, otherwise="▁d")
    assert generated(model, tokenizer, "h", stop, **WAYS[way]) == expected


def test_a_text_of_many_bytes() -> None:
    """Each of its bytes may be a token: a text of eleven characters in 44 tokens."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    first, *others = (tokenizer.id_to_token(i) for i in tokenizer.encode("😀").ids)
    model = follower(tokenizer, dict(zip([first, *others], [*others, first])), otherwise="c")
    ids = torch.tensor([tokenizer.encode("😀").ids])
    assert zoo.generate(model, ids, max_new_tokens=50, stop="😀" * 11)[0, 4:].tolist() == ids[0].tolist() * 11


@pytest.mark.parametrize("stop", ["h", "hb", "ih"])
def test_the_prompt_is_not_searched(stop: str) -> None:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.decoder = decoders.ByteLevel()
    model = follower(tokenizer, {"h": "b", "b": "c"}, otherwise="d")
    ids = torch.tensor([[tokenizer.token_to_id(letter) for letter in "ih"]])
    assert zoo.generate(model, ids, max_new_tokens=5, stop=stop).shape[1] == 7
