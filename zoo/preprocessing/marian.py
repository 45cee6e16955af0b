"""Preprocessing of Marian: two SentencePiece models, of the source and of the target language, and a vocabulary."""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any, Literal

from zoo.preprocessing.text import Text, TextProcessor
from zoo.utils.errors import LoadError

UNK, EOS, PAD = "<unk>", "</s>", "<pad>"
NO_SENTENCEPIECE = "the tokenizer of Marian needs the package sentencepiece: pip install sentencepiece"


@dataclass(frozen=True, kw_only=True)
class MarianProcessor(TextProcessor):
    """Texts -> {"input_ids", "attention_mask"}, with the ids of transformers' MarianTokenizer; see TextProcessor.

    tokenizer: JSON text of `tokenizer_text`. A text may begin with the code of its target language, ">>fra<< Hello".
    side: "source" for texts that the encoder reads; `for_targets()` tokenizes translations, the labels of training.
    `decode` takes ids of translations. Needs the package sentencepiece (ImportError).
    """

    side: Literal["source", "target"] = "source"

    @property
    def backend(self) -> Any:
        return marian_backend(self.tokenizer, self.side)

    @property
    def truncating_backend(self) -> Any:
        return replace(self.backend, max_length=self.max_length)

    @property
    def vocab_size(self) -> int:
        return max(self.backend.vocab.values(), default=-1) + 1

    def for_targets(self) -> "MarianProcessor":
        """The processor of texts in the target language."""
        return replace(self, side="target")

    def check(self, config: Any) -> None:
        super().check(config)
        targets, size = self.for_targets().vocab_size, config.output_size
        if targets > size:
            raise ValueError(
                f"the tokenizer does not belong to this model: its target ids go up to {targets - 1}, but the decoder "
                f"has a vocabulary of {size}"
            )

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {"kind": "marian"}

    def transformers_files(self) -> dict[str, Any]:
        values = json.loads(self.tokenizer)
        separate = "target_vocab" in values
        special = {f"{name}_token": token for name, token in self.special.items()}
        settings = {
            "tokenizer_class": "MarianTokenizer",
            "model_max_length": self.max_length,
            "padding_side": self.padding,
            "separate_vocabs": separate,
        }
        return {
            "source.spm": base64.b64decode(values["source_spm"]),
            "target.spm": base64.b64decode(values["target_spm"]),
            "vocab.json": json.dumps(values["vocab"], ensure_ascii=False),
            **({"target_vocab.json": json.dumps(values["target_vocab"], ensure_ascii=False)} if separate else {}),
            "tokenizer_config.json": settings | special,
            "special_tokens_map.json": special,
        }


def tokenizer_text(
    source_spm: bytes, target_spm: bytes, vocab: Mapping[str, int], target_vocab: Mapping[str, int] | None = None
) -> str:
    """The two models and the vocabulary {piece: id} as one JSON text. target_vocab: of a decoder with its own."""
    values: dict[str, Any] = {name: base64.b64encode(data).decode() for name, data in
                              (("source_spm", source_spm), ("target_spm", target_spm))}  # fmt: skip
    values |= {"vocab": dict(vocab)} | ({} if target_vocab is None else {"target_vocab": dict(target_vocab)})
    return json.dumps(values, ensure_ascii=False)


@lru_cache(maxsize=16)
def marian_backend(text: str, side: Literal["source", "target"]) -> "MarianBackend":
    """The tokenizer of one side. Raises LoadError for a text that is not that of `tokenizer_text`."""
    try:
        values = json.loads(text)
        models = {name: base64.b64decode(values[f"{name}_spm"], validate=True) for name in ("source", "target")}
        vocab, target_vocab = values["vocab"], values.get("target_vocab")
    except (KeyError, TypeError, ValueError) as error:
        raise LoadError(f"not a tokenizer of Marian: {error!r}") from None
    own = vocab if side == "source" or target_vocab is None else target_vocab
    if UNK not in own:
        raise LoadError(f"the vocabulary of the {side} has no token {UNK!r}, which stands for unknown ones")
    decodes = "source" if target_vocab is None else "target"  # as in transformers
    return MarianBackend(models[side], own, models[decodes], vocab if target_vocab is None else target_vocab)


@dataclass(frozen=True)
class PieceEncoding:
    """The ids of one text; special_tokens_mask: 1 for those that do not stand for a part of it."""

    ids: list[int]
    special_tokens_mask: list[int]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class MarianBackend:
    """What TextProcessor uses of a `tokenizers.Tokenizer`. max_length: truncates before the end token."""

    model: bytes = field(repr=False)
    vocab: Mapping[str, int] = field(repr=False)
    decoding_model: bytes = field(repr=False)
    decoding_vocab: Mapping[str, int] = field(repr=False)
    max_length: int | None = None

    def encode_batch(self, texts: Sequence[Text], add_special_tokens: bool = True) -> list[PieceEncoding]:
        return [self.encode(text, add_special_tokens) for text in texts]

    def encode(self, text: Text, add_special_tokens: bool = True) -> PieceEncoding:
        parts = [self.pieces(part) for part in ([text] if isinstance(text, str) else text)]
        end = [self.vocab[EOS]] if add_special_tokens else []
        while self.max_length is not None and sum(map(len, parts)) > max(self.max_length - len(end), 0):
            max(reversed(parts), key=len).pop()  # the longest first, as `tokenizers` truncates pairs
        pieces = [piece for part in parts for piece in part]
        ids = [self.vocab.get(piece, self.vocab[UNK]) for piece in pieces]
        return PieceEncoding(ids + end, [int(piece in (EOS, PAD)) for piece in pieces] + [1] * len(end))

    def pieces(self, text: str) -> list[str]:
        """The pieces of a text; a code of a language at its beginning and special tokens are pieces of their own."""
        found: list[str] = []
        for part in re.split(f"({re.escape(UNK)}|{re.escape(EOS)}|{re.escape(PAD)})", text):
            if part in (UNK, EOS, PAD):
                found.append(part)
                continue
            code = re.match(r">>.*?<<", part, re.DOTALL)
            found += [code[0]] if code else []
            rest = part[code.end() :] if code else part
            found += sentencepiece_model(self.model).encode(rest, out_type=str) if part else []
        return found

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        text, run = "", list[str]()
        for piece in (self._names.get(i, UNK) for i in ids):
            if piece not in (UNK, EOS, PAD):
                run.append(piece)
            elif not skip_special_tokens:
                text, run = f"{text}{self._join(run)}{piece} ", []
        return (text + self._join(run)).replace("▁", " ").strip()

    def _join(self, pieces: list[str]) -> str:
        return str(sentencepiece_model(self.decoding_model).decode_pieces(pieces)) if pieces else ""

    @cached_property
    def _names(self) -> dict[int, str]:
        return {i: piece for piece, i in self.decoding_vocab.items()}

    def token_to_id(self, token: str) -> int | None:
        return self.vocab.get(token)

    def id_to_token(self, index: int) -> str | None:
        return self._names.get(index)

    def get_vocab(self) -> dict[str, int]:
        return dict(self.vocab)

    def get_added_tokens_decoder(self) -> dict[int, Any]:
        return {}

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        return 1


@lru_cache(maxsize=8)
def sentencepiece_model(data: bytes) -> Any:
    """The model of a .spm file. Raises ImportError without the package, LoadError for other data."""
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError as error:
        raise ImportError(NO_SENTENCEPIECE) from error
    try:
        return SentencePieceProcessor(model_proto=data)
    except RuntimeError as error:
        raise LoadError(f"not a SentencePiece model ({error})") from None
