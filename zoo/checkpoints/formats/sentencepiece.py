"""SentencePiece models (`tokenizer.model`, `sentencepiece.bpe.model`) as tokenizers of the `tokenizers` library.

The file is a protocol buffer with pieces and scores, the settings of training, and the normalizer. The few fields that
matter are parsed here, because the package sentencepiece shows neither the normalizer's table nor which pieces are
user-defined, and its `sentencepiece_model_pb2` cannot be imported with a protobuf older than the one that generated it.
The ids are those of sentencepiece, except that special and user-defined pieces in a text are split off first, as
`tokenizers` always does.
Source: https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo.preprocessing.tokenizer_training import set_bert_template
from zoo.utils.errors import LoadError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

UNIGRAM, BPE = 1, 2
CONTROL, USER = 3, 4
SPACE = "▁"


@dataclass(frozen=True)
class Pieces:
    """A SentencePiece model: pieces (text, score, type) in the order of their ids, and normalization settings."""

    pieces: list[tuple[str, float, int]]
    algorithm: int
    unknown: int
    byte_fallback: bool
    charsmap: bytes
    dummy_prefix: bool
    squeeze: bool

    @classmethod
    def parse(cls, data: bytes) -> "Pieces":
        """Parse a file. Raises LoadError if it is not a SentencePiece model."""
        try:
            parts = list(_fields(data))
            pieces = [_piece(value) for number, value in parts if number == 1]
            trainer, normalizer = ({k: v for n, part in parts if n == i for k, v in _fields(part)} for i in (2, 3))
        except (IndexError, struct.error, TypeError, UnicodeDecodeError, ValueError) as error:
            raise LoadError(f"not a SentencePiece model ({error})") from None
        if not pieces or not trainer or trainer.get(3, UNIGRAM) not in (UNIGRAM, BPE):
            raise LoadError("not a SentencePiece model of type unigram or BPE")
        return cls(
            pieces=pieces,
            algorithm=trainer.get(3, UNIGRAM),
            unknown=trainer.get(40, 0),
            byte_fallback=bool(trainer.get(35, 0)),
            charsmap=normalizer.get(2, b""),
            dummy_prefix=bool(normalizer.get(3, 1)),
            squeeze=bool(normalizer.get(4, 1)),
        )


def tokenizer(
    data: bytes,
    *,
    bos: bool = True,
    eos: bool = False,
    fairseq: bool = False,
    extra_ids: int = 0,
    languages: Sequence[str] = (),
) -> "Tokenizer":
    """A tokenizer from the bytes of a SentencePiece model.

    bos, eos: whether to add <s> before and </s> after a text. fairseq: the ids of XLM-R, with its special tokens first
    and <mask> last. extra_ids: number of T5's sentinels <extra_id_N>, ..., <extra_id_0> after all other pieces.
    languages: mBART's codes, before <mask>.
    """
    from tokenizers import AddedToken, Tokenizer, models

    model = Pieces.parse(data)
    pieces = model.pieces
    if fairseq:
        first = [(name, 0.0, CONTROL) for name in ("<s>", "<pad>", "</s>", "<unk>")]
        pieces = [*first, *pieces[3:], *((name, 0.0, CONTROL) for name in (*languages, "<mask>"))]
    pieces = pieces + [(f"<extra_id_{i}>", 0.0, CONTROL) for i in reversed(range(extra_ids))]
    ids = {text: i for i, (text, _, _) in enumerate(pieces)}
    unknown = 3 if fairseq else model.unknown
    if model.algorithm == UNIGRAM:
        scores = [(text, score) for text, score, _ in pieces]
        result = Tokenizer(models.Unigram(scores, unknown, model.byte_fallback))
    else:
        result = Tokenizer(models.BPE(ids, _merges(pieces, ids), unk_token=pieces[unknown][0], fuse_unk=True,
                                      byte_fallback=model.byte_fallback))  # fmt: skip
    _set_normalizer_and_decoder(result, model)
    added = [AddedToken(text, normalized=False, special=kind == CONTROL, lstrip=text == "<mask>")
             for text, _, kind in pieces if kind in (CONTROL, USER)]  # fmt: skip
    result.add_tokens(added)
    result.post_processor = _template(ids, bos=bos, eos=eos, fairseq=fairseq)
    return result


def bert_tokenizer(data: bytes) -> "Tokenizer":
    """The tokenizer of BigBird: [CLS] before a text and [SEP] after it, which are pieces of the model, as [MASK] is."""
    from tokenizers import AddedToken

    result, (cls, sep, mask) = tokenizer(data, bos=False), ("[CLS]", "[SEP]", "[MASK]")
    if absent := [name for name in (cls, sep, mask) if result.token_to_id(name) is None]:
        raise LoadError(f"the SentencePiece model has no piece {absent[0]!r}")
    result.add_special_tokens([AddedToken(name, normalized=False, lstrip=name == mask) for name in (cls, sep, mask)])
    set_bert_template(result, cls, sep)
    return result


def _set_normalizer_and_decoder(result: "Tokenizer", model: Pieces) -> None:
    """Set how texts are normalized before they are split into pieces, and how pieces are joined to texts."""
    from tokenizers import Regex, decoders, normalizers

    steps: list[Any] = [normalizers.Precompiled(model.charsmap)] if model.charsmap else []
    if model.squeeze:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    steps += [normalizers.Prepend(" ")] if model.dummy_prefix else []
    result.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    back: list[Any] = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    result.decoder = decoders.Sequence(back + ([decoders.Strip(" ", 1, 0)] if model.dummy_prefix else []))


def _template(ids: dict[str, int], *, bos: bool, eos: bool, fairseq: bool) -> Any:
    """The post-processor that adds <s> and </s> to texts and pairs of texts."""
    from tokenizers import processors

    first, last = "<s>" if (bos or fairseq) and "<s>" in ids else "", "</s>" if eos or fairseq else ""
    one = [name for name in (first, "$A", last) if name]
    second = [last if fairseq else first, "$B:1", last]
    both = [*one, *(name for name in second if name)]
    named = [(name, ids[name]) for name in (first, last) if name]
    return processors.TemplateProcessing(single=one, pair=both, special_tokens=named)


def _merges(pieces: list[tuple[str, float, int]], ids: dict[str, int]) -> list[tuple[str, str]]:
    """All merges of two pieces to a third, those of pieces with higher scores first."""
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
    """(number, value) of each field of a protobuf message: an int, or bytes (strings, messages, fixed-size numbers).

    https://protobuf.dev/programming-guides/encoding
    """
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, position = _varint(data, position)
            yield number, value
            continue
        if wire not in (1, 2, 5):
            raise ValueError(f"wire type {wire} at byte {position}")
        size, position = _varint(data, position) if wire == 2 else ({1: 8, 5: 4}[wire], position)
        if position + size > len(data):
            raise ValueError("unexpected end of file")
        yield number, data[position : position + size]
        position += size


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value, position
