"""Base class of all model configs: a frozen dataclass, validated, that round-trips through JSON."""

import dataclasses
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Self

from zoo.models.foreign_names import CONFIG_ALIASES, CONFIG_NAMES, ConfigDict
from zoo.utils import renamed
from zoo.utils.errors import did_you_mean
from zoo.utils.type_checks import check_types

# Names of other libraries for our fields: {ours: theirs}. Error messages suggest ours; a name of several fields stands
# for the first that a config has.
FOREIGN_NAMES = {
    "projection_dim": "embed_dim",  # before width: in open_clip it is that of the shared space
    "text_vocab_size": "num_text_tokens",
    "width": "embed_dim hidden_size hidden_channels n_embd dim d_model model_dim encoder_embed_dim n_audio_state",
    "depth": "num_hidden_layers num_layers n_layer n_layers layers num_blocks encoder_layers n_audio_layer "
    "num_resnet_blocks num_res_blocks num_blocks_per_group",
    "code_width": "codebook_dim code_dim",
    "widths": "hidden_sizes channel_multipliers",
    "heads": "num_heads num_attention_heads n_head n_heads nhead attention_heads encoder_attention_heads n_audio_head",
    "decoder_depth": "decoder_layers num_decoder_layers n_text_layer",
    "decoder_heads": "decoder_attention_heads n_text_head",
    "decoder_mlp_dim": "decoder_ffn_dim",
    "kv_heads": "num_key_value_heads n_kv_heads num_kv_heads",
    "head_dim": "attention_head_dim attention_hidden_size dim_head head_size head_width d_kv",
    "mlp_dim": "intermediate_size mlp_ratio d_ff n_inner ffn_dim ffn_hidden_size hidden_dim hidden_features "
    "dim_feedforward encoder_ffn_dim shared_intermediate_size",
    "gated_mlp": "use_swiglu_ffn use_swiglu swiglu use_glu glu",
    "act": "hidden_act act_layer activation activation_function hidden_activation act_fn activation_fn",
    "norm_eps": "layer_norm_eps layer_norm_epsilon layernorm_epsilon rms_norm_eps rms_norm_epsilon norm_epsilon",
    "qkv_bias": "attention_bias use_qkv_bias",
    "qk_norm": "use_qk_norm qk_layernorm",
    "image_size": "img_size input_size",
    "patch_size": "patch",
    "in_features": "in_channels",
    "seeds": "num_seed_points",
    "induced_points": "num_induced_points",
    "in_chans": "num_channels in_channels channels",
    "num_classes": "num_labels n_classes out_channels",
    "problem_type": "task_type",
    "layer_scale": "init_values layerscale_value ls_init_value layer_scale_init_value",
    "registers": "reg_tokens num_register_tokens num_registers",
    "class_token": "cls_token use_cls_token",
    "distilled": "distillation_token",
    "position_prefix": "no_embed_class",
    "pool": "global_pool pool_type pooling pooling_mode classifier_pooling",
    "pool_norm": "fc_norm use_fc_norm",
    "pooler": "classifier_activation pooler_activation pooler_act",
    "normalize": "normalize_embeddings normalize_features l2_normalize",
    "dropout": "drop_rate dropout_rate dropout_prob hidden_dropout_prob hidden_dropout resid_pdrop embd_pdrop "
    "proj_drop proj_drop_rate pos_drop_rate mlp_dropout embedding_dropout activation_dropout",
    "attention_dropout": "attn_drop_rate attn_drop attn_dropout attn_pdrop attention_probs_dropout_prob",
    "drop_path": "drop_path_rate layerdrop stochastic_depth stochastic_depth_prob",
    "window": "sliding_window local_attention",
    "global_every": "global_attn_every_n_layers",
    "attention": "attn_implementation attn attn_layer attention_type sliding_window layer_types",
    "vocab_size": "n_vocab num_embeddings num_tokens",
    "max_length": "n_positions n_ctx max_position_embeddings context_length block_size max_seq_len max_seq_length "
    "max_sequence_length seq_len model_max_length frames max_target_positions n_text_ctx",
    "type_vocab_size": "num_token_types",
    "tie_word_embeddings": "share_input_output_emb tie_embeddings tie_weights tied_embeddings weight_tying",
    "bos_token_id": "bos_id",
    "eos_token_id": "eos_id",
    "pad_token_id": "padding_idx pad_idx",
    "rope_base": "rope_theta rotary_base",
    "rope": "rope_theta global_rope_theta rotary_base",
    "local_rope": "local_rope_theta",
    "rope_scaling": "rope_parameters",
    "mel_bins": "num_mel_bins n_mels",
    "stride": "frequency_stride time_stride fstride tstride",
    "conv_channels": "conv_dim",
    "conv_kernels": "conv_kernel",
    "conv_strides": "conv_stride",
    "conv_norm": "feat_extract_norm",
    "conv_act": "feat_extract_activation",
    "feature_norm": "feat_proj_layer_norm",
    "position_kernel": "num_conv_pos_embeddings",
    "position_groups": "num_conv_pos_embedding_groups",
    "order": "do_stable_layer_norm norm_first",
    "blank": "pad_token_id pad_id blank_id blank_token_id ctc_blank",
    "classifier_width": "classifier_proj_size",
    "layer_sum": "use_weighted_layer_sum",
    "state": "state_size d_state ssm_state_size mamba_d_state",
    "conv": "conv_kernel d_conv mamba_d_conv",
    "groups": "n_groups ngroups mamba_n_groups",
    "dt_rank": "time_step_rank mamba_dt_rank",
    "conv_bias": "use_conv_bias mamba_conv_bias",
}

THEIRS = {theirs: ours for ours, several in FOREIGN_NAMES.items() for theirs in several.split()}

# Heads that predict classes, for a sample or for each token.
CLASSIFIER_HEADS = ("classify", "token")

# Meaning of the scores of head="classify", as in transformers: exactly one of the classes, any number of them (each
# with its own probability), or one number per score.
ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]

# Fields that the first saved folders do not have, with their defaults. Saved only if they differ from these. Those of
# one family are `added_later` of its config.
ADDED_LATER: dict[str, Any] = {
    "problem_type": None, "pre_norm": False, "cut_edges": False, "position_antialias": True, "pruned_heads": None,
}  # fmt: skip

# Names of fields by their valid range, in any family: at least 1, at least 1 (pairs too), 0 <= x < 1.
COUNTS = (
    "width", "depth", "heads", "kv_heads", "head_dim", "mlp_dim", "in_chans", "vocab_size", "max_length", "mel_bins",
    "in_features", "head_heads", "edge_dim", "neighbors", "induced_points", "seeds", "pair_width", "pair_heads",
    "pair_head_dim", "pair_mlp_dim", "pair_dim", "outer_width", "triangle_width", "max_distance", "chunk_size",
)  # fmt: skip
SIZES = ("image_size", "patch_size", "stride")
PROBABILITIES = ("dropout", "attention_dropout", "pair_dropout", "drop_path")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Base class of all model configs: frozen, compared by value, and equal after a round trip through JSON.

    pruned_heads: {name of an attention, "blocks.0.mixer": numbers of its query heads that were removed}, see
    `zoo.prune`.
    """

    head: str | None = None
    pruned_heads: Mapping[str, Any] | None = None

    # What libraries for transformers' models, such as peft, read of a config.
    model_type: ClassVar[str] = "zoo"
    return_dict: ClassVar[bool] = False
    may_be_zero: ClassVar[tuple[str, ...]] = ()  # fields of `COUNTS` of which a model may have none
    own_mixer: ClassVar[str | None] = None  # what mixer=None stands for: None for attention
    added_later: ClassVar[Mapping[str, Any]] = MappingProxyType({})  # as `ADDED_LATER`

    def __post_init__(self) -> None:
        check_types(self)
        check_pruned_heads(self.pruned_heads)
        self.check_ranges()

    def check_ranges(self) -> None:
        """Raise ValueError for a value that has the right type and is out of range."""
        for name in self.names():
            value = getattr(self, name)
            parts = value if isinstance(value, tuple) else (value,)
            least = 0 if name in self.may_be_zero else 1
            if name in COUNTS + SIZES and value is not None and min(parts) < least:
                raise ValueError(f"{name}={value!r}: expected at least {least}")
            if any(isinstance(part, float) and not math.isfinite(part) for part in parts):
                raise ValueError(f"{name}={value!r}: expected a finite number")
            if name.endswith("eps") and not value > 0:
                raise ValueError(f"{name}={value!r}: expected more than 0")
            if name in PROBABILITIES and not 0 <= value < 1:
                raise ValueError(f"{name}={value!r}: expected a probability of at least 0 and below 1")
        if self.head in CLASSIFIER_HEADS and getattr(self, "num_classes", 1) < 1:
            classes = getattr(self, "num_classes", None)
            raise ValueError(f"head={self.head!r} with num_classes={classes}: num_classes must be at least 1")
        if (
            self.head == "classify"
            and getattr(self, "problem_type", None) == "single_label_classification"
            and getattr(self, "num_classes", 0) == 1
        ):
            raise ValueError(
                "problem_type='single_label_classification' needs num_classes of at least 2; for a single score use "
                "'regression', or 'multi_label_classification' for yes or no"
            )

    def allow_heads(self, *heads: str | None) -> None:
        """Raise ValueError if `head` is not among `heads`."""
        if self.head not in heads:
            known = ", ".join(map(repr, heads))
            raise ValueError(f"head={self.head!r}: {type(self).__name__} has the heads {known}")

    @classmethod
    def names(cls) -> list[str]:
        """Names of all fields."""
        return [f.name for f in dataclasses.fields(cls)]

    def __getattr__(self, name: str) -> Any:
        """Names of transformers' configs: those of `CONFIG_ALIASES` have their values, others say ours."""
        names = type(self).names()
        if CONFIG_ALIASES.get(name) in names and "depth" in names:
            return getattr(self, CONFIG_ALIASES[name])
        hint = f": {CONFIG_NAMES[name]}" if name in CONFIG_NAMES else ""
        if name in THEIRS:
            hint = did_you_mean(name, names, foreign_names(names))
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}{hint}")

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types; tuples become lists."""
        values = {name: to_json_types(getattr(self, name)) for name in self.names()}
        later = {**ADDED_LATER, **self.added_later}
        return ConfigDict({name: v for name, v in values.items() if name not in later or v != later[name]})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`. Raises ValueError naming an unknown or missing key."""
        cls.check_names(values)
        if missing := [n for n in cls.names() if n not in {**values, **ADDED_LATER, **cls.added_later}]:
            raise ValueError(f"{cls.__name__} lacks {missing}; was it written by another version, or edited?")
        return cls(**{name: to_tuples(value) for name, value in values.items()})

    @property
    def parts(self) -> "dict[str, Config]":
        """The configs of the towers by attribute; empty for a model of one tower."""
        return {}

    def flat(self) -> dict[str, Any]:
        """All fields by name, those of towers as `tower.field`."""
        return {name: getattr(self, name) for name in self.names()}

    def part_of(self, name: str) -> "Config":
        """The config of the tower that takes the input `name`."""
        return self

    def uses_attention(self, name: str = "attention") -> bool:
        """Whether some layer has attention of the kind that the field `name` gives, and not a mixer."""
        return keeps_attention(getattr(self, "mixer", None) or self.own_mixer)

    @property
    def resolved_problem_type(self) -> ProblemType:
        """`problem_type`, or its default: regression for a single score, otherwise single-label classification."""
        default: ProblemType = "regression" if getattr(self, "num_classes", 0) == 1 else "single_label_classification"
        return getattr(self, "problem_type", None) or default

    def replace(self, **overrides: Any) -> Self:
        """A copy with other values. Raises ValueError naming an unknown field, with a suggestion."""
        self.check_names(overrides)
        return dataclasses.replace(self, **{name: to_tuples(value) for name, value in overrides.items()})

    @classmethod
    def check_names(cls, values: Mapping[str, Any]) -> None:
        """Raise ValueError for a name that is not a field."""
        for name in values:
            if name not in cls.names():
                hint = did_you_mean(name, cls.names(), foreign_names(cls.names()))
                raise ValueError(f"{cls.__name__} has no field {name!r}{hint} (it has {', '.join(cls.names())})")


def check_pruned_heads(heads: Mapping[str, Any] | None) -> None:
    """Raise ValueError unless it is None or {name: increasing numbers}."""
    for name, numbers in (heads or {}).items():
        if not (isinstance(numbers, tuple) and numbers and all(type(n) is int and n >= 0 for n in numbers)
                and list(numbers) == sorted(set(numbers))):  # fmt: skip
            raise ValueError(f"pruned_heads: {name!r} is {numbers!r:.200}, expected the increasing numbers of the "
                             "query heads that it has no more, such as (1, 3)")  # fmt: skip


def keeps_attention(mixer: Any) -> bool:
    """Whether a field `mixer` leaves attention in some layer."""
    return any(kind is None or kind == "attention" for kind in (mixer if isinstance(mixer, tuple) else (mixer,)))


def foreign_names(known: Collection[str]) -> dict[str, str]:
    """{name in another library, or old name of ours: the field among `known`}."""
    result = {old: new for old, new in renamed.FIELDS.items() if new in known}
    for ours, theirs in FOREIGN_NAMES.items():
        if ours in known:
            result = dict.fromkeys(theirs.split(), ours) | result
    return result


def to_json_types(value: Any) -> Any:
    """Tuples as lists, at any level."""
    if isinstance(value, tuple | list):
        return [to_json_types(v) for v in value]
    return {k: to_json_types(v) for k, v in value.items()} if isinstance(value, dict) else value


def to_tuples(value: Any) -> Any:
    """Lists as tuples, at any level: the inverse of `to_json_types`."""
    if isinstance(value, tuple | list):
        return tuple(to_tuples(v) for v in value)
    return {k: to_tuples(v) for k, v in value.items()} if isinstance(value, dict) else value
