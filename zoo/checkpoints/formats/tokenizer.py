"""Tokenizers of transformers' folders: tokenizer.json, or the vocabulary files of older repositories."""

import gzip
import importlib.util
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.checkpoints.formats import sentencepiece
from zoo.preprocessing.text import SPECIAL, TextProcessor
from zoo.preprocessing.tokenizer_training import byte_bpe, wordpiece
from zoo.utils.errors import LoadError
from zoo.utils.files import read_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# The usual special tokens, for folders that do not name them.
USUAL = {
    "unk": ("[UNK]", "<unk>"),
    "pad": ("[PAD]", "<pad>"),
    "cls": ("[CLS]",),
    "sep": ("[SEP]",),
    "mask": ("[MASK]", "<mask>"),
    "bos": ("<s>", "<|startoftext|>", "<|endoftext|>"),
    "eos": ("</s>", "<|endoftext|>"),
}
HOW_TO_CONVERT = "transformers' AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) writes tokenizer.json"
START, END = "<|startoftext|>", "<|endoftext|>"  # of CLIP
SENTENCEPIECE = ("tokenizer.model", "sentencepiece.bpe.model", "spiece.model")
SENTENCEPIECE_TYPES = ("llama", "mistral", "xlm-roberta")  # model types whose SentencePiece models can be read directly


def read(folder: Path, config: Any, model_type: str) -> tuple[TextProcessor | None, list[str]]:
    """(the tokenizer of a folder, notes). Raises LoadError if it does not fit the model."""
    settings = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    named = read_json(folder / "special_tokens_map.json") if (folder / "special_tokens_map.json").is_file() else {}
    text = _tokenizer(folder, settings, model_type)
    if text is None:
        found = [name for name in SENTENCEPIECE if (folder / name).is_file()]
        reason = f"{found[0]} has to be converted: {HOW_TO_CONVERT}" if found else "the folder has no tokenizer.json"
        return None, [f"model.preprocess has no tokenizer: {reason}"] if found or settings else []
    notes = []
    if settings.get("truncation_side", "right") != "right":
        notes.append("the tokenizer's file truncates texts on the left; they are truncated on the right instead")
    try:
        special, absent = _special(text, named | settings)
        notes += [
            f"the tokenizer has no token {token!r}, which its settings name as {role}_token" for role, token in absent
        ]
        preprocess = TextProcessor(
            tokenizer=text,
            special=special,
            max_length=_length(folder, settings, config),
            padding=settings.get("padding_side", "right"),
            types=getattr(config, "type_vocab_size", 0) > 1,
        )
        preprocess.check(config)
    except ValueError as error:
        raise LoadError(f"{folder}: {error}") from None
    return preprocess, notes


def _tokenizer(folder: Path, settings: Mapping[str, Any], model_type: str) -> str | None:
    """The contents of tokenizer.json; without that file, made from a vocabulary. None if there is neither."""
    if (folder / "tokenizer.json").is_file():
        return (folder / "tokenizer.json").read_text(encoding="utf-8")
    if (folder / "vocab.txt").is_file():
        lines = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
        vocab = {token.rstrip("\n"): number for number, token in enumerate(lines)}
        bert = {
            "strip_accents": settings.get("strip_accents"),
            "handle_chinese_chars": settings.get("tokenize_chinese_chars", True),
        }
        return wordpiece(vocab, lowercase=settings.get("do_lower_case", True), **bert).to_str()
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        vocab = read_json(folder / "vocab.json")
        lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
        merges = [tuple(line.split(" ", 1)) for line in lines if line and not line.startswith("#version")]
        if END in vocab and model_type in ("clip", "clip_text_model"):
            return clip_bpe(vocab, merges).to_str()  # type: ignore[arg-type]
        return byte_bpe(vocab, merges, roberta="roberta" in model_type).to_str()  # type: ignore[arg-type]
    return _pieces(folder, settings, model_type)


def _pieces(folder: Path, settings: Mapping[str, Any], model_type: str) -> str | None:
    """The contents of tokenizer.json, made from a SentencePiece model. Raises LoadError for a damaged file."""
    file = next((folder / name for name in SENTENCEPIECE if (folder / name).is_file()), None)
    if file is None or model_type not in SENTENCEPIECE_TYPES:
        return None
    xlm = model_type == "xlm-roberta"
    bos, eos = (bool(settings.get(f"add_{name}_token", default)) for name, default in (("bos", True), ("eos", False)))
    try:
        return sentencepiece.tokenizer(file.read_bytes(), bos=bos, eos=eos, fairseq=xlm).to_str()
    except LoadError as error:
        raise LoadError(f"{file}: {error}; {HOW_TO_CONVERT}") from None


def clip_bpe(vocab: dict[str, int], merges: list[tuple[str, str]]) -> "Tokenizer":
    """CLIP's tokenizer: lowercase, </w> at the end of words, START and END around a text."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    tokenizer = Tokenizer(
        models.BPE(vocab, merges, continuing_subword_prefix="", end_of_word_suffix="</w>", unk_token=END)
    )
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    words = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    split = pre_tokenizers.Split(words, behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([START, END])
    last, first = ((token, vocab[token]) for token in (END, START))
    tokenizer.post_processor = processors.RobertaProcessing(last, first, False, False)
    return tokenizer


@cache
def open_clip_tokenizer() -> str | None:
    """The contents of tokenizer.json for CLIP's vocabulary in the open_clip package; None if it is not installed."""
    spec = importlib.util.find_spec("open_clip")
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin).parent / "bpe_simple_vocab_16e6.txt.gz"
    if not file.is_file():
        return None
    lines = gzip.decompress(file.read_bytes()).decode("utf-8").splitlines()
    merges = [tuple(line.split()) for line in lines[1 : 49152 - 256 - 2 + 1]]
    letters = byte_letters()
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges), START, END]
    return clip_bpe({word: i for i, word in enumerate(words)}, merges).to_str()  # type: ignore[arg-type]


def byte_letters() -> list[str]:
    """The characters that represent the 256 bytes, in the order of the vocabularies of CLIP and GPT-2."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(byte) for byte in shown] + [chr(256 + i) for i in range(256 - len(shown))]


def _special(text: str, settings: Mapping[str, Any]) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """({role: token}, [(role, token) not in the vocabulary]), from the settings, else by the usual names."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(text)
    special, absent = {}, []
    for role in SPECIAL:
        token = settings.get(f"{role}_token")
        token = token.get("content") if isinstance(token, Mapping) else token
        if token is not None and tokenizer.token_to_id(token) is None:
            absent.append((role, token))
            continue
        token = token or next((name for name in USUAL[role] if tokenizer.token_to_id(name) is not None), None)
        if token is not None:
            special[role] = token
    return special, absent


def _length(folder: Path, settings: Mapping[str, Any], config: Any) -> int:
    limits = [config.max_length, settings.get("model_max_length")]
    if (file := folder / "sentence_bert_config.json").is_file():
        limits.append(read_json(file).get("max_seq_length"))
    return min(int(limit) for limit in limits if limit)
