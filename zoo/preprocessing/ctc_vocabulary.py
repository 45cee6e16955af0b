"""The vocabulary of a CTC model: characters to ids and back."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from zoo.utils.errors import check_keys, did_you_mean

BLANK, SPACE = "<pad>", "|"  # as the vocabularies of wav2vec 2.0 write them
_SILENT = re.compile(r"<.*>|\[[A-Z]+\]")  # <s>, [UNK]: never read aloud


@dataclass(frozen=True)
class Vocabulary:
    """The symbols of a CTC model by their ids.

    tokens: characters, or several of them as one symbol. blank: the one that says nothing. space: the one that stands
    between words.
    """

    tokens: tuple[str, ...]
    blank: str = BLANK
    space: str = SPACE

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", tuple(self.tokens))
        if twice := [t for t in self.tokens if self.tokens.count(t) > 1]:
            raise ValueError(f"the vocabulary has {twice[0]!r} twice")
        if self.blank not in self.tokens:
            hint = did_you_mean(self.blank, self.tokens)
            raise ValueError(f"the vocabulary of {len(self.tokens)} symbols has no blank {self.blank!r}{hint}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Vocabulary":
        """From config.json. An unknown or missing key raises LoadError."""
        check_keys("vocabulary", values, [field.name for field in fields(cls)])
        return cls(**values)

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Vocabulary":
        """All characters of some texts, the blank first. Raises: ValueError where there is none."""
        characters = sorted({c for text in texts for c in " ".join(text.split())} - {" "})
        if not characters:
            raise ValueError("no characters: all texts are empty")
        if odd := {BLANK, SPACE} & set(characters):
            raise ValueError(f"the texts hold {odd.pop()!r}, which stands for the space between words: replace it")
        return cls((BLANK, SPACE, *characters))

    @classmethod
    def from_json(cls, text: str) -> "Vocabulary":
        """From the `vocab.json` of transformers, {symbol: id}. Raises: ValueError for ids with gaps."""
        ids: Mapping[str, int] = json.loads(text)
        if sorted(ids.values()) != list(range(len(ids))):
            raise ValueError(f"vocab.json: expected the ids 0 to {len(ids) - 1}, each once")
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
        """The id that `ctc_loss`, `greedy` and `beam` call blank."""
        return self.tokens.index(self.blank)

    def encode(self, text: str) -> list[int]:
        """Ids of a text's characters, spaces between words as `space`. Where the vocabulary knows a letter in the other
        case alone, that one is meant.

        Raises: ValueError for a character that it does not know.
        """
        index = {token: i for i, token in enumerate(self.tokens)}
        ids = []
        for character in " ".join(text.split()):
            symbol = self.space if character == " " else character
            found = next((index[s] for s in (symbol, symbol.upper(), symbol.lower()) if s in index), None)
            if found is None:
                known = "".join(t for t in self.tokens if len(t) == 1 and t != self.space)
                raise ValueError(f"{text!r} has the character {character!r}, which is not among {known!r}")
            ids.append(found)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids from `greedy` or `beam`; what stands in angle or square brackets is left out."""
        symbols = [self.tokens[i] for i in ids]
        spoken = [" " if s == self.space else s for s in symbols if s != self.blank and not _SILENT.fullmatch(s)]
        return " ".join("".join(spoken).split())
