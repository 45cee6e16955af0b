"""A long text becomes the token ids that its tokenizer gives for the whole text, not for its lines one by one."""

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from zoo.data.splits import Splits
from zoo.data.text.corpus import Corpus, ids_of, text_tokenizer
from zoo.preprocessing.text import TextProcessor
from zoo.preprocessing.tokenizer_training import byte_bpe


def llama_like() -> TextProcessor:
    """A dummy prefix before each text, and bytes for unknown characters."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁FirstlnehSocdwaf"]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(models.BPE(vocab, [], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return TextProcessor(tokenizer=tokenizer.to_str(), special={"unk": "<unk>"}, max_length=512)


def gpt2_like() -> TextProcessor:
    """Tokens of bytes that reach over several line feeds."""
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|endoftext|>"], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    tokenizer = byte_bpe({}, [])
    tokenizer.train_from_iterator(["para one\n\npara two\n\n    code\n        more\n\n\nend\n"] * 40, trainer)
    return TextProcessor(tokenizer=tokenizer.to_str(), special={"eos": "<|endoftext|>"}, max_length=512)


@pytest.mark.parametrize(
    ("processor", "text"),
    [
        (llama_like, "First line here\n\nSecond one follows\n    indented code\nlast\n"),
        (gpt2_like, "para one\n\npara two\n\n    code\n        more\n\n\nend\n"),
    ],
    ids=["llama", "gpt2"],
)
def test_ids_are_those_of_the_whole_text(processor, text: str) -> None:
    made = processor()
    ids = ids_of(text, made).tolist()
    assert made.decode(ids) == text
    assert ids == made.backend.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("odd", ["\n\n\n", "\u2028\u2028\u2028", "\r\n\r\n\r\n"])
def test_a_tokenizer_is_trained_on_the_whole_text(odd: str) -> None:
    """Pieces that reach over the ends of lines are learned, as they are found in the text later."""
    text = f"one two{odd}" * 50
    corpus = Corpus([text], "odd", False, "test")
    trained = text_tokenizer(Splits(corpus, corpus, "odd", False, "test"), "bpe", 270, 64, None)
    assert trained.decode(ids := ids_of(text, trained).tolist()) == text
    assert len(ids) == 200  # "one", " two", all of the space but its last character, and that one
