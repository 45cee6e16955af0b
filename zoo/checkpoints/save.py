"""`zoo.save` and `zoo.export`: write a model to a folder, in our format or that of another library."""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor

from zoo.checkpoints.formats import (
    dalle_pytorch,
    extra_files,
    generation_config,
    native,
    open_clip,
    openfold,
    sentence_transformers,
    timm,
    torch_geometric,
    transformers,
)
from zoo.checkpoints.golden import RECORD, description, golden
from zoo.checkpoints.onnx.export import write as write_onnx
from zoo.checkpoints.resize import fit_patches
from zoo.checkpoints.stages import whole_model, with_others
from zoo.checkpoints.weight_files import check_size, fits, order_of_files, reopened, specs_of, write_files
from zoo.models.base import Model
from zoo.models.config import CLASSIFIER_HEADS, Config
from zoo.models.family import Family
from zoo.models.load_report import listed
from zoo.models.mapping.nested_keys import NestedMapping
from zoo.models.mapping.tensor_values import defect
from zoo.models.mapping.tensors import export_tensors, tied_names
from zoo.models.mapping.torch_geometric import NetworkMapping
from zoo.models.mapping.towers import TowersMapping
from zoo.models.registry import build, family
from zoo.parallel.shards import local, stream_to_rank_zero, together
from zoo.parallel.stages import is_divided, is_stage
from zoo.utils.arguments import check_path
from zoo.utils.errors import did_you_mean
from zoo.utils.escape import printable, say
from zoo.utils.files import atomic_folder, to_json
from zoo.utils.safetensors_file import split_files

# Files of an earlier save, which a new one replaces.
OWNS = (
    "config.json", "*.safetensors", "*.safetensors.index.json", "pytorch_model*", "preprocessor_config.json",
    "open_clip_config.json", "open_clip_pytorch_model.bin", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "modules.json", "sentence_*_config.json", "vocab.json", "processor_config.json",
    "1_Pooling/config.json", "model.onnx", "model.onnx.data", "encoder_model.onnx*",
    "decoder_model.onnx*", "decoder_with_past_model.onnx*", "source.spm", "target.spm", "target_vocab.json",
    dalle_pytorch.FILE, openfold.FILE, torch_geometric.WEIGHTS, *extra_files.KEPT,
)  # fmt: skip
FORMATS: dict[str, Any] = {
    "transformers": transformers,
    "timm": timm,
    "open_clip": open_clip,
    "dalle_pytorch": dalle_pytorch,
    "openfold": openfold,
    "torch_geometric": torch_geometric,
}
TORCH_FILES = ("dalle_pytorch", "openfold")  # formats of one file that torch writes


def save(model: Model, folder: str | Path, *, readme: str | None = None, max_shard_size: int | str = "50GB") -> Path:
    """Save a model to a folder for `zoo.load`: config.json, model.safetensors, golden.safetensors. Returns its path.

    The folder is written atomically: an existing one is exchanged for the new one in one step. Other files in it are
    kept. The golden file has the outputs for a seeded batch, labels, config and preprocessing, with which `zoo.verify`
    checks the folder on any machine. readme: contents of README.md, such as the model card. max_shard_size: of a file
    of weights, in bytes or as "5GB"; larger models get several, and model.safetensors.index.json.

    A model that is sharded over processes (FSDP2, tensor parallel), or cut into the stages of a pipeline
    (`Pipeline.module`), is saved by calling this in all of them: rank 0 writes the same folder, and no process holds
    more than one whole tensor at a time.
    """
    folder, limit = check_path("folder", folder), check_size("max_shard_size", max_shard_size)
    sharded = isinstance(model, Model) and is_divided(model)
    holders = None
    with together(sharded):
        tensors = checked_state(model, sharded=sharded)
    if is_stage(model):
        tensors, holders = with_others(tensors)
        model = whole_model(model)
    specs = specs_of(model, tensors)
    files = split_files(specs, limit)

    def write(stream: Iterator[tuple[str, Tensor]]) -> None:
        with atomic_folder(folder, OWNS) as staged:
            _write_description(model, staged, readme)
            write_files(staged, specs, files, stream)
            outputs = golden(reopened(model, staged) if sharded else model)
            _write(outputs, staged / "golden.safetensors", {RECORD: json.dumps(description(model))})
        _list_others(model, folder, model.other_files)

    order = order_of_files(specs, files)
    if sharded:
        stream_to_rank_zero(tensors, order, write, holders)
    else:
        write((name, tensors[name]) for name in order)
    return folder


def export(
    model: Model,
    folder: str | Path,
    format: str = "transformers",
    *,
    readme: str | None = None,
    quantize: str | None = None,
    examples: Sequence[tuple[Any, Any]] | None = None,
    tolerance: float | None = None,
) -> Path:
    """Export a model to a folder of another library: format "transformers", "timm", "open_clip", "torch_geometric",
    "dalle_pytorch" (one file `dalle.pt`, without the image tokenizer), "openfold" (one file `openfold.pt`, of an
    Evoformer the blocks and the head for masked residues) or "onnx". Returns its path.

    Preprocessing or tokenizer and label names are included: `AutoModelForImageClassification.from_pretrained(folder)`,
    `pipeline("text-classification", folder)`, `timm.create_model("local-dir:folder", pretrained=True)` and
    `open_clip.create_model_and_transforms("local-dir:folder")` load it. Raises ValueError naming what that library
    cannot express. The folder is written as by `zoo.save`. readme: contents of README.md, such as the model card.
    Printed to stderr: files of the folder the model was loaded from that the new one has no copy of; for
    "transformers", whose tokenizers cannot repair texts with ftfy and unescape HTML, that such texts get other ids, if
    the model's tokenizer does so (CLIP and SigLIP of open_clip); and names of classes and settings of the input, for
    which "torch_geometric" has no place.

    "onnx", for models of texts, images, audio and points, and for towers in one space; others are refused with the
    reason: model.onnx, one forward pass for any batch size and length, with our config.json and the files of the
    preprocessing; for an encoder-decoder encoder_model.onnx, decoder_model.onnx and decoder_with_past_model.onnx, whose
    inputs and outputs have the names of optimum. Inputs are those of the model, all of them required; weights are
    float32, and beside the graph (model.onnx.data) if they exceed 2 GB. Each graph is compared with the model in
    onnxruntime (1 to 9 rows, two lengths, padded rows), and an export that differs by more than 1e-5 of the largest
    output raises ValueError and writes nothing. Needs the extra `export` (ImportError).
    quantize: "int8" for int8 weights; examples: (input of model.preprocess, label) pairs to measure them on, and
    tolerance: by how much the accuracy of a classifier may fall, or the loss of a language model or a regression rise.
    """
    folder = check_path("folder", folder)
    if format == "onnx":
        tensors = checked_state(model)
        with atomic_folder(folder, OWNS) as staged:
            _write_description(model, staged, readme)
            write_onnx(model, tensors, staged, quantize, examples, tolerance)
        return folder
    if (quantize, examples, tolerance) != (None, None, None):
        raise ValueError(f'quantize=, examples= and tolerance= are for format="onnx", given format={format!r}')
    files, tensors = _exported(model, format)
    with atomic_folder(folder, OWNS) as staged:
        if format in TORCH_FILES:
            values = files.pop("config.json")
            torch.save(values | {"weights": tensors} if values else tensors, staged / FORMATS[format].FILE)
        for name, values in files.items():
            text = values if isinstance(values, str | bytes) else to_json(values)
            (staged / name).parent.mkdir(exist_ok=True)
            (staged / name).write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
        _write_readme(staged, readme)
        if format == "torch_geometric":
            torch.save({name: x.cpu() for name, x in tensors.items()}, staged / torch_geometric.WEIGHTS)
        elif format not in TORCH_FILES:
            _write(tensors, staged / (open_clip.WEIGHTS if format == "open_clip" else "model.safetensors"))
    _list_others(model, folder, [name for name in (*model.extra_files, *model.other_files) if name not in files])
    _say_what_is_different(model, folder, format)
    return folder


# --- Tensors ----------------------------------------------------------------------------------------------------------


def checked_state(model: Model, *, sharded: bool = False) -> dict[str, Tensor]:
    """The state dict with tied tensors once. Raises ValueError if it or the labels do not fit the config.

    sharded: whether tensors may be sharded; this process checks its part of them.
    """
    if not isinstance(model, Model):
        raise ValueError(f"expected a zoo.Model, got a {type(model).__name__}; unwrap it first (ddp.module)")
    state = model.state_dict()
    if not sharded and is_divided(model):
        raise ValueError("the model is sharded over processes: call zoo.save in all of them, then load that folder")
    whole = build(family(model.family), model.config)
    expected = whole.state_dict()
    missing = set() if is_stage(model) else expected.keys() - state.keys()
    odd = state.keys() - expected.keys() | missing or [name for name in state if not fits(state[name], expected[name])]
    if odd:
        raise ValueError(
            f"the tensor {sorted(odd)[0]!r} does not belong to a {model.family} with this config, so it could not be "
            f"loaded again; merge adapters first, or save the model before zoo.optimize"
        )
    if blank := [name for name, tensor in state.items() if tensor.is_meta]:
        raise ValueError(f"the tensor {blank[0]!r} has no values (it is on the meta device): load or initialize it")
    if bad := next(((name, reason) for name in state if (reason := defect(local(state[name]), expected[name]))), None):
        raise ValueError(f"the tensor {bad[0]!r} is {bad[1]}; zoo.load would refuse it, so nothing was written")
    classes = getattr(model.config, "num_classes", None) if model.config.head in CLASSIFIER_HEADS else None
    if model.labels is not None and classes is not None and len(model.labels) != classes:
        raise ValueError(
            f"model.labels has {len(model.labels)} names for {classes} classes: set {classes} names, or None"
        )
    for alias in tied_names(whole if is_stage(model) else model):
        state.pop(alias, None)
    return {name: tensor.detach() for name, tensor in state.items()}


def _write(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    save_file(tensors, path, metadata=metadata or {"format": "pt"})  # several keys would be in a random order


def _list_others(model: Model, folder: str | Path, names: Sequence[str]) -> None:
    """Say which files of the folder that the model was loaded from are not in the new one."""
    source = getattr(model.load_report, "source", None)
    if source and (names := [name for name in names if not (Path(folder) / name).exists()]):
        say(f"{folder} has no copy of these files of {source}: {printable(listed(names, 10))}", file=sys.stderr)


def _say_what_is_different(model: Model, folder: Path, format: str) -> None:
    """Say what of the model the other library has in another form, or not at all."""
    if format == "transformers":
        _say_what_is_not_cleaned(model, folder)
    if format == "torch_geometric":
        torch_geometric.say_what_is_not_written(model, folder)
    if model.temperature != 1.0 and model.config.head in CLASSIFIER_HEADS:
        say(f"{folder}: the temperature {model.temperature:.4g} is part of the last layer there: probabilities are the "
            f"same, logits are those of this model divided by it", file=sys.stderr)  # fmt: skip


def _say_what_is_not_cleaned(model: Model, folder: str | Path) -> None:
    """Say that a tokenizer of transformers gives some texts other ids, if the model's repairs texts before."""
    text = getattr(model.preprocess, "text", model.preprocess)
    if getattr(text, "clean", None) is not None:
        say(
            f"{folder}: tokenizers of transformers cannot repair texts with ftfy and unescape HTML, as open_clip's do: "
            f"texts such as 'cats &amp; dogs' or 'a cafÃ©' get other ids than from model.preprocess. Clean them with "
            f"html.unescape(ftfy.fix_text(text)) before, or export to 'open_clip'",
            file=sys.stderr,
        )


def check_export(model: Model, format: str) -> None:
    """Raises ValueError, as `export` does, naming what a library cannot express. Writes nothing."""
    _exported(model, format)


def export_problem(model: Model) -> str | None:
    """Why no other library can express a model, and what to train instead; None if one can. Only the config counts."""
    if problem := pruned_heads_problem(model.config):
        return problem
    target = _target_family(model)
    problems = []
    for format in (name for name in FORMATS if target.mappings.get(name)):
        try:
            FORMATS[format].describe(model, target)
            return None
        except ValueError as error:
            problems.append(str(error))
    return min(problems, key=len, default=f"no other library has models of the family {model.family!r}")


def pruned_heads_problem(config: Config) -> str | None:
    """Why no other library can express a config of which heads were removed; None if there are all."""
    if not any(own.pruned_heads for own in (config, *config.parts.values())):
        return None
    return ("no other library has a field for the heads that each layer keeps (pruned_heads): zoo.save writes the "
            'model, and format="onnx" its forward pass')  # fmt: skip


def _target_family(model: Model) -> Family:
    """The family whose formats a model is exported in: other libraries have pairs of towers as CLIP or SigLIP, and
    bridges by a projector as LLaVA."""
    if model.family != "contrast":
        return family("llava" if model.family == "bridge" else model.family)
    return family("siglip" if cast(Any, model.config).loss == "siglip" else "clip")


def _write_description(model: Model, folder: Path, readme: str | None) -> None:
    """Our config.json, the files of the preprocessing and those that the model was loaded with, and README.md."""
    (folder / "config.json").write_text(to_json(native.describe(model, apart=True)), encoding="utf-8")
    files = {} if model.preprocess is None else model.preprocess.files()
    for name, text in {**model.extra_files, **files, **native.template_files(model.preprocess)}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    _write_readme(folder, readme)


def _write_readme(folder: Path, text: str | None) -> None:
    if text is not None:
        (folder / "README.md").write_text(text, encoding="utf-8")


def _exported(model: Model, format: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """({file name: contents}, tensors) in the format of another library."""
    tensors, target = checked_state(model), _target_family(model)
    if not isinstance(format, str) or format not in FORMATS or not target.mappings.get(format):
        known = [*(name for name in FORMATS if target.mappings.get(name)), "onnx"]
        near = did_you_mean(str(format), known)
        raise ValueError(f"{model.family} models cannot be exported to {format!r} (formats: {', '.join(known)}){near}")
    if problem := pruned_heads_problem(model.config):
        raise ValueError(f"{format}: {problem}")
    values, mapping, config = FORMATS[format].describe(model, target)
    files: dict[str, Any] = {open_clip.CONFIG if format == "open_clip" else "config.json": values}
    if format == "transformers" and model.preprocess is not None:
        model.preprocess.check(model.config)
        files |= model.preprocess.transformers_files()
    if format == "transformers":
        files |= extra_files.for_export(dict(model.extra_files), model.config.head)
        if generation := generation_config.for_export(model, model.extra_files.get(generation_config.FILE)):
            files[generation_config.FILE] = generation
    if format == "open_clip":
        files |= open_clip.files(model)
    elif isinstance(mapping, NestedMapping):
        files = mapping.processor_files(files)
    elif isinstance(mapping, TowersMapping):
        files = mapping.processor_files(files, model.config)
    if format == "transformers" and mapping.embeds is not None and model.config.head == "pool":
        files |= _sentence_transformers_files(model)
    if isinstance(mapping, NetworkMapping):
        return files, mapping.exported(_with_temperature(tensors, model), model.config)
    bare = config.head is None and format != "openfold"
    left_out = getattr(FORMATS[format], "NOT_IN_FILE", ())
    tensors = {name: x for name, x in tensors.items() if not name.startswith(left_out)}
    tensors = _convert(_with_temperature(tensors, model), model, target, config)
    return files, export_tensors(mapping.table_for(model.config), tensors, base="" if bare else mapping.base)


def _with_temperature(tensors: dict[str, Tensor], model: Model) -> dict[str, Tensor]:
    """The tensors with the temperature of the model in its last layer: no other library divides logits by one."""
    if model.temperature == 1.0 or model.config.head not in CLASSIFIER_HEADS:
        return tensors
    scaled = {name: x / model.temperature for name, x in tensors.items() if name.startswith("head.proj.")}
    if not scaled:
        raise ValueError(f"the classifier of {model.family} has no last layer that could take up the temperature "
                         f"{model.temperature:g} of its probabilities: set model.temperature = 1")  # fmt: skip
    return tensors | scaled


def _sentence_transformers_files(model: Model) -> dict[str, Any]:
    """The files of sentence-transformers; none if pooling is followed by a layer of transformers' model."""
    dense = getattr(model.head, "dense", None)
    max_length = model.config.max_length if model.preprocess is None else model.preprocess.max_length
    return {} if dense is not None else sentence_transformers.files(model.config, max_length)


def _convert(tensors: dict[str, Tensor], model: Model, target: Family, config: Config) -> dict[str, Tensor]:
    """The tensors for an equivalent model with `config`, whose position table may have other prefix rows."""
    if config != model.config:
        fit_patches(tensors, build(target, model.config), build(target, config))
    return tensors
