"""Mapping of AST to transformers: config keys and tensor names, in both directions."""

from collections.abc import Mapping
from typing import Any

from zoo.models.mapping.config_keys import CheckpointMapping
from zoo.models.vit.model import pair

AUDIOSET = 527  # classes

KEYS = """
    max_length        = max_length
    mel_bins          = num_mel_bins
    patch_size        = patch_size
    width             = hidden_size
    depth             = num_hidden_layers
    heads             = num_attention_heads
    mlp_dim           = intermediate_size
    act               = hidden_act             activations
    norm_eps          = layer_norm_eps
    qkv_bias          = qkv_bias
    dropout           = hidden_dropout_prob
    attention_dropout = attention_probs_dropout_prob
"""

TABLE = """
    patches.proj.@              = ~embeddings.patch_embeddings.projection.@
    patches.cls                 = ~embeddings.cls_token            row0 row0
    patches.dist                = ~embeddings.distillation_token   row0 row0
    patches.positions           = ~embeddings.position_embeddings  row0
    blocks.*.norm1.@            = ~encoder.layer.*.layernorm_before.@
    blocks.*.mixer.q.@          = ~encoder.layer.*.attention.attention.query.@
    blocks.*.mixer.k.@          = ~encoder.layer.*.attention.attention.key.@
    blocks.*.mixer.v.@          = ~encoder.layer.*.attention.attention.value.@
    blocks.*.mixer.out.@        = ~encoder.layer.*.attention.output.dense.@
    blocks.*.norm2.@            = ~encoder.layer.*.layernorm_after.@
    blocks.*.mlp.up.@           = ~encoder.layer.*.intermediate.dense.@
    blocks.*.mlp.down.@         = ~encoder.layer.*.output.dense.@
    blocks.norm.@               = ~layernorm.@
    head.norm.@                 = classifier.layernorm.@
    head.proj.@                 = classifier.dense.@
"""


def read(fields: dict[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """The stride, two keys of theirs, and the problem type.

    Published AudioSet models are multi-label classifiers (section 3.1 of the paper) without a `problem_type` in their
    config; they are recognized by the names of their classes.
    """
    strides = theirs.get("frequency_stride", 10), theirs.get("time_stride", 10)
    names = {str(i): name for i, name in (theirs.get("id2label") or {}).items()}
    multi_label = len(names) == AUDIOSET and names.get("0") == "Speech"
    return {"stride": strides[0] if strides[0] == strides[1] else strides} | (
        {"problem_type": "multi_label_classification"} if multi_label else {}
    )


def write(config: Any) -> dict[str, Any]:
    """The inverse of `read`."""
    rows, columns = pair(config.stride)
    if len(set(pair(config.patch_size))) > 1:
        raise ValueError(f"patch_size={config.patch_size} (its AST supports square patches only)")
    return {"frequency_stride": rows, "time_stride": columns, "patch_size": pair(config.patch_size)[0]}


TRANSFORMERS = CheckpointMapping(
    name="audio-spectrogram-transformer",
    base="audio_spectrogram_transformer.",
    keys=KEYS,
    table=TABLE,
    heads={"ASTModel": {"head": None}, "ASTForAudioClassification": {"head": "classify"}},
    read=read,
    write=write,
)
