"""Registry of families and model names."""

import importlib
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch

from zoo.models.base import Model
from zoo.models.config import Config
from zoo.models.family import Family
from zoo.models.names import missing_family, suggestion
from zoo.nn.init import skip_init
from zoo.nn.registry import CORES, MIXERS, register_custom, resolve
from zoo.utils import renamed
from zoo.utils.errors import did_you_mean

C = TypeVar("C", bound=Config)
FILE = object()  # head=FILE: the head of the variant or the file


@cache
def family_names() -> tuple[str, ...]:
    """Names of all families: the folders beside this file that have a model.py."""
    return tuple(sorted(file.parent.name for file in Path(__file__).parent.glob("*/model.py")))


@cache
def family(name: str) -> Family:
    """The family called `name` ("vit"), imported on first use. Raises ValueError for an unknown name."""
    known = family_names()
    if name not in known:
        near = "" if missing_family(name) else did_you_mean(name, known)
        raise ValueError(f"no family {name!r}{near} (known: {', '.join(known)})")
    found: Family = importlib.import_module(f"zoo.models.{name}.model").FAMILY
    found.model.family, found.model.modality = name, found.modality
    return found


def families() -> Iterator[Family]:
    """All families, sorted by name."""
    return map(family, family_names())


def list_models(pattern: str = "*", modality: str | None = None, pretrained: bool = False) -> list[str]:
    """Model names that match a pattern (`"*dinov2*"`), of one modality, or only those with published weights."""
    known = sorted({f.modality for f in families()})
    if modality is not None and modality not in known:
        raise ValueError(f"no modality {modality!r}{did_you_mean(modality, known)} (known: {', '.join(known)})")
    return [
        name
        for f in families()
        if modality in (None, f.modality)
        for name in f.variants
        if fnmatch(name, pattern) and (name in f.sources or not pretrained)
    ]


def find_variant(name: str) -> Family:
    """The family of a model name. Raises ValueError for an unknown name, with a suggestion."""
    # The family that the name begins with first: importing all of them takes time.
    for known in sorted(family_names(), key=lambda known: not name.startswith(known)):
        if name in family(known).variants:
            return family(known)
    if other := missing_family(name):
        raise ValueError(
            f"no model {name!r}: the family {other!r} is not in this library. Its families are "
            f"{', '.join(family_names())} (zoo.list_models() lists all models)"
        )
    sources = {variant: source for f in families() for variant, source in f.sources.items()}
    near = suggestion(name, list_models(), sources)
    raise ValueError(
        f"no model {name!r}{near} (zoo.list_models() lists all; zoo.load takes files and names of hub repositories)"
    )


def with_overrides(family: Family, config: C, overrides: dict[str, Any]) -> C:
    """The config with overrides by a user. Raises ValueError for an unknown one, and for an attention kind where every
    layer has a mixer, so that it has no effect."""
    resolved = resolve_overrides(family, overrides)
    config = config.replace(**resolved)
    for name, kind in resolved.items():
        if is_attention(name) and kind is not None and not config.uses_attention(name):
            for one in kind if isinstance(kind, list | tuple) else [kind]:
                resolve(one, CORES)  # a name that is not known is a typo, of which the message says more
            raise ValueError(
                f"{name}={kind!r} has no effect, as no layer has attention: omit {name}=, or keep attention in some "
                "layers, such as mixer=['mamba', 'attention']"
            )
    return config


def is_attention(name: str) -> bool:
    """Whether an override names an attention kind: of the model, of a tower or of one side."""
    return name == "attention" or name.endswith(("_attention", ".attention"))


def resolve_overrides(family: Family, overrides: dict[str, Any]) -> dict[str, Any]:
    """Overrides by a user, ready for `Config.replace`.

    Old names of fields become the new ones, classes of attention their registered names, and `num_classes=0`
    `head="pool"`.
    """
    overrides = _rename_old(overrides)
    family.config.check_names(overrides)
    for name in overrides:
        if is_attention(name):
            overrides[name] = register_custom(overrides[name])
        elif name == "mixer" or name.endswith(".mixer"):
            overrides[name] = register_custom(overrides[name], MIXERS)
    if overrides.get("num_classes") == 0:
        overrides.setdefault("head", "pool")
    return overrides


def _rename_old(overrides: dict[str, Any]) -> dict[str, Any]:
    """Overrides with the old names of fields and values replaced, each with a warning."""
    result: dict[str, Any] = {}
    for name, value in overrides.items():
        tower, dot, field = name.rpartition(".")
        new = f"{tower}{dot}{renamed.FIELDS.get(field, field)}"
        if new != name:
            renamed.warn(f"{name}=", f"{new}=")
        if new in result or (new != name and new in overrides):
            raise ValueError(f"{new}= is given twice, once under its old name {name}=")
        if new.endswith("problem_type") and value in renamed.PROBLEM_TYPES:
            renamed.warn(f"problem_type={value!r}", repr(renamed.PROBLEM_TYPES[value]))
            value = renamed.PROBLEM_TYPES[value]
        result[new] = value
    return result


def build(family: Family, config: Config, device: str | torch.device = "meta") -> Model:
    """A model without initial values: on "meta" to be loaded from a file, elsewhere for `initialize`."""
    with torch.device(device), skip_init():
        return family.make_model(config)
