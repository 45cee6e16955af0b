"""Parse `key=value` options into typed settings; `jsonargparse` handles YAML values and types.

Later layers override earlier ones: defaults, the recipe's YAML, the hardware's YAML, `config=`, the command line.
"""

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from zoo.data.sources.auto import resolve_auto
from zoo.training.config import MODEL_FIELDS, TOWERS
from zoo.utils import renamed
from zoo.utils.console import make_console
from zoo.utils.errors import did_you_mean
from zoo.utils.escape import say
from zoo.utils.options import Option, as_dict, build, flatten, options, sections

EXCLUSIVE = (("trainer.epochs", "trainer.steps"),)
"""Settings of which only one can be set; a later layer's choice overrides an earlier one's."""

FOREIGN_NAMES = {
    "learning_rate": "lr", "max_lr": "lr", "wd": "weight_decay", "wdecay": "weight_decay", "bs": "batch_size",
    "batch": "batch_size", "max_epochs": "epochs", "num_epochs": "epochs", "num_train_epochs": "epochs",
    "max_steps": "steps", "gpus": "devices", "nproc": "devices",
    "max_time": "max_minutes", "grad_clip": "gradient_clip_val", "clip_grad": "gradient_clip_val",
    "max_grad_norm": "gradient_clip_val", "grad_accum_steps": "accumulate_grad_batches",
    "gradient_accumulation_steps": "accumulate_grad_batches", "output": "run_dir", "output_dir": "run_dir",
    "out_dir": "run_dir", "embed_dim": "width", "hidden_size": "width", "dim": "width",
    "num_heads": "heads", "num_attention_heads": "heads", "n_head": "heads", "num_hidden_layers": "depth",
    "num_layers": "depth", "n_layer": "depth", "img_size": "image_size", "drop_path_rate": "drop_path",
    "smoothing": "label_smoothing", "ema_decay": "ema", "model_ema": "ema", "amp": "precision", "dtype": "precision",
    "device": "accelerator", "reprob": "erasing", "dataset": "data",
}  # fmt: skip
"""Names of these settings in other libraries, for hints in error messages."""

Layer = Mapping[str, str]  # path -> value, as written on a command line


class SettingsError(ValueError):
    """An option is unknown, ambiguous, of the wrong type or out of range."""


@dataclass(frozen=True)
class CommandLine:
    """A parsed command line; values are still strings."""

    values: dict[str, str] = field(default_factory=dict)
    hardware: str | None = None
    config: str | None = None
    help: bool = False


def read_command_line(argv: Sequence[str], cls: type) -> CommandLine:
    """Parse options like `["lr=1e-3", "data=cifar10"]`. Leading dashes of a key are ignored.

    Raises: SettingsError for an option without `=` or a value, an unknown or ambiguous key, or a key given twice.
    """
    values: dict[str, str] = {}
    special: dict[str, str] = {}
    for word in argv:
        if word in ("-h", "--help", "help"):
            return CommandLine(help=True)
        key, equals, value = word.lstrip("-").partition("=")
        if not equals or not key:
            raise SettingsError(f"{word!r}: expected key=value, e.g. epochs=3 (all options: --help)")
        if key in renamed.WORDS:
            _note(key, renamed.WORDS[key])
            key = renamed.WORDS[key]
        target = special if key in ("hardware", "config") else values
        path = key if target is special else resolve(key, cls)
        value = current_value(path, value)
        if not value:
            raise SettingsError(f"{key}= has no value: omit it for the default, or give null for none")
        if path in target:
            raise SettingsError(f"{path} is given twice: {target[path]!r} and {value!r}")
        target[path] = value
    return CommandLine(values, special.get("hardware"), special.get("config"))


def resolve(key: str, cls: type) -> str:
    """Full path of a key: `lr` -> `optim.lr`, `data` -> `data.name`, `attention` -> `model.overrides.attention`."""
    paths, parts = [option.path for option in options(cls)], sections(cls)
    if key in paths:
        return key
    # those of a plan keep their prefix: `data` and `schedule` have other meanings, too
    found = [path for path in paths if path.endswith("." + key) and not path.startswith("plan.")]
    found += [f"model.overrides.{key}"] if key in MODEL_FIELDS else []
    found += [f"{part}.name" for part in parts if _ends(part, key) and f"{part}.name" in paths]
    if len(found) == 1:
        return found[0]
    if found:
        raise SettingsError(f"{key!r} is ambiguous: use {' or '.join(_displayed(path) for path in found)}")
    within = [path for path in paths for part in parts if _ends(part, key) and path.startswith(part + ".")]
    if within:
        raise SettingsError(f"{key!r} is a section: use one of {', '.join(within)}")
    head, _, rest = key.partition(".")
    if head == "model" and rest:
        return f"model.overrides.{rest}"
    if head in TOWERS and rest:
        return f"model.overrides.{key}"
    if new := renamed.option(key, paths):
        _note(key, new)
        return new
    if (field := renamed.FIELDS.get(key, "")) in MODEL_FIELDS:
        _note(key, field)
        return f"model.overrides.{field}"
    raise SettingsError(f"unknown option {key!r}{_hint(key, paths)} (all options: --help)")


def current_value(path: str, value: str) -> str:
    """The value of an option; a renamed value is replaced by its new name, with a note."""
    new = renamed.OPTION_VALUES.get(path, {}).get(value, value)
    if new != value:
        _note(f"{path}={value}", f"{path}={new}")
    return new


@cache
def _note(old: str, new: str) -> None:
    say(f"note: {old} is now called {new}; the old name will be removed in the next release", file=sys.stderr)


def shortest(path: str, cls: type) -> str:
    """Shortest key of a path, the inverse of `resolve`: `optim.lr` -> `lr`, `data.name` -> `data`."""
    parts = path.removesuffix(".name").split(".")
    for count in range(1, len(parts) + 1):
        key = ".".join(parts[-count:])
        try:
            if resolve(key, cls) == path:
                return key
        except SettingsError:
            continue
    return path.replace("model.overrides.", "model.", 1)


def read_yaml(file: Path, cls: type) -> dict[str, str]:
    """Read a YAML file of settings as a flat mapping from paths to values.

    Raises: SettingsError naming the file if it cannot be read, or a key is not the full path of a setting.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{file}: {error.strerror}; expected a YAML file of settings") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content or {}, dict):
        raise SettingsError(f"{file}: expected a mapping of settings, got {type(content).__name__}")
    paths = [option.path for option in options(cls)]
    layer = {}
    for path, value in flatten(content or {}).items():
        if path not in paths and (new := renamed.option(path, paths)):
            _note(f"{file}: {path}", new)
            path = new
        if isinstance(value, str):
            value = current_value(path, value)
        if path not in paths and path.partition(".")[0] in TOWERS:
            path = f"model.{path}"
        if path not in paths and not path.startswith("model."):
            raise SettingsError(f"{file}: unknown setting {path!r}{_hint(path, paths)}")
        if path not in paths and not path.startswith("model.overrides."):
            path = path.replace("model.", "model.overrides.", 1)
        layer[path] = value if isinstance(value, str) else json.dumps(value)
    if layer.get("model.overrides") == "{}":
        del layer["model.overrides"]
    return layer


def merge(layers: Iterable[Layer]) -> dict[str, str]:
    """Merge layers; later layers override earlier ones, also for settings that exclude each other."""
    merged: dict[str, str] = {}
    for layer in layers:
        for pair in EXCLUSIVE:
            present = [path for path in pair if layer.get(path, "null") != "null"]
            if len(present) > 1:
                raise SettingsError(f"{' and '.join(present)} exclude each other: set only one of them")
            if present:
                merged |= dict.fromkeys(pair, "null")
        merged |= {path: value for path, value in layer.items() if not _is_null_twin(path, value, layer)}
    return merged


def make_settings(cls: type, merged: Layer) -> Any:
    """Create typed and validated settings from merged layers.

    Raises: SettingsError naming the option, its value and the expected type.
    """
    from argparse import ArgumentError

    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, None)
    try:
        parsed = parser.parse_args([f"--{_one_key(path)}={value}" for path, value in merged.items()]).as_dict()
        overrides = parsed["model"]["overrides"]
        parsed["model"]["overrides"] = {key.replace("/", "."): value for key, value in overrides.items()}
        return build(cls, parsed)
    except ArgumentError as error:
        raise SettingsError(_readable(str(error), merged, cls)) from None
    except ValueError as error:
        raise SettingsError(str(error)) from None


def parse(cls: type, argv: Sequence[str], *, configs: Path | None = None, recipe: str = "",
          hardware: str | None = None) -> Any:  # fmt: skip
    """Create settings from command line options.

    Args:
        cls: A settings dataclass, e.g. `ImageSettings`.
        argv: The options, without the name of the recipe.
        configs: Folder with `<recipe>.yaml` and `hardware/<name>.yaml`; None reads no files.
        recipe: Name of the recipe.
        hardware: Default for `hardware=`: name of a file in `hardware/`, or None.
    """
    command_line = read_command_line(argv, cls)
    user = user_layers(command_line, cls)
    return make_settings(cls, merge(layers_of(command_line, user, cls, configs, recipe, hardware)))


def user_layers(command_line: CommandLine, cls: type) -> list[Layer]:
    """What the user has chosen, lowest first: the file of `config=` and the command line."""
    files = [read_yaml(Path(command_line.config), cls)] if command_line.config else []
    return [*files, command_line.values]


def layers_of(command_line: CommandLine, user: list[Layer], cls: type, configs: Path | None, recipe: str,
              hardware: str | None) -> list[Layer]:  # fmt: skip
    """The layers above the defaults, lowest first; `user` are those of `user_layers`.

    `<recipe>.yaml`, `hardware/<name>.yaml`, `<recipe>.<name>.yaml` of the hardware, of the dataset and, with
    `model.source=`, of `source`; then the layers of the user. With `model.source=` the model's fields in the files of
    the recipe do not apply, because they are for a new model. `data=auto` becomes the name of a dataset.
    """
    hardware = command_line.hardware or hardware
    if command_line.hardware and configs is None:
        raise SettingsError(f"hardware={command_line.hardware}: this recipe has no configs folder")
    layers: list[Layer] = []
    if configs is not None:
        files = [configs / f"{recipe}.yaml", *([hardware_file(hardware, configs)] if hardware else [])]
        layers = [read_yaml(file, cls) for file in files]
    resolved = _dataset([*layers, *user], cls)
    pretrained = merge(user).get("model.source", "null") != "null"
    dataset = resolved.get("data.name", "")
    for name in (
        hardware,
        "synthetic" if dataset.startswith("synthetic_") else dataset,
        "source" if pretrained else None,
    ):
        if configs and name and (file := configs / f"{recipe}.{name}.yaml").is_file():
            layers.append(read_yaml(file, cls))
    if pretrained:
        layers = [{k: v for k, v in layer.items() if not k.startswith("model.overrides.")} for layer in layers]
    return [*layers, *user, resolved]


def _dataset(layers: list[Layer], cls: type) -> Layer:
    """A layer with the name of the dataset; empty for settings without data."""
    kind: Any = sections(cls).get("data")
    if kind is None:
        return {}
    merged = merge(layers)
    name, data_dir = merged.get("data.name", kind().name), merged.get("data.data_dir", "null")
    if name == "auto":
        folder = None if data_dir == "null" else data_dir
        name = resolve_auto(kind.preferred, folder, before_download=lambda: make_settings(cls, merged))
    return {"data.name": name}


def hardware_file(name: str, configs: Path) -> Path:
    """`configs/hardware/<name>.yaml`. Raises: SettingsError listing the available files."""
    known = sorted(file.stem for file in (configs / "hardware").glob("*.yaml"))
    if name not in known:
        raise SettingsError(f"hardware={name}: expected one of {', '.join(known)}{did_you_mean(name, known)}")
    return configs / "hardware" / f"{name}.yaml"


def print_help(cls: type, usage: str, layers: Iterable[Layer] = ()) -> None:
    """Print usage and a table of all options with their defaults (including the recipe's YAML) and descriptions."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    settings = make_settings(cls, merge(layers))
    values = flatten(as_dict(settings))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("option", style="bold", no_wrap=True)
    table.add_column("default", overflow="fold", max_width=20)
    table.add_column("description")
    rows = [(o.path, _show(values[o.path]), o.meaning) for o in options(cls) if o.path != "model.overrides"]
    rows += [(f"model.{name}", _show(values.get(f"model.overrides.{name}", "per model")), description)
             for name, description in MODEL_FIELDS.items()]  # fmt: skip
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    console = make_console(width=None if sys.stdout.isatty() else 120)
    console.print(usage.strip(), markup=False)
    console.print(table)
    console.print(_NOTES, markup=False)


_NOTES = """Options are given as key=value, with YAML values. Unique keys can be shortened: lr=1e-3 sets optim.lr, and
data=cifar10 sets data.name. hardware=cpu|gpu|mps|ddp8|fsdp2 applies the settings of configs/hardware/*.yaml, and
config=FILE those of another YAML file; options on the command line override both. --traceback shows where an error
comes from."""


def _one_key(path: str) -> str:
    """`model.overrides.encoder.depth` -> `model.overrides.encoder/depth`: `jsonargparse` would nest keys with dots."""
    head, found, rest = path.partition("model.overrides.")
    return f"{head}{found}{rest.replace('.', '/')}" if found else path


def _ends(path: str, key: str) -> bool:
    return path == key or path.endswith("." + key)


def _displayed(path: str) -> str:
    return path.replace("model.overrides.", "model.")


def _hint(key: str, paths: list[str]) -> str:
    last = key.rpartition(".")[2]
    if FOREIGN_NAMES.get(last):
        return f"; did you mean {FOREIGN_NAMES[last]!r}?"
    leaves = {path.rpartition(".")[2]: path for path in paths}
    if last in leaves:
        return f"; did you mean {leaves[last]!r}?"
    side, _, field = last.partition("_")
    if side in ("encoder", "decoder") and field in MODEL_FIELDS:
        return f"; did you mean 'model.{last}'?"
    hint = did_you_mean(last, [*leaves, *MODEL_FIELDS, "hardware", "config"])
    return (did_you_mean(key, paths) or hint) if "." in key else hint


def _is_null_twin(path: str, value: str, layer: Layer) -> bool:
    """Whether a setting is null because the one it excludes is set in the same layer (`steps: 5, epochs: null`)."""
    pair = next((pair for pair in EXCLUSIVE if path in pair), ())
    return value == "null" and any(layer.get(other, "null") != "null" for other in pair)


def _readable(message: str, merged: Layer, cls: type) -> str:
    """Turn an error of `jsonargparse` into one line: the option, its value and the expected type."""
    found = re.search(r'Parser key "([^"]+)"', message)
    option: Option | None = next((o for o in options(cls) if found and o.path == found[1]), None)
    if option is None:
        return message
    quotes = " (quote what YAML reads as a number or a boolean: ['yes', '7'])" if option.kind == list[str] else ""
    return f"{option.path}={merged.get(option.path)}: expected {_expected(option.kind)}{quotes}"


def _expected(kind: Any) -> str:
    """`int | None` -> `int or null`, `Literal["a", "b"]` -> `a or b`."""
    literal = re.search(r"Literal\[(.*?)\]", str(kind))
    plain = re.sub(r"<class '(\w+)'>", r"\1", str(kind))
    names = literal[1].replace("'", "").split(", ") if literal else plain.split(" | ")
    return " or ".join("null" if name in ("None", "NoneType") else name for name in names)


def _show(value: Any) -> str:
    if value is None:
        return "-"
    return str(value).lower() if isinstance(value, bool) else str(value)
