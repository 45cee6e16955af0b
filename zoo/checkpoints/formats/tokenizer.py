"""Tokenizers of transformers' folders: tokenizer.json, or the vocabulary files of older repositories."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.checkpoints.formats import (
    added_tokens,
    marian_tokenizer,
    sentence_transformers,
    sentencepiece,
    vocabulary_files,
)
from zoo.preprocessing import mbart, protein
from zoo.preprocessing.text import SPECIAL, TextProcessor
from zoo.preprocessing.tokenizer_file import parse_tokenizer
from zoo.utils.errors import LoadError
from zoo.utils.files import parse_json, read_text

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# The usual special tokens, for folders that do not name them; null in their settings is a name: there is none.
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
SENTENCEPIECE = ("tokenizer.model", "sentencepiece.bpe.model", "spiece.model")
# Model types whose SentencePiece models can be read directly.
SENTENCEPIECE_TYPES = ("llama", "mistral", "xlm-roberta", "t5", "mt5", "mbart", "big_bird")
# Model types with token types that their tokenizers do not give.
TYPES_BY_HAND = ("big_bird", "longformer")


def read(folder: Path, config: Any, model_type: str) -> tuple[TextProcessor | None, list[str]]:
    """(the tokenizer of a folder, notes). Raises LoadError if it does not fit the model."""
    settings = added_tokens.read_settings(folder)
    try:
        if model_type == "marian" and (own := marian_tokenizer.read(folder, settings, config)):
            return own, own.notes(config)
        text, absent = _tokenizer(folder, settings, config, model_type)
        if text is None:
            found = next((name for name in SENTENCEPIECE if (folder / name).is_file()), None)
            reason = f"{found} has to be converted: {HOW_TO_CONVERT}" if found else "the folder has no tokenizer.json"
            return None, [f"model.preprocess has no tokenizer: {reason}"] if found or settings else []
        if model_type == "esm":  # whose special tokens have names of their own
            settings = {f"{role}_token": token for role, token in protein.SPECIAL_TOKENS.items()} | dict(settings)
        length, lower = sentence_transformers.read_settings(folder)
        text = sentence_transformers.lowercase(text) if lower else text
        special, notes = _special(text, settings, config)
        kind = protein.ProteinProcessor if model_type == "esm" else TextProcessor
        preprocess = kind(
            tokenizer=text,
            special=special,
            max_length=_length(config.max_length, settings.get("model_max_length"), length),
            padding=settings.get("padding_side", "right"),
            types=getattr(config, "type_vocab_size", 0) > 1 and model_type not in TYPES_BY_HAND,
        )
        if (preprocess.id("pad") or 0) >= config.vocab_size:
            notes.append(f"the model has no embedding for the padding token {special.pop('pad')!r}: 0 is used instead")
            preprocess = replace(preprocess, special=special)
        preprocess.check(config)
    except LoadError:
        raise
    except ValueError as error:
        raise LoadError(f"{folder}: {error}") from None
    if settings.get("truncation_side", "right") != "right":
        notes.append("the tokenizer's file truncates texts on the left; they are truncated on the right instead")
    roles = {added_tokens.content_of(settings.get(f"{role}_token")) for role in SPECIAL}
    notes += [
        f"{token!r} is not a token: it would be number {number}, and the model has only {config.vocab_size} embeddings"
        for number, token in absent
        if token not in roles
    ]
    return preprocess, notes + preprocess.notes(config)


def _tokenizer(
    folder: Path, settings: Mapping[str, Any], config: Any, model_type: str
) -> tuple[str | None, list[tuple[int, str]]]:
    """(the contents of tokenizer.json; without that file, made from a vocabulary, or None if there is neither;
    (id, token) of the tokens for which the model has no embedding)."""
    if (folder / "tokenizer.json").is_file():
        text: str | None = read_text(folder / "tokenizer.json")
        parse_json(text or "", folder / "tokenizer.json")
    else:
        made, absent = vocabulary_files.read(folder, settings, model_type, config.vocab_size)
        if made is not None:
            return made, absent
        text = _pieces(folder, settings, model_type, config.vocab_size)
    if text is None:
        return None, []
    tokenizer = parse_tokenizer(text, folder / "tokenizer.json")
    changed = _follow_settings(tokenizer, settings, model_type)
    lacking = added_tokens.lacking(tokenizer, added_tokens.declared(folder, settings))
    absent = added_tokens.add(tokenizer, lacking, config.vocab_size) if lacking else []
    if model_type == "whisper":  # its class makes the tokens before a text, from the settings
        changed = vocabulary_files.set_whisper_template(tokenizer, settings) or changed
    return tokenizer.to_str() if changed or len(absent) < len(lacking) else text, absent


def _follow_settings(tokenizer: "Tokenizer", settings: Mapping[str, Any], model_type: str) -> bool:
    """Change a tokenizer as the classes of BERT, GPT-2, RoBERTa, Whisper and mBART do: with them, tokenizer_config.json
    and their defaults count, not what tokenizer.json says. Returns whether something was changed."""
    from tokenizers import normalizers, pre_tokenizers

    if settings.get("tokenizer_class") in ("PreTrainedTokenizerFast", "TokenizersBackend"):
        return False
    if model_type == "mbart":
        return _follow_src_lang(tokenizer, settings.get("src_lang") or mbart.DEFAULT)
    before = tokenizer.normalizer, tokenizer.pre_tokenizer
    if model_type in ("bert", "distilbert") and isinstance(before[0], normalizers.BertNormalizer):
        options = vocabulary_files.bert_options(settings)
        if any(getattr(before[0], name) != value for name, value in options.items()):
            tokenizer.normalizer = normalizers.BertNormalizer(**options)
            return True
    if model_type in ("gpt2", "roberta", "longformer", "whisper") and isinstance(before[1], pre_tokenizers.ByteLevel):
        add_prefix_space = bool(settings.get("add_prefix_space", False))
        if before[1].add_prefix_space != add_prefix_space:
            tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
                add_prefix_space=add_prefix_space, use_regex=before[1].use_regex
            )
            return True
    return False


def _follow_src_lang(tokenizer: "Tokenizer", code: Any) -> bool:
    """Set mBART's source language. Returns whether something was changed. Raises LoadError for an unknown language."""
    if mbart.language_of(tokenizer) is None:
        return False
    if not isinstance(code, str) or tokenizer.token_to_id(code) is None:
        raise LoadError(f"tokenizer_config.json has src_lang={code!r:.200}, which is not a token of the tokenizer")
    return mbart.set_language(tokenizer, code)


def _pieces(folder: Path, settings: Mapping[str, Any], model_type: str, vocab_size: int) -> str | None:
    """The contents of tokenizer.json, made from a SentencePiece model. Raises LoadError for a damaged file."""
    file = next((folder / name for name in SENTENCEPIECE if (folder / name).is_file()), None)
    if file is None or model_type not in SENTENCEPIECE_TYPES:
        return None
    options: dict[str, Any] = {"fairseq": model_type == "xlm-roberta"}
    options |= {name: bool(settings.get(f"add_{name}_token", name == "bos")) for name in ("bos", "eos")}
    if model_type in ("t5", "mt5"):
        options = {"bos": False, "eos": True, "extra_ids": _extra_ids(settings)}
    try:
        if model_type == "mbart":
            return _mbart(file.read_bytes(), settings, vocab_size).to_str()
        if model_type == "big_bird":
            return sentencepiece.bert_tokenizer(file.read_bytes()).to_str()
        return sentencepiece.tokenizer(file.read_bytes(), **options).to_str()
    except LoadError as error:
        raise LoadError(f"{file}: {error}; {HOW_TO_CONVERT}") from None


def _mbart(data: bytes, settings: Mapping[str, Any], vocab_size: int) -> "Tokenizer":
    """mBART's tokenizer, or that of mBART-50, by the class in the settings, else by the number of embeddings."""
    name = str(settings.get("tokenizer_class") or "")
    newest = len(sentencepiece.Pieces.parse(data).pieces) + 1 + len(mbart.LANGUAGES_50) + 1
    fifty = name.startswith("MBart50") if name.startswith("MBart") else vocab_size >= newest
    languages = mbart.LANGUAGES_50 if fifty else mbart.LANGUAGES
    tokenizer = sentencepiece.tokenizer(data, fairseq=True, languages=languages)
    code = settings.get("src_lang") or mbart.DEFAULT
    if code not in languages:
        raise LoadError(f"tokenizer_config.json has src_lang={code!r:.200}, expected one of {', '.join(languages)}")
    mbart.set_template(tokenizer, code, code_first=fifty)
    return tokenizer


def _extra_ids(settings: Mapping[str, Any]) -> int:
    """The number of T5's sentinels, 100 if the settings do not say."""
    count = settings.get("extra_ids", 100)
    if type(count) is not int or count < 0:
        raise LoadError(f"tokenizer_config.json has extra_ids={count!r:.200}, expected a number of tokens, 0 or more")
    return count


def _special(text: str, settings: Mapping[str, Any], config: Any) -> tuple[dict[str, str], list[str]]:
    """({role: token}, notes on roles without one), from the settings, else by the usual names."""
    tokenizer = TextProcessor(tokenizer=text, max_length=1).backend  # kept for the processor that is made of it
    special, notes = {}, []
    for role in SPECIAL:
        token = added_tokens.content_of(settings.get(f"{role}_token"))
        if token is not None and tokenizer.token_to_id(token) is None:
            notes.append(f"the tokenizer has no token {token!r}, which its settings name as {role}_token")
            continue
        if f"{role}_token" not in settings:  # null stands for none: Qwen's <|endoftext|> does not begin a text
            token = next((name for name in USUAL[role] if tokenizer.token_to_id(name) is not None), None)
        if token is not None:
            special[role] = token
    # Padding is masked, whatever its id: the model's own is taken where the two differ, but for RoBERTa's positions.
    free = hasattr(config, "bos_token_id") or bool(getattr(config, "first_position", 0))
    expected = None if free else getattr(config, "pad_token_id", None)
    if expected is not None and "pad" in special and (own := tokenizer.token_to_id(special["pad"])) != expected:
        notes.append(
            f"the padding token of the tokenizer is {own} ({special['pad']!r}), that of the model {expected}: rows are "
            f"padded with the model's, which changes no output"
        )
        token = tokenizer.id_to_token(expected)
        special = {role: name for role, name in special.items() if role != "pad"} | ({"pad": token} if token else {})
    return special, notes


def _length(*limits: float | None) -> int:
    """The least of the limits that are set."""
    return min(int(limit) for limit in limits if limit)
