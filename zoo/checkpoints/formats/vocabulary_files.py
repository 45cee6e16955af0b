"""Tokenizers of older folders, made from vocab.txt (BERT) or from vocab.json and merges.txt (GPT-2 ...)."""

import gzip
import importlib.util
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.checkpoints.formats import added_tokens
from zoo.checkpoints.formats.added_tokens import content_of
from zoo.preprocessing import whisper
from zoo.preprocessing.protein import SPECIAL_TOKENS, protein_tokenizer
from zoo.preprocessing.tokenizer_training import WORDPIECE_SPECIAL, byte_bpe, set_bert_template, wordpiece
from zoo.preprocessing.whisper_languages import language_code
from zoo.utils.errors import LoadError
from zoo.utils.files import read_json
from zoo.utils.lines import read_lines, split_lines

if TYPE_CHECKING:
    from tokenizers import Tokenizer

START, END = "<|startoftext|>", "<|endoftext|>"  # of CLIP
GPT2_SPECIAL = dict.fromkeys(("bos", "eos", "unk"), END)
ROBERTA_SPECIAL = {
    "bos": "<s>", "eos": "</s>", "unk": "<unk>", "sep": "</s>", "pad": "<pad>", "cls": "<s>", "mask": "<mask>",
}  # fmt: skip
OPEN_CLIP_SPECIAL = {"bos": "<start_of_text>", "eos": "<end_of_text>", "unk": "<end_of_text>"}
CLIP_SPECIAL = {"bos": START, "eos": END, "unk": END, "pad": END}


def read(
    folder: Path, settings: Mapping[str, Any], model_type: str, vocab_size: int
) -> tuple[str | None, list[tuple[int, str]]]:
    """(the contents of tokenizer.json, made from the vocabulary of a folder; what `added_tokens.add` returns).

    None if the folder has no vocabulary.

    Raises LoadError for a damaged file.
    """
    bert = (folder / "vocab.txt").is_file()
    if not bert and not ((folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()):
        return None, []
    vocab = read_vocab_txt(folder / "vocab.txt") if bert else read_vocab_json(folder / "vocab.json")
    merges = [] if bert else read_merges(folder / "merges.txt")
    default, make, finish = _kind(bert, model_type, vocab)
    # A role that the settings do not name has the usual token; null means that there is none.
    settings = {f"{role}_token": token for role, token in default.items()} | dict(settings)
    names = {role: content_of(settings[f"{role}_token"]) or "" for role in default}
    try:
        tokenizer = make(vocab, merges, names, settings)
        absent = added_tokens.add(tokenizer, added_tokens.declared(folder, settings), vocab_size)
        finish(tokenizer, names, settings)
    except LoadError:
        raise
    except Exception as error:  # the tokenizers library has no class of its own for what a vocabulary lacks
        raise LoadError(f"{folder}: the vocabulary is damaged: {error}") from None
    return tokenizer.to_str(), [(i, token) for i, token in absent if token not in default.values()]


def read_vocab_txt(file: Path) -> dict[str, int]:
    """{token: id} of a file with one token a line. Raises LoadError for a file that is not UTF-8."""
    try:
        return {token: number for number, token in enumerate(read_lines(file))}
    except UnicodeDecodeError as error:
        raise LoadError(f"{file} is not UTF-8: {error}") from None


def read_vocab_json(file: Path) -> dict[str, int]:
    """{token: id}. Raises LoadError for other contents."""
    vocab = read_json(file)
    if odd := next((token for token, i in vocab.items() if type(i) is not int or i < 0), None):
        raise LoadError(f"{file}: the token {odd!r} has the id {vocab[odd]!r}, expected a whole number from 0")
    return vocab


def read_merges(file: Path) -> list[tuple[str, str]]:
    """The pairs of merges.txt, one a line. Raises LoadError for a line that is not a pair."""
    try:
        lines = read_lines(file)
    except UnicodeDecodeError as error:
        raise LoadError(f"{file} is not UTF-8: {error}") from None
    pairs = []
    for number, line in enumerate(lines, 1):
        if line and not line.startswith("#version"):
            pair = line.split(" ")
            if len(pair) != 2:
                raise LoadError(f"{file}, line {number}: expected two tokens with a space between them, found {line!r}")
            pairs.append((pair[0], pair[1]))
    return pairs


# --- Kinds ------------------------------------------------------------------------------------------------------------

Names = Mapping[str, str]
Settings = Mapping[str, Any]
Make = Callable[[dict[str, int], list[tuple[str, str]], Names, Settings], "Tokenizer"]
Finish = Callable[["Tokenizer", Names, Settings], Any]


def _kind(bert: bool, model_type: str, vocab: Mapping[str, int]) -> tuple[dict[str, str], Make, Finish]:
    """(the usual special tokens, the function that makes the tokenizer, and the one that adds tokens around texts)."""
    if bert and model_type == "esm":
        return SPECIAL_TOKENS, _protein, lambda tokenizer, names, settings: None
    if bert:
        return WORDPIECE_SPECIAL, _bert, _bert_template
    if END in vocab and model_type in ("clip", "clip_text_model"):
        return CLIP_SPECIAL, lambda vocab, merges, names, _: clip_bpe(vocab, merges, names["unk"]), _clip_template
    if model_type == "whisper":
        return GPT2_SPECIAL, _byte_bpe, lambda tokenizer, _, settings: set_whisper_template(tokenizer, settings)
    if "roberta" in model_type or model_type == "longformer":
        return ROBERTA_SPECIAL, _byte_bpe, _roberta_template
    return GPT2_SPECIAL, _byte_bpe, _bos_and_eos


def _protein(vocab: dict[str, int], merges: list[tuple[str, str]], names: Names, settings: Settings) -> "Tokenizer":
    stripped = {token.strip(): number for token, number in vocab.items()}
    return protein_tokenizer(stripped, {role: token for role, token in names.items() if token})


def _bert(vocab: dict[str, int], merges: list[tuple[str, str]], names: Names, settings: Settings) -> "Tokenizer":
    return wordpiece(vocab, unk=names["unk"], **bert_options(settings))


def bert_options(settings: Settings) -> dict[str, Any]:
    """The options of BERT's normalizer, from tokenizer_config.json."""
    return {
        "lowercase": settings.get("do_lower_case", True),
        "strip_accents": settings.get("strip_accents"),
        "handle_chinese_chars": settings.get("tokenize_chinese_chars", True),
    }


def _byte_bpe(vocab: dict[str, int], merges: list[tuple[str, str]], names: Names, settings: Settings) -> "Tokenizer":
    return byte_bpe(vocab, merges, add_prefix_space=settings.get("add_prefix_space", False))


def clip_bpe(vocab: dict[str, int], merges: list[tuple[str, str]], unk: str = END) -> "Tokenizer":
    """CLIP's tokenizer: lowercase, </w> at the end of words; without the tokens around a text."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(
        models.BPE(vocab, merges, continuing_subword_prefix="", end_of_word_suffix="</w>", unk_token=unk)
    )
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    words = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    split = pre_tokenizers.Split(words, behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _bert_template(tokenizer: "Tokenizer", names: Names, settings: Settings) -> None:
    set_bert_template(tokenizer, names["cls"], names["sep"])


def _roberta_template(tokenizer: "Tokenizer", names: Names, settings: Settings) -> None:
    from tokenizers import processors

    sep, cls = (_with_id(tokenizer, names[role]) for role in ("sep", "cls"))
    flags = (settings.get("trim_offsets", True), settings.get("add_prefix_space", False))
    tokenizer.post_processor = processors.RobertaProcessing(sep, cls, *flags)


def _clip_template(tokenizer: "Tokenizer", names: Names, settings: Settings) -> None:
    from tokenizers import processors

    eos, bos = (_with_id(tokenizer, names[role]) for role in ("eos", "bos"))
    tokenizer.post_processor = processors.RobertaProcessing(eos, bos, False, False)


def _bos_and_eos(tokenizer: "Tokenizer", names: Names, settings: Settings) -> None:
    """`add_bos_token` and `add_eos_token` of GPT-2's tokenizer; by default it adds nothing."""
    from tokenizers import processors

    bos, eos = ([names[role]] if settings.get(f"add_{role}_token") else [] for role in ("bos", "eos"))
    around = [_with_id(tokenizer, name) for name in dict.fromkeys([*bos, *eos])]
    pair = [*bos, "$A", *eos, *(f"{name}:1" for name in bos), "$B:1", *(f"{name}:1" for name in eos)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[*bos, "$A", *eos], pair=pair, special_tokens=around
    )


def set_whisper_template(tokenizer: "Tokenizer", settings: Settings) -> bool:
    """Put Whisper's tokens around texts, as the settings `language`, `task` and `predict_timestamps` say. Returns
    whether that changes the tokenizer; one without Whisper's tokens is left as it is.

    Raises ValueError for a language that is not one of Whisper's.
    """
    from tokenizers import processors

    language, task = settings.get("language"), settings.get("task")
    before = [whisper.START]
    before += [f"<|{language_code(language)}|>"] if language is not None else []
    before += [f"<|{task}|>"] if task is not None else []
    before += [] if settings.get("predict_timestamps") else [whisper.NO_TIMESTAMPS]
    eos = content_of(settings.get("eos_token")) or END
    if any(tokenizer.token_to_id(token) is None for token in (*before, eos)):
        return False
    old, around = tokenizer.post_processor, [_with_id(tokenizer, token) for token in dict.fromkeys([*before, eos])]
    single, pair = [*before, "$A", eos], [*before, "$A", "$B:1", f"{eos}:1"]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=around)
    return old is None or bool(old.__getstate__() != tokenizer.post_processor.__getstate__())


def _with_id(tokenizer: "Tokenizer", token: str) -> tuple[str, int]:
    if (index := tokenizer.token_to_id(token)) is None:
        raise ValueError(f"it has no token {token!r}, which stands around every text")
    return token, index


# --- CLIP's vocabulary in the open_clip package -----------------------------------------------------------------------


@cache
def open_clip_tokenizer() -> str | None:
    """The contents of tokenizer.json for CLIP's vocabulary in the open_clip package; None if it is not installed."""
    spec = importlib.util.find_spec("open_clip")
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin).parent / "bpe_simple_vocab_16e6.txt.gz"
    if not file.is_file():
        return None
    lines = split_lines(gzip.decompress(file.read_bytes()).decode("utf-8"))
    merges: Any = [tuple(line.split()) for line in lines[1 : 49152 - 256 - 2 + 1]]
    letters = byte_letters()
    bos, eos = OPEN_CLIP_SPECIAL["bos"], OPEN_CLIP_SPECIAL["eos"]
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges), bos, eos]
    tokenizer = clip_bpe({word: i for i, word in enumerate(words)}, merges, unk=eos)
    tokenizer.add_special_tokens([bos, eos])
    _clip_template(tokenizer, OPEN_CLIP_SPECIAL, {})
    return tokenizer.to_str()


def byte_letters() -> list[str]:
    """The characters that represent the 256 bytes, in the order of the vocabularies of CLIP and GPT-2."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(byte) for byte in shown] + [chr(256 + i) for i in range(256 - len(shown))]
