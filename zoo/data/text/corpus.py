"""Load plain text for language modeling from files, folders, tables or synthetic text, and tokenize it."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal, cast, get_args

import numpy as np
import torch
from torch import Tensor

from zoo.data.config import CorpusSettings, TextDataSettings
from zoo.data.sources.columns import TEXT_NAMES, find_columns
from zoo.data.sources.dataset_cards import card_files, load_card, real_cards
from zoo.data.sources.find import hub_source
from zoo.data.sources.fingerprint import note_files
from zoo.data.sources.tables import Table, read_table, read_text, table_suffix
from zoo.data.splits import Items, Splits, held_out_mask, partition
from zoo.data.synthetic import alignments
from zoo.data.synthetic.stories import make_stories
from zoo.data.text.load import load_texts, synthetic_texts
from zoo.preprocessing.alignment import letters_of
from zoo.preprocessing.fasta import is_fasta, read_fasta
from zoo.preprocessing.text import TextProcessor, encode_batch
from zoo.preprocessing.text_cleaning import surrogate_problem
from zoo.preprocessing.tokenizer_training import train
from zoo.utils.console import announce
from zoo.utils.errors import DataError, did_you_mean
from zoo.utils.folders import data_files, describe_files
from zoo.utils.lines import split_lines

PLAIN = (".txt", ".md", ".text")
Synthetic = Literal["stories", "sentences", "proteins"]


@dataclass
class Corpus(Items):
    """Plain text: documents, or one long text.

    Attributes:
        texts: The documents.
        name: Name of the dataset.
        real: False for synthetic text.
        source: Origin of the text.
        families: Of aligned proteins, the number of the family of each; empty for other texts.
    """

    noun: ClassVar[str] = "texts"

    texts: list[str]
    name: str
    real: bool
    source: str
    families: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: Tensor) -> "Corpus":
        """The texts of these rows."""
        families = [self.families[i] for i in rows.tolist()] if self.families else []
        return replace(self, texts=[self.texts[i] for i in rows.tolist()], families=families)

    def groups(self) -> Tensor:
        """As in Items: the families."""
        return torch.tensor(self.families) if self.families else super().groups()

    @property
    def text(self) -> str:
        """All documents as one text."""
        return "\n".join(self.texts)

    @property
    def lines(self) -> list[str]:
        """All lines that are not blank."""
        return [line for text in self.texts for line in split_lines(text) if line.strip()]

    def split_at_end(self, val_fraction: float) -> "Splits[Corpus]":
        """One long text, of which the last `val_fraction` is the validation and test split. Raises: DataError for 0."""
        text = self.text
        cut = int(len(text) * (1 - val_fraction))
        if cut == len(text):
            raise DataError("val_fraction=0 leaves no text for validation: use e.g. val_fraction=0.1")
        return self._splits(*(replace(self, texts=[part]) for part in (text[:cut], text[cut:])))

    def split_lines(self, val_fraction: float, seed: int) -> "Splits[Corpus]":
        """The lines as separate texts; a seeded fraction of them, at least one, is the validation and test split.

        Raises: DataError for val_fraction=0, or if there are too few lines.
        """
        if val_fraction == 0:
            raise DataError("val_fraction=0 leaves no lines for validation: use e.g. val_fraction=0.04")
        lines = replace(self, texts=self.lines)
        held = held_out_mask(lines.groups(), val_fraction, seed)
        if held.all() or not held.any():
            raise DataError(f"{self.source} has {len(lines)} lines, which is too few for a validation set")
        return self._splits(*partition(lines, held))

    def _splits(self, train: "Corpus", held_out: "Corpus") -> "Splits[Corpus]":
        return Splits(train, held_out, self.name, self.real, self.source, validation=held_out)


def load_corpus(settings: CorpusSettings, synthetic: Synthetic = "stories") -> Corpus:
    """Load the text of the settings; `synthetic` is the synthetic dataset that the name "synthetic" stands for.

    Raises: DataError for a missing, empty or non-text source. The message says how to fix it.
    """
    s, path, cards = settings, Path(settings.name).expanduser(), real_cards("text classification")
    if s.name in ("auto", "synthetic", *(f"synthetic_{kind}" for kind in get_args(Synthetic))):
        return synthetic_corpus(s.name.removeprefix("synthetic_"), synthetic)
    if s.name in cards:
        sets = load_texts(TextDataSettings(name=s.name, data_dir=s.data_dir))
        texts = [text for text in sets.train.texts if isinstance(text, str)]
        corpus = Corpus(texts, s.name, True, f"{sets.source}, training texts")
    elif s.name in real_cards("language modeling"):
        card = load_card(s.name)
        file = card_files(card, s.data_dir)["text"]
        corpus = Corpus([read_text(file)], card.name, card.real, str(file))
    elif is_fasta(path):
        corpus = Corpus(read_proteins([path]), s.name, True, str(path))
    elif path.is_dir():
        below = data_files(path)
        files = [file for file in below if file.suffix.lower() in PLAIN]
        if not files and (fasta := [file for file in below if is_fasta(file)]):
            return Corpus(read_proteins(fasta), s.name, True, f"{len(fasta)} FASTA files in {path}")
        if not files:
            raise DataError(f"{path} contains no text file ({', '.join(PLAIN)}) and no FASTA file")
        if others := [file for file in below if file.suffix.lower() not in PLAIN]:
            announce(f"left out, not text files by their names: {describe_files(others)}")
        corpus = Corpus(
            [read_text(file, encoding=s.encoding) for file in files], s.name, True, f"{len(files)} files in {path}"
        )
    elif table_suffix(path) and path.suffix.lower() not in PLAIN:
        corpus = _column(read_table(path, **s.table_format), s, str(path))
    elif path.is_file():
        corpus = Corpus([read_text(path, encoding=s.encoding)], s.name, True, str(path))
    else:
        known = ["synthetic", *real_cards("language modeling"), *cards]
        if path.suffix.lower() in PLAIN:  # a file that is missing, not a dataset of the hub
            raise DataError(f"data={s.name!r}: expected a file or folder that exists, or one of {', '.join(known)}"
                            f"{did_you_mean(s.name, known)}")  # fmt: skip
        corpus = _hub(s, known)
    if not any(text.strip() for text in corpus.texts):
        raise DataError(f"{corpus.source} is empty: expected some text")
    return corpus


def synthetic_corpus(name: str, default: str) -> Corpus:
    """Synthetic stories, proteins, or the training texts of the synthetic sentences; `default` is used for other
    names."""
    kind = name if name in get_args(Synthetic) else default
    corpus_name = "synthetic" if kind == default else f"synthetic_{kind}"
    if kind == "proteins":
        return synthetic_proteins(corpus_name)
    texts = [make_stories()] if kind == "stories" else [str(text) for text in synthetic_texts().train.texts]
    return Corpus(texts, corpus_name, False, f"generated {kind}")


def synthetic_proteins(name: str) -> Corpus:
    """Sequences of residues of the synthetic families, without gaps, so that those of a family are aligned."""
    made = alignments.make_families(alignments.SEQUENCE_FAMILIES, seed=3, depth=alignments.SEQUENCES, gaps=False)
    texts = [row for family in made for row in letters_of(family.msa)]
    families = [number for number, family in enumerate(made) for _ in range(len(family.msa))]
    return Corpus(texts, name, False, "proteins of families sampled from Potts models", families)


def read_proteins(files: list[Path]) -> list[str]:
    """The sequences of FASTA files. Raises: DataError for a missing file, and as `read_fasta`."""
    if missing := [file for file in files if not file.is_file()]:
        raise DataError(f"data={str(missing[0])!r}: there is no such file")
    note_files(files)
    return [record.sequence for file in files for record in read_fasta(file)]


def _hub(s: CorpusSettings, known: list[str]) -> Corpus:
    """The training split of a dataset of the hub; the validation text is a part of it, as of every corpus."""
    source = hub_source(s, known, "file or folder")
    if others := [split for split in source.tables if split != "train"]:
        announce(f"of {source.where} only the split train is read, not {', '.join(others)}: the validation text is a "
                 "part of it (val_fraction=)")  # fmt: skip
    corpus = _column(source.tables["train"], s, source.name)
    return replace(corpus, source=f"{source.where}, training texts")


def _column(table: Table, s: CorpusSettings, name: str) -> Corpus:
    texts = [value for name in find_columns(table, s.text, "text", TEXT_NAMES) for value in table.columns[name]]
    for row, value in enumerate(texts):
        if value is not None and not isinstance(value, str):
            raise DataError(f"{table.place(row % len(table))}: {type(value).__name__}, expected a string")
        if value and (problem := surrogate_problem(value)):
            raise DataError(f"{table.place(row % len(table))}: the text {problem}")
    return Corpus([text for text in texts if text and text.strip()], name, True, name)


# --- tokenization -----------------------------------------------------------------------------------------------------


def characters(text: str, max_length: int) -> TextProcessor:
    """Character tokenizer with the characters of a text; other characters become `<unk>`."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    vocab = {character: i for i, character in enumerate(["<unk>", *sorted(set(text))])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return TextProcessor(tokenizer=tokenizer.to_str(), special={"unk": "<unk>"}, max_length=max_length)


def text_tokenizer(
    splits: Splits[Corpus], tokens: str, vocab_size: int, max_length: int, cache: Path | None
) -> TextProcessor:
    """The tokenizer `characters`, of all characters of the text, or `bpe` trained on the training split."""
    if tokens == "characters":
        return characters(splits.train.text + splits.test.text, max_length)
    return train("bpe", [splits.train.text], vocab_size, max_length=max_length, cache=cache)


def ids_of(text: str, preprocess: TextProcessor) -> Tensor:
    """Token ids of one long text, int32 [T], without special tokens around it.

    It is encoded as a whole: tokens reach over line feeds, and tokenizers such as LLaMA's mark the start of a text.
    """
    if (found := _character_ids(text, preprocess)) is not None:
        return found
    (encoded,) = encode_batch(preprocess.backend, [text], add_special_tokens=False)
    return torch.tensor(encoded.ids, dtype=torch.int32)


def _character_ids(text: str, preprocess: TextProcessor) -> Tensor | None:
    """The ids of a tokenizer as `characters` makes it, by a table of code points, far faster than the library.

    None for any other tokenizer, and for a text that contains the name of a special token.
    """
    tokenizer = json.loads(preprocess.tokenizer)
    same = {"normalizer", "pre_tokenizer", "post_processor"}
    if tokenizer["model"]["type"] != "WordLevel" or not text:
        return None
    vocab: dict[str, int] = tokenizer["model"]["vocab"]
    expected = json.loads(characters("a", 1).tokenizer)
    unknown = tokenizer["model"]["unk_token"]
    if any(tokenizer[name] != expected[name] for name in same) or any(len(key) != 1 for key in vocab if key != unknown):
        return None
    if any(token["content"] in text for token in tokenizer["added_tokens"]):
        return None
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    table = np.full(int(codes.max()) + 1, vocab[unknown], np.int32)
    for character, number in vocab.items():
        if character != unknown and ord(character) < len(table):
            table[ord(character)] = number
    return torch.from_numpy(table[codes])


def chunks_of(texts: list[str], preprocess: TextProcessor, max_length: int) -> tuple[list[list[int]], list[list[int]]]:
    """(token ids, type ids) of texts with special tokens; longer texts are split into chunks of `max_length` tokens."""
    texts = [cast(str, preprocess.normalize(text, f"the text {text[:20]!r} ...")) for text in texts]
    limit = min(max_length, preprocess.max_length)
    special = preprocess.backend.num_special_tokens_to_add(False)
    if limit <= special:
        raise DataError(f"max_length={max_length}: expected more than the {special} special tokens of each text")
    encoded = encode_batch(preprocess.backend, texts, add_special_tokens=False)
    example = replace(preprocess, max_length=limit, truncate="cut").backend.encode("a")
    first = next(i for i, is_special in enumerate(example.special_tokens_mask) if not is_special)
    before, after = example.ids[:first], example.ids[len(example.ids) - (special - first) :] if special > first else []
    ids = [
        [*before, *text.ids[start : start + limit - special], *after]
        for text in encoded
        for start in range(0, len(text.ids), limit - special)
    ]
    return ids, [[0] * len(row) for row in ids]
