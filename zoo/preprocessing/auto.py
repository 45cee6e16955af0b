"""Restores the saved preprocessing of a model, of any kind."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from zoo.preprocessing.bridge import PARTS, BridgeProcessor
from zoo.preprocessing.gemma3 import Gemma3Processor
from zoo.preprocessing.modality import MODALITIES
from zoo.preprocessing.multimodal import MultimodalProcessor
from zoo.preprocessing.paligemma import PaliGemmaProcessor
from zoo.utils.errors import LoadError, check_keys
from zoo.utils.files import parse_json, read_text

KINDS: dict[str, Any] = {kind: cls for record in MODALITIES.values() for kind, cls in record.processors.items()}
KINDS |= {"pair": MultimodalProcessor, "bridge": BridgeProcessor, "paligemma": PaliGemmaProcessor}
KINDS |= {"gemma3": Gemma3Processor}


def processor_from_dict(values: Mapping[str, Any] | None, folder: Path = Path()) -> Any:
    """The processor from `preprocess` in config.json, whose files are embedded there or in the folder."""
    if values is None:
        return None
    if (kind := values.get("kind")) not in KINDS:
        raise LoadError(f"preprocess has the unknown kind {kind!r}, expected one of {', '.join(KINDS)}")
    files = values.get("files")
    if files is None:
        files = {path.name: read_text(path) for path in folder.glob("tokenizer.json")}
        for name, text in files.items():
            parse_json(text, folder / name)
    values = {name: value for name, value in values.items() if name != "files"}
    if kind == "pair":
        towers = {name: value for name, value in values.items() if name != "kind"}
        check_keys("preprocess", towers, [field.name for field in fields(MultimodalProcessor)])
        return MultimodalProcessor(
            **{name: processor_from_dict(value and {**value, "files": files}) for name, value in towers.items()}
        )
    if issubclass(KINDS[kind], BridgeProcessor):
        own = {name: value for name, value in values.items() if name != "kind"}
        towers = {name: own.get(name) for name in PARTS}
        found = {name: processor_from_dict(each and {**each, "files": files}) for name, each in towers.items()}
        return KINDS[kind].from_parts(own, found)
    return KINDS[kind].from_dict(values, files)
