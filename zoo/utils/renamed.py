"""Old names that keep working for one release, each with a warning that says the new one. Torch-free.

Recipe options, fields of configs, public names, and what folders of format 1 call their fields.
"""

import sys
import warnings
from collections.abc import Collection, Mapping, Sequence
from importlib import import_module
from typing import Any, TypeVar

T = TypeVar("T")

# Options of recipes: the last part of their path. Where an old name became one of several, the recipe decides.
OPTIONS: dict[str, tuple[str, ...]] = {
    "trainer.accumulate": ("trainer.accumulate_grad_batches",),
    "trainer.checkpointing": ("trainer.gradient_checkpointing",),
    "trainer.clip": ("trainer.gradient_clip_val",),
    "trainer.holdout": ("trainer.val_fraction",),
    "trainer.minutes": ("trainer.max_minutes",),
    "trainer.nodes": ("trainer.num_nodes",),
    "trainer.pictures": ("trainer.plots",),
    "data.buckets": ("data.group_by_length",),
    "data.hold_speaker": ("data.held_out_speaker",),
    "data.kind": ("data.problem_type",),
    "data.longest": ("data.max_duration", "data.max_length"),
    "data.rate": ("data.sampling_rate",),
    "data.seconds": ("data.max_duration",),
    "data.test_size": ("data.max_test_samples",),
    "data.train_size": ("data.max_train_samples",),
    "data.unseen": ("data.held_out_classes",),
    "data.workers": ("data.num_workers",),
    "data.augment.operations": ("data.augment.num_ops",),
    "data.augment.shift": ("data.augment.time_shift",),
    "data.augment.stretch": ("data.augment.time_stretch",),
    "data.augment.tilt": ("data.augment.pitch_shift",),
    "task.beam": ("task.beam_width",),
    "task.cached": ("task.grad_cache_size",),
    "task.chunk": ("task.loss_chunk_size",),
    "task.patience": ("task.early_stopping_patience",),
    "task.share": ("task.mask_probability",),
}
PROBLEM_TYPES = {
    "one": "single_label_classification",
    "several": "multi_label_classification",
    "number": "regression",
}
# Values of options, by the option's path.
OPTION_VALUES: dict[str, dict[str, str]] = {
    "data.name": dict.fromkeys(("embedded", "drawn", "sounds", "tones"), "synthetic")
    | {"sentences": "synthetic_sentences", "stories": "synthetic_stories"},
    "data.on_error": {"stop": "raise"},
    "data.problem_type": PROBLEM_TYPES,
}
# Words of a command line that are no options of the recipe.
WORDS = {"overlay": "hardware"}

# Flags of the command `zoo`.
FLAGS: dict[str, tuple[str, ...]] = {
    "--batch": ("--batch-size",),
    "--in": ("--corpus",),
    "--kinds": ("--modalities",),
    "--page": ("--html",),
    "--skip": ("--on-error", "skip"),
    "--stop": ("--on-error", "raise"),
    "--top": ("--top-k",),
}

# Fields of the families' configs, in `create_model`, `load` and `config.json`.
FIELDS = {
    "answer": "problem_type",
    "eps": "norm_eps",
    "gated": "gated_mlp",
    "hidden": "mlp_dim",
    "pad_id": "pad_token_id",
    "tied": "tie_word_embeddings",
    "types": "type_vocab_size",
    "unit": "normalize",
}
# Fields of the processors that are saved with a model, by their kind.
PROCESSOR_FIELDS: dict[str, dict[str, str]] = {
    "spectrogram": {
        "bins": "num_mel_bins", "flavour": "feature_type", "high": "high_freq", "length": "frame_length",
        "low": "low_freq", "rate": "sampling_rate", "shift": "frame_shift",
    },
    "waveform": {
        "longest": "max_length", "masked": "return_attention_mask", "normalise": "normalize", "rate": "sampling_rate",
    },
}  # fmt: skip

# Public names: package -> {old: where it is now}.
NAMES: dict[str, dict[str, str]] = {
    "zoo": {
        "draw": "zoo.plot_attention", "frontends": "zoo.nn.frontends", "heads": "zoo.nn.heads",
        "losses": "zoo.nn.losses", "run": "zoo.training",
    },
    "zoo.data": {"TextSplits": "zoo.data.Splits"},
    "zoo.nn": {
        "Additive": "zoo.nn.AdditiveAttention", "BlockSpec": "zoo.nn.BlockConfig", "Buckets": "zoo.nn.T5RelativeBias",
        "Documents": "zoo.nn.DocumentMask", "Edges": "zoo.nn.GraphMask", "FULL": "zoo.nn.NO_MASK",
        "Full": "zoo.nn.NoMask", "Given": "zoo.nn.TensorMask", "Global": "zoo.nn.GlobalTokensMask",
        "KeyValues": "zoo.nn.KVCache", "Linear": "zoo.nn.LinearAttention", "Local": "zoo.nn.LocalAttention",
        "MixerSpec": "zoo.nn.MixerConfig", "Padding": "zoo.nn.PaddingMask",
        "RandomFeature": "zoo.nn.RandomFeatureAttention", "RunningSum": "zoo.nn.LinearAttentionState",
        "Softmax": "zoo.nn.SoftmaxAttention", "Tabled": "zoo.nn.TensorBias", "initialise": "zoo.nn.initialize",
    },
    "zoo.tasks": {
        "CTC": "zoo.tasks.CTCTask", "Classify": "zoo.tasks.ClassificationTask", "Contrast": "zoo.tasks.ContrastiveTask",
        "MaskedToken": "zoo.tasks.MaskedLMTask", "NextToken": "zoo.tasks.CausalLMTask",
        "Retrieval": "zoo.tasks.RetrievalMetrics",
    },
}  # fmt: skip


def public_name(package: str, name: str) -> Any:
    """What an old public name of a package stands for, with a warning. Raises AttributeError where it is none."""
    new = NAMES.get(package, {}).get(name)
    if new is None:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    warn(f"{package}.{name}", new)
    try:
        return import_module(new)
    except ModuleNotFoundError:
        owner, _, last = new.rpartition(".")
        return getattr(import_module(owner), last)


# Attributes of public classes.
ATTRIBUTES: dict[str, dict[str, str]] = {
    "ImageDataModule": {"sets": "splits"},
    "LoadReport": {"initialised": "initialized"},
}


def with_old_attributes(owner: type[T]) -> type[T]:
    """Class decorator: the old attributes of a class as read-only properties that warn."""

    def alias(old: str, new: str) -> property:
        return property(lambda self: _attribute(self, old, new), doc=f"Old name of `{new}`.")

    for old, new in ATTRIBUTES[owner.__name__].items():
        setattr(owner, old, alias(old, new))
    return owner


def _attribute(self: Any, old: str, new: str) -> Any:
    owner = type(self).__name__
    warn(f"{owner}.{old}", f"{owner}.{new}")
    return getattr(self, new)


def warn(old: str, new: str) -> None:
    """Warn that `old` is `new` now."""
    warnings.warn(f"{old} is now called {new}; the old name will go with the next release", FutureWarning, stacklevel=4)


def option(path: str, known: Collection[str]) -> str | None:
    """The path that an old option of a recipe has now, among those that the recipe knows; None for no old one.

    A bare key stands for the options that end with it.
    """
    for old, candidates in OPTIONS.items():
        found = next((new for new in candidates if new in known), None)
        if found and (path == old or ("." not in path and old.endswith(f".{path}"))):
            return found
    return None


def flags(words: Sequence[str], known: Collection[str]) -> list[str]:
    """The words of a command line with its old flags under their new names, and a note on stderr for each.

    known: the flags that the command has, some of them perhaps under a name that was another flag's.
    """
    result: list[str] = []
    for word in words:
        name, equals, value = word.partition("=")
        if name in FLAGS and name not in known:
            first, *rest = FLAGS[name]
            print(f"note: {name} is now {' '.join(FLAGS[name])}", file=sys.stderr)
            result += [f"{first}{equals}{value}", *rest]
        else:
            result.append(word)
    return result


def options(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The flat settings of a run that was started under the old names, under the new ones."""
    text = "data.text" in flat and "data.max_duration" not in flat and "data.audio" not in flat
    result: dict[str, Any] = {}
    for path, value in flat.items():
        candidates = OPTIONS.get(path, (path,))
        new = candidates[-1] if text else candidates[0]
        result[new] = OPTION_VALUES.get(new, {}).get(value, value) if isinstance(value, str) else value
    return result


def fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a config of format 1, its towers included, under today's names and values."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        new = FIELDS.get(name, name)
        if new == "problem_type":
            value = PROBLEM_TYPES.get(value, value)
        elif isinstance(value, Mapping) and "config" in value:
            value = {**value, "config": fields(value["config"])}
        result[new] = value
    return result


def processor(values: Mapping[str, Any]) -> dict[str, Any]:
    """The description of a processor of format 1, those of its towers included, under today's names."""
    names = PROCESSOR_FIELDS.get(values.get("kind", ""), {})
    return {names.get(name, name): processor(v) if isinstance(v, Mapping) else v for name, v in values.items()}


def in_format_1(values: Any) -> Any:
    """A config or processor, as a dict, spelled as in format 1: what identifies a model must never change."""
    if not isinstance(values, Mapping):
        return values
    names = PROCESSOR_FIELDS.get(values["kind"], {}) if "kind" in values else FIELDS
    old = {new: name for name, new in names.items()}
    old_problem = {new: name for name, new in PROBLEM_TYPES.items()}
    return {
        old.get(name, name): old_problem.get(value, value) if name == "problem_type" else in_format_1(value)
        for name, value in values.items()
    }
