"""Plain text to learn a language from: a file, a folder, a column of a table, or what the program composes."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from zoo.data.config import CorpusSettings, TextDataSettings
from zoo.data.sources.dataset_cards import load_card
from zoo.data.sources.tables import SUFFIXES, read_table, read_text
from zoo.data.synthetic.stories import make_stories
from zoo.data.text.load import TEXT_NAMES, _columns, load_texts, synthetic_texts, text_cards
from zoo.preprocessing.text import TextProcessor
from zoo.preprocessing.tokenizer_training import train
from zoo.utils.errors import DataError, did_you_mean

PLAIN = (".txt", ".md", ".text")


@dataclass
class Corpus:
    """texts: documents, or one long text. real: False for what the program made. source: where they came from."""

    texts: list[str]
    name: str
    real: bool
    source: str

    @property
    def lines(self) -> list[str]:
        """Every line that is not blank."""
        return [line for text in self.texts for line in text.splitlines() if line.strip()]


def load_corpus(settings: CorpusSettings, synthetic: Literal["stories", "sentences"] = "stories") -> Corpus:
    """The text that the settings name; `synthetic`: what "synthetic" stands for.

    Raises: DataError for what is not there, empty, or no text; says how to mend it.
    """
    s, path = settings, Path(settings.name).expanduser()
    if s.name in ("auto", "synthetic", "synthetic_stories", "synthetic_sentences"):
        return synthetic_corpus(s.name.removeprefix("synthetic_"), synthetic)
    if s.name in text_cards():
        sets = load_texts(TextDataSettings(name=s.name, data_dir=s.data_dir))
        texts = [text for text in sets.train.texts if isinstance(text, str)]
        corpus = Corpus(texts, s.name, True, f"{sets.source}, training texts")
    elif s.name == "tinyshakespeare":
        corpus = _shakespeare(s.data_dir)
    elif path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix in PLAIN)
        if not files:
            raise DataError(f"{path} holds no text file ({', '.join(PLAIN)})")
        corpus = Corpus([read_text(file) for file in files], s.name, True, f"{len(files)} files in {path}")
    elif path.suffix.lower() in SUFFIXES:
        corpus = _column(path, s.text)
    elif path.is_file():
        corpus = Corpus([read_text(path)], s.name, True, str(path))
    else:
        known = ["synthetic", "tinyshakespeare", *text_cards()]
        raise DataError(f"data {s.name!r}: no such file or folder, and none of {', '.join(known)}"
                        f"{did_you_mean(s.name, known)}")  # fmt: skip
    if not any(text.strip() for text in corpus.texts):
        raise DataError(f"{corpus.source} is empty: expected some text")
    return corpus


def synthetic_corpus(name: str, usual: str) -> Corpus:
    """Stories, or the sentences of the text classifier's training set; `usual`: which of them "synthetic" means."""
    what = name if name in ("stories", "sentences") else usual
    called = "synthetic" if what == usual else f"synthetic_{what}"
    texts = [make_stories()] if what == "stories" else [str(text) for text in synthetic_texts().train.texts]
    return Corpus(texts, called, False, f"{what} made by the program")


def _shakespeare(data_dir: str | None) -> Corpus:
    card, folder = load_card("tinyshakespeare"), data_dir or os.environ.get("ZOO_DATA_DIR")
    file = Path(folder or "").expanduser() / card.files["text"]
    if not folder or not file.is_file():
        given = f"{file} does not exist" if folder else "ZOO_DATA_DIR is not set"
        raise DataError(f"data=tinyshakespeare: {given}. Set ZOO_DATA_DIR (or data_dir=) to a folder that holds "
                        f"{card.files['text']} (from {card.source}), or give any text file as data=")  # fmt: skip
    return Corpus([read_text(file)], card.name, card.real, str(file))


def _column(file: Path, asked: str) -> Corpus:
    table = read_table(file)
    texts = [value for name in _columns(table, asked, "text", TEXT_NAMES) for value in table.columns[name]]
    for row, value in enumerate(texts):
        if value is not None and not isinstance(value, str):
            raise DataError(f"{table.place(row % len(table))}: {type(value).__name__}, expected a text")
    return Corpus([text for text in texts if text and text.strip()], str(file), True, str(file))


# --- to tokens --------------------------------------------------------------------------------------------------------


def characters(text: str, max_length: int) -> TextProcessor:
    """A tokenizer whose tokens are the characters of a text; others become one unknown token."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    vocab = {letter: i for i, letter in enumerate(["<unk>", *sorted(set(text))])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return TextProcessor(tokenizer=tokenizer.to_str(), special={"unk": "<unk>"}, max_length=max_length)


def text_tokenizer(text: str, tokens: str, vocab_size: int, max_length: int, cache: Path | None) -> TextProcessor:
    """`characters`, or `bpe` learned from a text."""
    if tokens == "characters":
        return characters(text, max_length)
    return train("bpe", text.splitlines(keepends=True), vocab_size, max_length=max_length, cache=cache)


def ids_of(text: str, preprocess: TextProcessor) -> Tensor:
    """One long text as token ids, int32 [T], line by line."""
    encoded = preprocess.backend.encode_batch(text.splitlines(keepends=True), add_special_tokens=False)
    return torch.tensor([i for one in encoded for i in one.ids], dtype=torch.int32)


def chunks_of(texts: list[str], preprocess: TextProcessor, max_length: int) -> tuple[list[list[int]], list[list[int]]]:
    """(ids, type ids) of texts with the tokens around them; a text of more than `max_length` tokens becomes several."""
    most = min(max_length, preprocess.max_length)
    around = preprocess.backend.num_special_tokens_to_add(False)
    if most <= around:
        raise DataError(f"max_length={max_length}: {around} tokens stand around each text alone")
    bare = preprocess.backend.encode_batch(texts, add_special_tokens=False)
    whole = replace(preprocess, max_length=most, truncate="cut").backend.encode("a")
    first = next(i for i, special in enumerate(whole.special_tokens_mask) if not special)
    before, after = whole.ids[:first], whole.ids[len(whole.ids) - (around - first) :] if around > first else []
    ids = [
        [*before, *one.ids[at : at + most - around], *after]
        for one in bare
        for at in range(0, len(one.ids), most - around)
    ]
    return ids, [[0] * len(row) for row in ids]
