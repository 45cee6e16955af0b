"""Sequences of proteins as tokens, one for each residue: the tokenizer of ESM, and what each letter of them means."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from torch import Tensor

from zoo.preprocessing.fasta import STOP, is_fasta, read_fasta, read_sequence
from zoo.preprocessing.text import Text, TextProcessor
from zoo.utils.errors import LoadError, check_choice

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

SPECIAL_TOKENS = {"unk": "<unk>", "pad": "<pad>", "cls": "<cls>", "eos": "<eos>", "mask": "<mask>"}
# The vocabulary of ESM-1b and ESM-2 in the order of its ids.
ALPHABET = ("<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>")
TOKEN = re.compile(r"(<\w+>)")

Unknown = Literal["error", "X", "unk"]


@dataclass(frozen=True, kw_only=True)
class ProteinProcessor(TextProcessor):
    """Sequences of residues -> {"input_ids", "attention_mask"}, each int64 [B, N]; see TextProcessor.

    A sequence is a string, "MKTAYIAK", with "<mask>" for residues to predict. Lower-case letters are the same residues,
    spaces and line ends are skipped, a "*" at the end is removed, and gaps, "-" and ".", are tokens of their own.
    unknown: what any other letter is (of ESM's vocabulary also J): "error" names it and its place, "X" is any residue,
    "unk" the token <unk>, as in transformers.
    """

    tokenizer: str = field(default_factory=lambda: protein_tokenizer().to_str(), repr=False)
    special: Mapping[str, str] = field(default_factory=lambda: dict(SPECIAL_TOKENS), hash=False)
    max_length: int = 1024
    unknown: Unknown = "error"

    def __post_init__(self) -> None:
        check_choice("unknown", self.unknown, get_args(Unknown))
        super().__post_init__()

    def __call__(self, texts: Any, **options: Any) -> dict[str, Tensor]:
        """texts: one sequence or a list of them; the path of a FASTA file stands for its records, in a list for its one
        record. See TextProcessor."""
        if isinstance(texts, Path) or (isinstance(texts, str) and is_fasta(texts)):
            texts = self.read_file(texts)
        return super().__call__(texts, **options)

    def read_file(self, path: str | Path) -> list[str]:
        """The sequences of a FASTA file, with unknown letters as the processor takes them; see `read_fasta`."""
        return [record.sequence for record in read_fasta(path, unknown=self._unknown_of_files)]

    @property
    def _unknown_of_files(self) -> Literal["error", "keep"]:
        return "error" if self.unknown == "error" else "keep"  # and then replaced by `normalize`

    def _text_or_error(self, item: Any, name: str) -> Text | ValueError:
        try:
            is_item = isinstance(item, str | Path)
            text = read_sequence(item, unknown=self._unknown_of_files) if is_item else item
        except ValueError as error:
            return error
        except OSError as error:
            return LoadError(f"{name} cannot be read: {error}")
        return super()._text_or_error(text, name)

    def normalize(self, text: Text, name: str = "the sequence") -> Text:
        """The sequence as it is tokenized, its residues in the same places. Raises ValueError for an unknown letter."""
        if isinstance(text, tuple):
            return self._normalized(text[0], name), self._normalized(text[1], name)
        return self._normalized(text, name)

    def _normalized(self, text: str, name: str) -> str:
        known = vocabulary(self.tokenizer)
        parts, start = [], 0
        for part in TOKEN.split(text.rstrip().removesuffix(STOP)):
            upper = part.upper()
            if part in known:
                parts.append(part)
            elif all(letter in known or letter.isspace() for letter in upper):
                parts.append(upper)
            else:
                parts.append("".join(self._letter(one, start + i, name, known) for i, one in enumerate(upper, 1)))
            start += len(part)
        return "".join(parts)

    def _letter(self, letter: str, place: int, name: str, known: frozenset[str]) -> str:
        if letter in known or letter.isspace():
            return letter
        if self.unknown == "error":
            raise ValueError(
                f"{name} has the unknown letter {letter!r} at place {place}: expected residues "
                f"({''.join(sorted(one for one in known if one.isalpha() and len(one) == 1))}), gaps or '<mask>'; "
                "ProteinProcessor(unknown='X') reads it as any residue"
            )
        return "X" if self.unknown == "X" else "\0"  # which no vocabulary has

    def encode_each(
        self, texts: Sequence[Text], names: Sequence[str] | None = None
    ) -> tuple[list["Encoding | ValueError"], dict[int, int]]:
        return super().encode_each(texts, names or [f"sequence {index}" for index in range(len(texts))])

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {"kind": "protein", "unknown": self.unknown}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], files: Mapping[str, str]) -> "ProteinProcessor":
        own = dict(values)
        unknown = own.pop("unknown", "error")
        return replace(cast(ProteinProcessor, super().from_dict(own, files)), unknown=unknown)

    def transformers_files(self) -> dict[str, Any]:
        """The files of EsmTokenizer; those of a fast tokenizer for a vocabulary with gaps among its ids."""
        tokens = sorted(self.backend.get_vocab().items(), key=lambda item: item[1])
        if [number for _, number in tokens] != list(range(len(tokens))):
            return super().transformers_files()
        special = {f"{name}_token": token for name, token in self.special.items()}
        settings = {
            "tokenizer_class": "EsmTokenizer",
            "model_max_length": self.max_length,
            "padding_side": self.padding,
            "clean_up_tokenization_spaces": False,
        }
        return {
            "vocab.txt": "\n".join(token for token, _ in tokens),
            "tokenizer_config.json": settings | special,
            "special_tokens_map.json": special,
        }


def protein_tokenizer(
    vocab: Mapping[str, int] | Sequence[str] = ALPHABET, special: Mapping[str, str] = SPECIAL_TOKENS
) -> "Tokenizer":
    """A tokenizer with the ids of transformers' EsmTokenizer: a token for each token of the vocabulary in a text, the
    longest first, and <unk> for each run of other letters.

    vocab: {token: id}, or tokens in the order of their ids. special: {role: token}; without "eos" none ends a sequence.
    Raises LoadError for a vocabulary without its special tokens.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors

    numbers = dict(vocab) if isinstance(vocab, Mapping) else {token: i for i, token in enumerate(vocab)}
    if missing := [token for token in special.values() if token not in numbers]:
        raise LoadError(f"the vocabulary has no token {missing[0]!r}, which its settings name as a special one")
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token=special["unk"]))
    every = "|".join(re.escape(token) for token in sorted(numbers, key=len, reverse=True) if token)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(every), behavior="isolated")]
    )
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(list(dict.fromkeys(special.values())))
    cls, eos = special["cls"], special.get("eos")
    end = [eos] if eos else []
    around = [(token, numbers[token]) for token in dict.fromkeys([cls, *end])]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[cls, "$A", *end], pair=[cls, "$A", *end, "$B", *end], special_tokens=around
    )
    return tokenizer


@lru_cache(maxsize=16)
def vocabulary(tokenizer: str) -> frozenset[str]:
    """The tokens of a tokenizer.json."""
    model = json.loads(tokenizer)
    return frozenset(model["model"]["vocab"]) | {token["content"] for token in model.get("added_tokens", ())}
