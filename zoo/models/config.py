"""The base class of every config: a frozen dataclass, checked, equal after a trip through JSON."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from zoo.utils.errors import did_you_mean

# What other libraries call our fields; error messages know them, configs do not.
FOREIGN_NAMES = {
    "embed_dim": "width", "hidden_size": "width", "n_embd": "width", "dim": "width", "d_model": "width",
    "num_heads": "heads", "num_attention_heads": "heads", "n_head": "heads", "nhead": "heads",
    "num_key_value_heads": "kv_heads", "num_hidden_layers": "depth", "num_layers": "depth", "n_layer": "depth",
    "layers": "depth", "intermediate_size": "mlp_dim", "mlp_ratio": "mlp_dim", "d_ff": "mlp_dim", "n_inner": "mlp_dim",
    "img_size": "image_size", "num_channels": "in_chans", "in_channels": "in_chans", "num_labels": "num_classes",
    "drop_path_rate": "drop_path", "drop_rate": "dropout", "hidden_dropout_prob": "dropout",
    "attn_drop_rate": "attention_dropout", "attention_probs_dropout_prob": "attention_dropout",
    "init_values": "layer_scale", "layerscale_value": "layer_scale", "global_pool": "pool", "hidden_act": "act",
    "act_layer": "act", "layer_norm_eps": "norm_eps", "n_positions": "max_length", "max_position_embeddings": "max_length",
    "reg_tokens": "registers", "num_register_tokens": "registers", "attn_implementation": "attention",
    "attn": "attention", "patch": "patch_size", "num_mel_bins": "mel_bins",
    "frames": "max_length", "frequency_stride": "stride", "time_stride": "stride",
    "conv_dim": "conv_channels", "conv_kernel": "conv_kernels", "conv_stride": "conv_strides",
    "feat_extract_norm": "conv_norm", "feat_extract_activation": "conv_act", "feat_proj_layer_norm": "feature_norm",
    "num_conv_pos_embeddings": "position_kernel", "num_conv_pos_embedding_groups": "position_groups",
    "do_stable_layer_norm": "order", "pad_token_id": "blank", "classifier_proj_size": "classifier_width",
    "use_weighted_layer_sum": "layer_sum", "layerdrop": "drop_path",
}  # fmt: skip


# Heads that answer with named classes, for a sample or for each token.
NAMING = ("classify", "token")

# What the scores of head="classify" say: `single_label_classification` class of all, `multi_label_classification` of them (each with a probability of its own), or
# a `regression` each. None: `single_label_classification`, and of a single score a `regression`.
ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]

# Fields that came after folders had been written, and what they are where a file does not say: then they are left out.
LATER: dict[str, Any] = {"problem_type": None, "pre_norm": False, "cut_edges": False}

# What a field may hold, wherever a family has it.
COUNTS = (
    "width", "depth", "heads", "kv_heads", "head_dim", "mlp_dim", "in_chans", "vocab_size", "max_length", "mel_bins"
)  # fmt: skip
SIZES = ("image_size", "patch_size", "stride")
CHANCES = ("dropout", "attention_dropout", "drop_path")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Base of every family's config: frozen, equal by value, and the same after a trip through JSON."""

    head: str | None = None

    def __post_init__(self) -> None:
        for name, hint in typing.get_type_hints(type(self)).items():
            if not fits(getattr(self, name), hint):
                raise ValueError(f"{type(self).__name__}: {name}={getattr(self, name)!r} should be {spoken(hint)}")
        self.check_ranges()

    def check_ranges(self) -> None:
        """What is of the right type and still makes no model."""
        for name in self.names():
            value = getattr(self, name)
            parts = value if isinstance(value, tuple) else (value,)
            if name in COUNTS + SIZES and value is not None and min(parts) < 1:
                raise ValueError(f"{name}={value!r}: expected at least 1")
            if name in CHANCES and not 0 <= value < 1:
                raise ValueError(f"{name}={value!r}: a chance is at least 0 and below 1")
        if self.head in NAMING and getattr(self, "num_classes", 1) < 1:
            classes = getattr(self, "num_classes", None)
            raise ValueError(f"head={self.head!r} has num_classes={classes}: give num_classes= of at least 1")
        if (
            self.head == "classify"
            and getattr(self, "problem_type", None) == "single_label_classification"
            and getattr(self, "num_classes", 0) == 1
        ):
            raise ValueError(
                "problem_type='single_label_classification' of num_classes=1: a single score is a 'regression', or a yes or no ('multi_label_classification')"
            )

    @classmethod
    def names(cls) -> list[str]:
        return [f.name for f in dataclasses.fields(cls)]

    def to_dict(self) -> dict[str, Any]:
        """JSON types; tuples become lists."""
        values = {name: plain(getattr(self, name)) for name in self.names()}
        return {name: value for name, value in values.items() if name not in LATER or value != LATER[name]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`. An unknown or a missing key is an error that names it."""
        cls.refuse_unknown(values)
        if missing := [n for n in cls.names() if n not in values and n not in LATER]:
            raise ValueError(f"{cls.__name__} lacks {missing}; it was written by another version, or by hand")
        return cls(**{name: frozen(value) for name, value in values.items()})

    @property
    def parts(self) -> "dict[str, Config]":
        """The configs of the towers that a model is made of, by attribute; none for most."""
        return {}

    def flat(self) -> dict[str, Any]:
        """Every field by its name, those of towers as `tower.field`."""
        return {name: getattr(self, name) for name in self.names()}

    def part_of(self, name: str) -> "Config":
        """The config of the tower that an input of this name goes to."""
        return self

    @property
    def resolved_problem_type(self) -> ProblemType:
        """What the scores of head="classify" say: `single_label_classification` class, `multi_label_classification`, or a `regression`."""
        usual: ProblemType = "regression" if getattr(self, "num_classes", 0) == 1 else "single_label_classification"
        return getattr(self, "problem_type", None) or usual

    def replace(self, **overrides: Any) -> Self:
        """A copy with other values; an unknown name raises with the nearest."""
        self.refuse_unknown(overrides)
        return dataclasses.replace(self, **{name: frozen(value) for name, value in overrides.items()})

    @classmethod
    def refuse_unknown(cls, values: Mapping[str, Any]) -> None:
        for name in values:
            if name not in cls.names():
                hint = did_you_mean(name, cls.names(), FOREIGN_NAMES)
                raise ValueError(f"{cls.__name__} has no field {name!r}{hint} (it has {', '.join(cls.names())})")


def plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [plain(v) for v in value]
    return {k: plain(v) for k, v in value.items()} if isinstance(value, dict) else value


def frozen(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return tuple(frozen(v) for v in value)
    return {k: frozen(v) for k, v in value.items()} if isinstance(value, dict) else value


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of an annotated type; an int passes for a float, a bool does not pass for an int."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    if origin is typing.Literal:
        return value in parts
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        each = parts[:1] * len(value) if parts[-1] is Ellipsis else parts
        return len(each) == len(value) and all(map(fits, value, each))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, origin or hint)


def spoken(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(map(repr, typing.get_args(hint)))
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
