"""SentencePiece models (`tokenizer.model`, `sentencepiece.bpe.model`) as tokenizers of the `tokenizers` library.

Their file is a protocol buffer of three messages: pieces with scores, what trained them, and the normalizer. The few
fields that matter are read here, so neither sentencepiece nor protobuf is needed. The ids are sentencepiece's; only
special and user-defined pieces that a text spells out are, as everywhere with `tokenizers`, cut out before the rest.
Source: https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo.utils.errors import LoadError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

UNIGRAM, BPE = 1, 2
CONTROL, USER = 3, 4
SPACE = "▁"


@dataclass(frozen=True)
class Pieces:
    """A SentencePiece model: pieces (text, score, kind) in the order of their ids, and how texts are normalized."""

    pieces: list[tuple[str, float, int]]
    algorithm: int
    unknown: int
    byte_fallback: bool
    charsmap: bytes
    dummy_prefix: bool
    squeeze: bool

    @classmethod
    def parse(cls, data: bytes) -> "Pieces":
        """Raises LoadError for what is no SentencePiece model."""
        try:
            parts = list(_fields(data))
            pieces = [_piece(value) for number, value in parts if number == 1]
            trainer, normalizer = ({k: v for n, part in parts if n == i for k, v in _fields(part)} for i in (2, 3))
        except (IndexError, struct.error, TypeError, UnicodeDecodeError, ValueError) as error:
            raise LoadError(f"no SentencePiece model ({error})") from None
        if not pieces or not trainer or trainer.get(3, UNIGRAM) not in (UNIGRAM, BPE):
            raise LoadError("no SentencePiece model of the kinds unigram and BPE")
        return cls(
            pieces=pieces,
            algorithm=trainer.get(3, UNIGRAM),
            unknown=trainer.get(40, 0),
            byte_fallback=bool(trainer.get(35, 0)),
            charsmap=normalizer.get(2, b""),
            dummy_prefix=bool(normalizer.get(3, 1)),
            squeeze=bool(normalizer.get(4, 1)),
        )


def tokenizer(data: bytes, *, bos: bool = True, eos: bool = False, fairseq: bool = False) -> "Tokenizer":
    """bos, eos: what stands around a text. fairseq: XLM-R's numbering, its special tokens first and <mask> last."""
    from tokenizers import AddedToken, Tokenizer, models

    model = Pieces.parse(data)
    pieces = model.pieces
    if fairseq:
        first = [(name, 0.0, CONTROL) for name in ("<s>", "<pad>", "</s>", "<unk>")]
        pieces = [*first, *pieces[3:], ("<mask>", 0.0, CONTROL)]
    ids = {text: i for i, (text, _, _) in enumerate(pieces)}
    unknown = 3 if fairseq else model.unknown
    if model.algorithm == UNIGRAM:
        scores = [(text, score) for text, score, _ in pieces]
        made = Tokenizer(models.Unigram(scores, unknown, model.byte_fallback))
    else:
        made = Tokenizer(models.BPE(ids, _merges(pieces, ids), unk_token=pieces[unknown][0], fuse_unk=True,
                                    byte_fallback=model.byte_fallback))  # fmt: skip
    _dress(made, model)
    own = [AddedToken(text, normalized=False, special=kind == CONTROL, lstrip=text == "<mask>")
           for text, _, kind in pieces if kind in (CONTROL, USER)]  # fmt: skip
    made.add_tokens(own)
    made.post_processor = _around(ids, bos=bos, eos=eos, fairseq=fairseq)
    return made


def _dress(made: "Tokenizer", model: Pieces) -> None:
    """What happens to texts before pieces are looked for, and to pieces when they become texts."""
    from tokenizers import Regex, decoders, normalizers

    steps: list[Any] = [normalizers.Precompiled(model.charsmap)] if model.charsmap else []
    if model.squeeze:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    steps += [normalizers.Prepend(" ")] if model.dummy_prefix else []
    made.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    back: list[Any] = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    made.decoder = decoders.Sequence(back + ([decoders.Strip(" ", 1, 0)] if model.dummy_prefix else []))


def _around(ids: dict[str, int], *, bos: bool, eos: bool, fairseq: bool) -> Any:
    from tokenizers import processors

    first, last = "<s>" if (bos or fairseq) and "<s>" in ids else "", "</s>" if eos or fairseq else ""
    one = [name for name in (first, "$A", last) if name]
    second = [last if fairseq else first, "$B:1", last]
    both = [*one, *(name for name in second if name)]
    named = [(name, ids[name]) for name in (first, last) if name]
    return processors.TemplateProcessing(single=one, pair=both, special_tokens=named)


def _merges(pieces: list[tuple[str, float, int]], ids: dict[str, int]) -> list[tuple[str, str]]:
    """Every way to put a piece together from two others, the better piece first."""
    found = []
    for text, score, kind in pieces:
        if kind in (CONTROL, USER):
            continue
        parts = ((text[:cut], text[cut:]) for cut in range(1, len(text)))
        local = sorted((part for part in parts if part[0] in ids and part[1] in ids), key=lambda p: ids[p[0]])
        found += [(score, part) for part in local]
    found.sort(key=lambda one: (-one[0], -len(one[1][0]), -len(one[1][1])))
    return [part for _, part in found]


def _piece(data: bytes) -> tuple[str, float, int]:
    values = dict(_fields(data))
    return values.get(1, b"").decode("utf-8"), struct.unpack("<f", values.get(2, bytes(4)))[0], values.get(3, 1)


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of each field of a message: an int, or bytes (texts, messages, fixed numbers).

    https://protobuf.dev/programming-guides/encoding
    """
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, place = _varint(data, place)
            yield number, value
            continue
        if wire not in (1, 2, 5):
            raise ValueError(f"wire type {wire} at byte {place}")
        size, place = _varint(data, place) if wire == 2 else ({1: 8, 5: 4}[wire], place)
        if place + size > len(data):
            raise ValueError("it ends too early")
        yield number, data[place : place + size]
        place += size


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
