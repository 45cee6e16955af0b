"""The vocabulary of a CTC model: encodes characters to ids and decodes them."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from zoo.utils.errors import check_keys, did_you_mean
from zoo.utils.files import parse_json
from zoo.utils.type_checks import check_types

BLANK, SPACE = "<pad>", "|"  # as in the vocabularies of wav2vec 2.0
_SPECIAL = re.compile(r"<.*>|\[[A-Z]+\]")  # <s>, [UNK]: not part of the text


@dataclass(frozen=True)
class Vocabulary:
    """The symbols of a CTC model, in the order of their ids.

    tokens: symbols of one or more characters. blank: the blank symbol of CTC. space: the symbol between words.
    """

    tokens: tuple[str, ...]
    blank: str = BLANK
    space: str = SPACE

    def __post_init__(self) -> None:
        if isinstance(self.tokens, list):
            object.__setattr__(self, "tokens", tuple(self.tokens))
        check_types(self)
        if duplicates := [t for t in self.tokens if self.tokens.count(t) > 1]:
            raise ValueError(f"the vocabulary has the symbol {duplicates[0]!r} twice")
        if self.blank not in self.tokens:
            hint = did_you_mean(self.blank, self.tokens)
            raise ValueError(
                f"the blank {self.blank!r} is missing in the vocabulary of {len(self.tokens)} symbols{hint}"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Vocabulary":
        """From config.json. An unknown or missing key raises LoadError."""
        check_keys("vocabulary", values, [field.name for field in fields(cls)])
        return cls(**values)

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Vocabulary":
        """The vocabulary of all characters in texts, blank first. Raises ValueError if all texts are empty."""
        characters = sorted({c for text in texts for c in " ".join(text.split())} - {" "})
        if not characters:
            raise ValueError("cannot build a vocabulary: all texts are empty")
        if reserved := {BLANK, SPACE} & set(characters):
            raise ValueError(
                f"the texts contain {reserved.pop()!r}, which is reserved for the space between words: replace it"
            )
        return cls((BLANK, SPACE, *characters))

    @classmethod
    def from_json(cls, text: str) -> "Vocabulary":
        """From the `vocab.json` of transformers, {symbol: id}. Raises ValueError for ids with gaps."""
        return cls.from_ids(parse_json(text, "vocab.json"))

    @classmethod
    def from_ids(cls, ids: Mapping[str, int]) -> "Vocabulary":
        """From {symbol: id}. Raises ValueError for ids with gaps."""
        if not all(type(i) is int for i in ids.values()) or sorted(ids.values()) != list(range(len(ids))):
            raise ValueError(f"vocab.json: expected each id from 0 to {len(ids) - 1} once")
        tokens = tuple(sorted(ids, key=lambda token: ids[token]))
        blank = next((b for b in (BLANK, "[PAD]", "<blank>") if b in ids), BLANK)
        return cls(tokens, blank)

    def to_json(self) -> str:
        """The `vocab.json` of transformers."""
        return json.dumps({token: i for i, token in enumerate(self.tokens)}, ensure_ascii=False)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def blank_id(self) -> int:
        """The id to pass as `blank` to `ctc_loss`, `greedy` and `beam`."""
        return self.tokens.index(self.blank)

    def encode(self, text: str) -> list[int]:
        """The ids of the characters of a text, with `space` between words. A letter that is missing in the vocabulary
        is looked up in the other case.

        Raises ValueError for a character that is not in the vocabulary.
        """
        index = {token: i for i, token in enumerate(self.tokens)}
        ids = []
        for character in " ".join(text.split()):
            symbol = self.space if character == " " else character
            found = next((index[s] for s in (symbol, symbol.upper(), symbol.lower()) if s in index), None)
            if found is None:
                known = "".join(t for t in self.tokens if len(t) == 1 and t != self.space)
                raise ValueError(f"{text!r} has the character {character!r}, which is not in the vocabulary {known!r}")
            ids.append(found)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids from `greedy` or `beam`, without special tokens such as <s> and [UNK]."""
        symbols = [self.tokens[i] for i in ids]
        written = [" " if s == self.space else s for s in symbols if s != self.blank and not _SPECIAL.fullmatch(s)]
        return " ".join("".join(written).split())
