"""Detect the format of a folder and read its description; what files of other kinds are, for error messages."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.checkpoints.formats import native, open_clip, timm, torch_geometric, transformers
from zoo.checkpoints.formats.checkpoint import Checkpoint
from zoo.utils.errors import LoadError
from zoo.utils.files import read_json

# Files of other libraries: (a pattern, what it is, what to do).
FOREIGN = (
    ("adapter_config.json", "an adapter of PEFT", "merge it into its base model and save that: "
     "AutoPeftModelFor...from_pretrained(FOLDER).merge_and_unload().save_pretrained(NEW), and zoo.load(NEW)"),
    ("model_index.json", "a pipeline of diffusers", "diffusion models are not supported"),
    ("consolidated*", "weights in Meta's or Mistral's original format", "use the repository in transformers' format"),
    ("*.gguf", "a GGUF file of llama.cpp", "use the original weights, in transformers' format"),
    ("*.nemo", "a checkpoint of NeMo", "use a conversion to transformers' format"),
    ("*.onnx", "an ONNX file", "use the original weights, in transformers' or timm's format"),
    ("*.h5", "a file of Keras", "use the PyTorch weights of the model"),
    ("saved_model.pb", "a SavedModel of TensorFlow", "use the PyTorch weights of the model"),
    ("*.msgpack", "a file of Flax", "use the PyTorch weights of the model"),
)  # fmt: skip
PICKLE_ADVICE = (
    "load the folder of config.json and weights that its library saves (transformers, timm, ...); or give the "
    "config that describes the model, zoo.load(FILE, config=FOLDER, key=..., prefix=...), where key is that of the "
    "weights in the file and prefix what stands before the names of their library; or, if its tensors have the names "
    "of this package, use zoo.create_model(NAME, ...).load_state_dict(...)"
)


def detect(folder: Path, file: str | None = None) -> str:
    """ "zoo", "timm", "transformers", "torch_geometric" or "open_clip". Raises LoadError for a folder of none or of two
    of them.

    file: the name of the config file to use, for a folder that has open_clip's and another.
    """
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    signs = {
        "zoo": config.get("library_name") == "zoo",
        "timm": "architecture" in config,
        "transformers": "model_type" in config,
        "torch_geometric": torch_geometric.is_config(config) and "model_type" not in config,
        "open_clip": (folder / "open_clip_config.json").is_file(),
    }
    found = [name for name, present in signs.items() if present]
    if file is not None:
        found = [name for name in found if (name == "open_clip") == (file == "open_clip_config.json")]
    if len(found) == 1:
        return found[0]
    if found:
        if "open_clip" in found:
            advice = f"name the file to use: zoo.load({str(folder / 'open_clip_config.json')!r}), or config.json there"
        else:
            advice = f"remove the keys of one of them from {folder / 'config.json'}"
        raise LoadError(f"{folder} has the configs of {' and '.join(found)} at once; {advice}")
    raise LoadError(
        f"{folder} is not a checkpoint of a known format: {_contents(folder, config)}. Expected a config.json with "
        f"library_name 'zoo', timm's 'architecture', transformers' 'model_type' or the arguments of a network of "
        f"torch_geometric (in_channels, hidden_channels, ...), or an open_clip_config.json"
    )


def _contents(folder: Path, config: Mapping[str, Any]) -> str:
    """What a folder of an unknown format contains, and what to do."""
    names = sorted(entry.name for entry in folder.iterdir())
    if not names:
        return "it is empty"
    for pattern, kind, advice in FOREIGN:
        if next(folder.glob(pattern), None) is not None:
            return f"it holds {kind} ({next(folder.glob(pattern)).name}); {advice}"
    if (folder / "checkpoints" / "last.ckpt").is_file():
        return f"it is the folder of a run that has no model yet; load {folder / 'checkpoints' / 'last.ckpt'}"
    if "config.json" in names:
        keys = f"the keys {', '.join(map(repr, list(config)[:6]))}" if config else "no keys"
        old = "hidden_size" in config or "n_embd" in config  # before 2.5, transformers did not write the model type
        advice = "; if it is an old one of transformers, add its model_type, such as 'bert'" if old else ""
        return f"its config.json has {keys}, and none that names a library{advice}"
    if any(name.endswith((".safetensors", ".bin", ".pt", ".pth", ".ckpt")) for name in names):
        return f"it has weights but no config.json ({_few(names)}); add the config.json that belongs to them"
    return f"it contains {_few(names)}"


def _few(names: list[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


def file_kind(path: Path) -> str:
    """What a file that is not a checkpoint is: "a GGUF file of llama.cpp"."""
    kinds = {".safetensors": "a file of weights alone", ".bin": "a file of weights alone", ".json": "a JSON file"}
    return next((kind for pattern, kind, _ in FOREIGN if path.match(pattern)), kinds.get(path.suffix, "a file"))


def file_advice(path: Path) -> str:
    """What to load instead of a file that is not a checkpoint."""
    beside_a_config = path.suffix in (".safetensors", ".bin", ".json")
    usual = f"give the folder {path.parent if beside_a_config else 'of a model'}"
    return next((advice for pattern, _, advice in FOREIGN if path.match(pattern)), usual)


def pickle_kind(stored: Mapping[str, Any]) -> str:
    """What a dict that `torch.save` wrote is: "a Lightning checkpoint of another project"."""
    names = [str(name) for name in stored]
    if "pytorch-lightning_version" in stored:
        return "a Lightning checkpoint of another project"
    if names and all(isinstance(value, Tensor) for value in stored.values()):
        return f"a state dict of {len(names)} tensors ({_few(names)})"
    if "state_dict" in stored and "arch" in stored:
        return f"a training checkpoint of timm or torchvision (arch={stored['arch']!r})"
    return f"a dict with the keys {_few(list(map(repr, names)))}" if names else "an empty dict"


def read(folder: Path, file: str | None = None, weights: Mapping[str, Tensor] | None = None) -> Checkpoint:
    """Read the description of a folder of any format; file: see `detect`; weights: instead of the folder's."""
    readers: dict[str, Any] = {
        "zoo": native, "timm": timm, "transformers": transformers, "torch_geometric": torch_geometric,
        "open_clip": open_clip,
    }  # fmt: skip
    kind = detect(folder, file)
    config = folder / (open_clip.CONFIG if kind == "open_clip" else "config.json")
    try:
        # whose class count, or whose arguments, are those of the weights
        more = {"weights": weights} if kind in ("transformers", "torch_geometric") else {}
        checkpoint: Checkpoint = readers[kind].read(folder, **more)
    except LoadError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, MemoryError) as error:
        # A value of a kind that its key never has: the readers check what they can name, not each value of each key.
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise LoadError(f"{config}, or a file beside it, has a value that is not expected there: {reason}") from None
    return checkpoint
