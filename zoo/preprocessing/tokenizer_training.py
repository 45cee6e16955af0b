"""Train a tokenizer: WordPiece (BERT) or byte-level BPE (GPT-2, BART, source code)."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from zoo.preprocessing.fill_in_middle import NAMES
from zoo.preprocessing.text import TextProcessor
from zoo.preprocessing.whisper import END, START
from zoo.utils.errors import check_choice
from zoo.utils.files import write_atomic
from zoo.utils.lines import read_lines

if TYPE_CHECKING:
    from tokenizers import Tokenizer


# --- From scratch -----------------------------------------------------------------------------------------------------

WORDPIECE_SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
BPE_SPECIAL = {"eos": "<|endoftext|>"}
SEQ2SEQ_SPECIAL = {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>"}  # numbered as in BART
WHISPER_SPECIAL = dict.fromkeys(("bos", "eos", "pad"), "<|endoftext|>")
CODE_SPECIAL = {"eos": "<|endoftext|>", "pad": "<fim_pad>"}
_SPECIAL = {"wordpiece": WORDPIECE_SPECIAL, "bpe": BPE_SPECIAL, "seq2seq": SEQ2SEQ_SPECIAL, "whisper": WHISPER_SPECIAL,
            "code": CODE_SPECIAL}  # fmt: skip
# Source code: a name with one character before it, digits in groups, other signs, a line feed, a whole indentation.
CODE_PATTERN = r"[^\n\p{L}\p{N}_]?[\p{L}_]+|\p{N}{1,3}| ?[^\s\p{L}\p{N}_]+|\n|[ \t]+|\s"


def train(
    kind: Literal["wordpiece", "bpe", "seq2seq", "whisper", "code"],
    source: Iterable[str] | Path | Sequence[Path],
    vocab_size: int,
    *,
    max_length: int = 512,
    lowercase: bool = True,
    cache: str | Path | None = None,
) -> TextProcessor:
    """Train a tokenizer on texts. The same texts give the same tokenizer in every process and on every machine.

    kind: "wordpiece" as in BERT ([CLS] and [SEP] around each text), byte-level "bpe" as in GPT-2 (no special tokens
        added), "seq2seq", byte-level BPE for source and target texts, which ends each text with </s>, "whisper" for
        transcripts of one language without timestamps, from <|startoftranscript|> to <|endoftext|>, or "code",
        byte-level BPE in which line feeds and indentations are tokens of their own, with StarCoder's tokens of
        fill-in-the-middle.
    source: texts, or one or several text files with one text per line. lowercase: for WordPiece only.
    cache: a folder; a tokenizer trained on the same texts is read from it.
    """
    from tokenizers import __version__

    check_choice("kind", kind, tuple(_SPECIAL))
    texts = _texts(source)
    if not any(text.strip() for text in texts):
        raise ValueError("cannot train a tokenizer: the source is empty")
    file = None
    if cache is not None:
        digest = hashlib.blake2b(f"{__version__}/{kind}/{vocab_size}/{lowercase}".encode(), digest_size=16)
        for text in texts:
            digest.update(text.encode() + b"\0")
        file = Path(cache) / f"{kind}-{digest.hexdigest()}.json"
    if file is not None and file.is_file():
        trained = file.read_text(encoding="utf-8")
    else:
        train_backend = {"wordpiece": _wordpiece, "bpe": _bpe, "seq2seq": _seq2seq, "whisper": _whisper,
                         "code": _code}[kind]  # fmt: skip
        trained = train_backend(texts, vocab_size, lowercase).to_str()
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(file, trained)
    return TextProcessor(tokenizer=trained, special=_SPECIAL[kind], max_length=max_length, types=kind == "wordpiece")


def wordpiece(vocab: dict[str, int], *, unk: str = "[UNK]", lowercase: bool = True, **bert: Any) -> "Tokenizer":
    """BERT's tokenizer with a vocabulary, without special tokens around a text.

    bert: options of its normalizer (strip_accents, handle_chinese_chars).
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token=unk, max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase, **bert)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def set_bert_template(tokenizer: "Tokenizer", cls: str = "[CLS]", sep: str = "[SEP]") -> None:
    """Make a tokenizer add `cls` and `sep` around a text or a pair of texts, if it has both tokens."""
    from tokenizers import processors

    around = [(name, tokenizer.token_to_id(name)) for name in (cls, sep)]
    if all(i is not None for _, i in around):
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[cls, "$A", sep], pair=[cls, "$A", sep, "$B:1", f"{sep}:1"], special_tokens=around
        )


def byte_bpe(vocab: dict[str, int], merges: list[tuple[str, str]], *, add_prefix_space: bool = False) -> "Tokenizer":
    """The tokenizer of GPT-2 and RoBERTa with a vocabulary and merges, without special tokens.

    add_prefix_space: whether a text starts with a space, so that its first word is like the others.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    tokenizer = Tokenizer(models.BPE(vocab, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def _texts(source: Iterable[str] | Path | Sequence[Path]) -> list[str]:
    if isinstance(source, str):
        raise ValueError("expected a list of strings, or Path objects of text files, given one string")
    texts: list[str] = []
    for item in [source] if isinstance(source, Path) else source:
        texts += read_lines(item) if isinstance(item, Path) else [item]
    return texts


def _wordpiece(texts: list[str], vocab_size: int, lowercase: bool) -> "Tokenizer":
    """Train WordPiece. The "##x" pieces are passed as special tokens: the trainer would number them in random order."""
    from tokenizers import trainers

    special = list(WORDPIECE_SPECIAL.values())
    blank = wordpiece({}, lowercase=lowercase)
    letters = _letters(texts, blank)
    pieces = [f"##{letter}" for letter in letters]
    _check_vocab_size(vocab_size, len(special) + 2 * len(letters))
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=special + pieces,
        initial_alphabet=letters,
        limit_alphabet=len(letters),
        min_frequency=2,
        show_progress=False,
    )
    blank.train_from_iterator(texts, trainer)
    tokenizer = wordpiece(json.loads(blank.to_str())["model"]["vocab"], lowercase=lowercase)
    tokenizer.add_special_tokens(special)
    set_bert_template(tokenizer)
    return tokenizer


def _letters(texts: list[str], tokenizer: "Tokenizer", limit: int = 1000) -> list[str]:
    """The most frequent characters after normalization, sorted."""
    from collections import Counter

    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(tokenizer.normalizer.normalize_str(text))
    frequent = sorted(counts, key=lambda letter: (-counts[letter], letter))
    return sorted(letter for letter in frequent[:limit] if not letter.isspace())


def _bpe(texts: list[str], vocab_size: int, lowercase: bool) -> "Tokenizer":
    return _trained_bpe(byte_bpe({}, []), texts, vocab_size, list(BPE_SPECIAL.values()))


def _seq2seq(texts: list[str], vocab_size: int, lowercase: bool) -> "Tokenizer":
    """Byte-level BPE in which the first word of a text is like the others, with </s> at the end of each text."""
    from tokenizers import processors

    tokenizer = _spaced_bpe(texts, vocab_size, list(SEQ2SEQ_SPECIAL.values()))
    eos = SEQ2SEQ_SPECIAL["eos"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=["$A", eos], pair=["$A", eos, "$B", eos], special_tokens=[(eos, tokenizer.token_to_id(eos))]
    )
    return tokenizer


def _whisper(texts: list[str], vocab_size: int, lowercase: bool) -> "Tokenizer":
    """Byte-level BPE in which the first word of a text is like the others, with Whisper's tokens around each text."""
    from tokenizers import processors

    special = [END, START]
    tokenizer = _spaced_bpe(texts, vocab_size, special)
    around = [(token, tokenizer.token_to_id(token)) for token in special]
    tokenizer.post_processor = processors.TemplateProcessing(single=[START, "$A", END], special_tokens=around)
    return tokenizer


def _code(texts: list[str], vocab_size: int, lowercase: bool) -> "Tokenizer":
    """Byte-level BPE whose tokens do not reach over the ends of lines and of indentations."""
    from tokenizers import Regex, pre_tokenizers

    tokenizer = byte_bpe({}, [])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(CODE_PATTERN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    special = [CODE_SPECIAL["eos"], *NAMES[0], CODE_SPECIAL["pad"]]
    return _trained_bpe(tokenizer, texts, vocab_size, special)


def _spaced_bpe(texts: list[str], vocab_size: int, special: list[str]) -> "Tokenizer":
    """Byte-level BPE that puts a space before each text, and removes it from decoded ones."""
    from tokenizers import decoders

    tokenizer = _trained_bpe(byte_bpe({}, [], add_prefix_space=True), texts, vocab_size, special)
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    return tokenizer


def _trained_bpe(tokenizer: "Tokenizer", texts: list[str], vocab_size: int, special: list[str]) -> "Tokenizer":
    from tokenizers import pre_tokenizers, trainers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    _check_vocab_size(vocab_size, len(letters) + len(special))
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=letters,
        min_frequency=2,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _check_vocab_size(vocab_size: int, minimum: int) -> None:
    if vocab_size < minimum:
        raise ValueError(
            f"vocab_size={vocab_size} is too small: special tokens and single characters alone need {minimum}"
        )
