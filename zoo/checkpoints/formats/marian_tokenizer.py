"""The tokenizer of transformers' folders of Marian: source.spm, target.spm and vocab.json."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.checkpoints.formats.added_tokens import content_of
from zoo.checkpoints.formats.sentencepiece import Pieces
from zoo.checkpoints.formats.vocabulary_files import read_vocab_json
from zoo.preprocessing.marian import EOS, PAD, UNK, MarianProcessor, tokenizer_text
from zoo.utils.errors import LoadError

FILES = ("source.spm", "target.spm", "vocab.json")
ROLES = {"unk": UNK, "eos": EOS, "pad": PAD}


def read(folder: Path, settings: Mapping[str, Any], config: Any) -> MarianProcessor | None:
    """The tokenizer of a folder; None if it has none of the files. Raises LoadError for a part of them, for damaged
    ones and for special tokens with other names."""
    missing = [name for name in FILES if not (folder / name).is_file()]
    if "source.spm" in missing and "target.spm" in missing:
        return None
    if missing:
        raise LoadError(f"{folder} has no {missing[0]}: the tokenizer of Marian has the files {', '.join(FILES)}")
    for role, token in ROLES.items():
        if (own := content_of(settings.get(f"{role}_token", token))) != token:
            raise LoadError(f"{folder}: {role}_token={own!r} is not supported, only {token!r}")
    models = [(folder / name).read_bytes() for name in FILES[:2]]
    for name, data in zip(FILES, models):
        try:
            Pieces.parse(data)
        except LoadError as error:
            raise LoadError(f"{folder / name}: {error}") from None
    target = folder / "target_vocab.json"
    separate = settings.get("separate_vocabs", False)
    vocab = read_vocab_json(folder / "vocab.json")
    text = tokenizer_text(models[0], models[1], vocab, read_vocab_json(target) if separate else None)
    limit = settings.get("model_max_length") or config.max_length
    special = {role: token for role, token in ROLES.items() if token in vocab}
    found = MarianProcessor(tokenizer=text, special=special, max_length=min(int(limit), config.max_length))
    found.check(config)
    return found
