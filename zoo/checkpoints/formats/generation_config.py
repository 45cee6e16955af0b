"""transformers' generation_config.json of encoder-decoder models: ids of tokens, and the defaults of `generate`.

The ids define the model: transformers reads them from this file if it exists, and newer versions may write them there
alone. The defaults of the search are arguments of `zoo.generate`; they are listed in the report of `zoo.load`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.models.encoder_decoder import EncoderDecoder
from zoo.models.family import Family
from zoo.utils.errors import LoadError
from zoo.utils.files import parse_json, read_json

FILE = "generation_config.json"
BEFORE_CONFIG = ("eos_token_id", "decoder_start_token_id")
BEHIND_CONFIG = ("bos_token_id", "pad_token_id")
FORCED = ("forced_bos_token_id", "forced_eos_token_id")
IDS = (*BEFORE_CONFIG, *BEHIND_CONFIG, *FORCED)
# Defaults of transformers' generate, with the name and the value of the same argument of `zoo.generate`.
SAME = {
    "num_beams": 1, "length_penalty": 1.0, "early_stopping": False, "no_repeat_ngram_size": 0,
    "repetition_penalty": 1.0, "max_new_tokens": None, "min_new_tokens": None, "num_return_sequences": 1,
}  # fmt: skip
SAMPLING = ("temperature", "top_k", "top_p", "min_p")  # with do_sample
# Their lengths count the start token.
LENGTHS = {"max_length": "max_new_tokens", "min_length": "min_new_tokens"}
# What `zoo.generate` does by a logits processor only.
OTHERS = (
    "bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "encoder_no_repeat_ngram_size",
    "encoder_repetition_penalty", "exponential_decay_length_penalty", "sequence_bias", "diversity_penalty",
)  # fmt: skip


def read(folder: Path) -> dict[str, Any] | None:
    """The contents of the file without keys that are null; None if there is no file."""
    if not (folder / FILE).is_file():
        return None
    return {name: value for name, value in read_json(folder / FILE).items() if value is not None}


def with_ids(values: Mapping[str, Any], found: Mapping[str, Any] | None) -> dict[str, Any]:
    """The config.json of an encoder-decoder with the ids of its generation_config.json, as transformers takes them.

    Tokens that are forced at the beginning or the end are those of that file alone.
    """
    if found is None:
        return dict(values)
    ids = {name: found[name] for name in BEFORE_CONFIG if name in found}
    ids |= {name: found[name] for name in BEHIND_CONFIG if name in found and values.get(name) is None}
    return {**values, **ids, **{name: found.get(name) for name in FORCED}}


def notes(values: Mapping[str, Any], found: Mapping[str, Any] | None, family: Family, config: Any) -> list[str]:
    """Which defaults of transformers' `generate` a folder has, and how to pass them to `zoo.generate`.

    values: config.json, where older folders have them. Whisper's are read by the model itself.
    """
    if not issubclass(family.model, EncoderDecoder) or config.head != "lm" or "input_ids" not in family.model.inputs:
        return []
    file, source = ("config.json", values) if found is None else (FILE, found)
    own = {name: source[name] for name in SAME if source.get(name) not in (None, SAME[name])}
    own |= {name: source[name] for name in SAMPLING if source.get("do_sample") and source.get(name) is not None}
    for theirs, ours in LENGTHS.items():
        if type(length := source.get(theirs)) is int and length > 1 and ours not in own:
            own[ours] = length - 1
    never = [[token] for token in family.model.never_generated(config)]
    banned = [ids for ids in source.get("bad_words_ids") or () if ids not in never]
    others = [name for name in OTHERS if source.get(name) and (name != "bad_words_ids" or banned)]
    others += [
        f"{name}={source[name]}" for name in FORCED if source.get(name) is not None and not hasattr(config, name)
    ]
    texts = []
    if own:
        arguments = ", ".join(f"{name}={value!r}" for name, value in own.items())
        texts.append(
            f"{file} has defaults for transformers' generate; pass them: zoo.generate(model, ..., {arguments})"
        )
    if others:
        texts.append(f"{file} has {', '.join(others)}, which zoo.generate does not apply: pass the processors of "
                     "transformers as logits_processor=")  # fmt: skip
    return texts


def for_export(model: Any, stored: str | None) -> dict[str, Any] | None:
    """The file for transformers with the ids of the model's config, so that `generate` writes the same tokens.

    stored: the file that the model was loaded with. None for models of other kinds and without a head for it.
    """
    if not isinstance(model, EncoderDecoder) or model.config.head != "lm" or "input_ids" not in model.inputs:
        return None
    try:
        before = {} if stored is None else parse_json(stored, FILE)
    except LoadError as error:
        raise ValueError(f"{error}: fix or remove it in model.extra_files") from None
    values = {name: value for name, value in before.items() if name not in IDS}
    for name in IDS:
        if (value := getattr(model.config, name, None)) is not None:
            values[name] = list(value) if isinstance(value, tuple) else value
    banned = values.get("bad_words_ids") or []
    if missing := [[token] for token in model.never_generated(model.config) if [token] not in banned]:
        values["bad_words_ids"] = [*banned, *missing]
    return values
