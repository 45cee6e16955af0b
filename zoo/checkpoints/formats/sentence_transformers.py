"""The files of sentence-transformers beside those of transformers: how hidden states are pooled to an embedding, the
length of texts, and whether they are made lowercase."""

import json
from pathlib import Path
from typing import Any

from zoo.utils.errors import LoadError
from zoo.utils.files import read_json, read_json_list

POOLS = {"cls": "cls", "mean": "mean", "lasttoken": "last"}
KIND = "sentence_transformers.models."
# The settings of texts, as releases of sentence-transformers name the file.
SETTINGS = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)


def read(folder: Path) -> dict[str, Any]:
    """Our config fields {"head": "pool", "pool": ..., "normalize": ...}; empty if there is no modules.json."""
    file = folder / "modules.json"
    if not file.is_file():
        return {}
    modules = read_json_list(file)
    for number, module in enumerate(modules):
        if not isinstance(module, dict) or not all(isinstance(module.get(name), str) for name in ("type", "path")):
            raise LoadError(f"{file}: module {number} is {module!r:.200}, expected an object with 'type' and 'path'")
    kinds = [module["type"].rpartition(".")[2] for module in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or kinds[2:] not in ([], ["Normalize"]):
        raise LoadError(
            f"{file}: the modules {' + '.join(kinds)} are not supported, only Transformer + Pooling [+ Normalize]; "
            f"remove modules.json from a copy of the folder to load the transformer alone"
        )
    if not (folder / modules[1]["path"]).resolve().is_relative_to(folder.resolve()):
        raise LoadError(f"{file}: the module in {modules[1]['path']!r} is outside the folder")
    pooling = folder / modules[1]["path"] / "config.json"
    return {"head": "pool", "pool": _pool(read_json(pooling), pooling), "normalize": "Normalize" in kinds}


def read_settings(folder: Path) -> tuple[int | None, bool]:
    """(the maximum number of tokens of a text, or None; whether texts are made lowercase before they are tokenized)."""
    file = next((folder / name for name in SETTINGS if (folder / name).is_file()), None)
    values = {} if file is None else read_json(file)
    length, lower = values.get("max_seq_length"), values.get("do_lower_case")
    if length is not None and (type(length) is not int or length < 1):
        raise LoadError(f"{file}: max_seq_length is {length!r:.200}, expected a positive number of tokens")
    if lower not in (None, True, False):
        raise LoadError(f"{file}: do_lower_case is {lower!r:.200}, expected true or false")
    return length, bool(lower)


def lowercase(tokenizer: str) -> str:
    """The contents of a tokenizer.json that makes texts lowercase first, unless it does so already.

    Source: _has_lowercase of https://github.com/huggingface/sentence-transformers, which adds the same normalizer.
    """
    values = json.loads(tokenizer)
    own = values.get("normalizer")
    steps = [] if own is None else own["normalizers"] if own["type"] == "Sequence" else [own]
    if any(step["type"] == "Lowercase" or step.get("lowercase") for step in steps):
        return tokenizer
    sequence = {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, *steps]}
    return json.dumps(values | {"normalizer": sequence}, ensure_ascii=False)


def _pool(settings: dict[str, Any], file: Path) -> str:
    flags = {name: value for name, value in settings.items() if name.startswith("pooling_mode_")}
    chosen = [
        name[len("pooling_mode_") :].replace("_tokens", "").replace("_token", "") for name in flags if flags[name]
    ]
    chosen = [settings["pooling_mode"]] if "pooling_mode" in settings else chosen
    if len(chosen) != 1 or not isinstance(chosen[0], str) or chosen[0] not in POOLS:
        modes = " and ".join(map(str, chosen)) or "without a mode"
        raise LoadError(f"{file}: pooling {modes} is not supported, only one of {', '.join(POOLS)}")
    return POOLS[chosen[0]]


def files(config: Any, max_length: int) -> dict[str, Any]:
    """{file name: contents} for a model with head="pool" and no layer after pooling. A tokenizer that makes texts
    lowercase does so by its own normalizer."""
    pool = next(theirs for theirs, ours in POOLS.items() if ours == config.pool)
    flags = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens", "lasttoken": "lasttoken"}
    modules = [
        ("", "Transformer"),
        ("1_Pooling", "Pooling"),
        *([("2_Normalize", "Normalize")] if config.normalize else []),
    ]
    return {
        "modules.json": [
            {"idx": i, "name": str(i), "path": path, "type": KIND + kind} for i, (path, kind) in enumerate(modules)
        ],
        "1_Pooling/config.json": {"word_embedding_dimension": config.width}
        | {f"pooling_mode_{flag}": name == pool for name, flag in flags.items()},
        "sentence_bert_config.json": {"max_seq_length": max_length, "do_lower_case": False},
    }
