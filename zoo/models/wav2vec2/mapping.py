"""Mapping of wav2vec 2.0 to transformers: config keys and tensor names, in both directions."""

from collections.abc import Mapping
from typing import Any

from zoo.models.mapping.config_keys import CheckpointMapping

# --- transformers -----------------------------------------------------------------------------------------------------

KEYS = """
    conv_channels     = conv_dim
    conv_kernels      = conv_kernel
    conv_strides      = conv_stride
    conv_bias         = conv_bias
    conv_norm         = feat_extract_norm
    conv_act          = feat_extract_activation   activations
    position_kernel   = num_conv_pos_embeddings
    position_groups   = num_conv_pos_embedding_groups
    vocab_size        = vocab_size
    blank             = pad_token_id
    classifier_width  = classifier_proj_size
    layer_sum         = use_weighted_layer_sum
    width             = hidden_size
    depth             = num_hidden_layers
    heads             = num_attention_heads
    mlp_dim           = intermediate_size
    act               = hidden_act                activations
    norm_eps          = layer_norm_eps
    dropout           = hidden_dropout
    attention_dropout = attention_dropout
"""

TABLE = """
    waves.layers.*.conv.@       = ~feature_extractor.conv_layers.*.conv.@
    waves.layers.*.norm.@       = ~feature_extractor.conv_layers.*.layer_norm.@
    waves.norm.@                = ~feature_projection.layer_norm.@
    waves.proj.@                = ~feature_projection.projection.@
    waves.positions.gain        = ~encoder.pos_conv_embed.conv.parametrizations.weight.original0    row0 row0
    waves.positions.direction   = ~encoder.pos_conv_embed.conv.parametrizations.weight.original1
    waves.positions.bias        = ~encoder.pos_conv_embed.conv.bias
    waves.position_norm.@       = ~encoder.layer_norm.@
    blocks.*.mixer.q.@          = ~encoder.layers.*.attention.q_proj.@
    blocks.*.mixer.k.@          = ~encoder.layers.*.attention.k_proj.@
    blocks.*.mixer.v.@          = ~encoder.layers.*.attention.v_proj.@
    blocks.*.mixer.out.@        = ~encoder.layers.*.attention.out_proj.@
    blocks.*.norm1.@            = ~encoder.layers.*.layer_norm.@
    blocks.*.mlp.up.@           = ~encoder.layers.*.feed_forward.intermediate_dense.@
    blocks.*.mlp.down.@         = ~encoder.layers.*.feed_forward.output_dense.@
    blocks.*.norm2.@            = ~encoder.layers.*.final_layer_norm.@
    blocks.norm.@               = ~encoder.layer_norm.@
    -                           = ~masked_spec_embed
    -                           = quantizer.**
    -                           = project_q.*
    -                           = project_hid.*
"""

HEAD_TABLES: dict[str | None, str] = {
    None: """
    -                           = lm_head.*
    -                           = projector.*
    -                           = classifier.*
    -                           = layer_weights
""",
    "ctc": "head.proj.@ = lm_head.@",
    "token": """
    head.mix                    = layer_weights
    head.proj.@                 = classifier.@
""",
    "classify": """
    head.mix                    = layer_weights
    head.dense.@                = projector.@
    head.proj.@                 = classifier.@
""",
}

# Options of theirs that affect the outputs and that our config does not have.
ONLY: dict[str, tuple[Any, ...]] = {"add_adapter": (False,), "adapter_attn_dim": (None,)}


def heads_of(name: str) -> dict[str, Mapping[str, Any]]:
    """{their class: fields of our config}, for class names that begin with `name` ("Wav2Vec2")."""
    return {
        f"{name}Model": {"head": None},
        f"{name}ForCTC": {"head": "ctc"},
        f"{name}ForSequenceClassification": {"head": "classify"},
    }


def read(fields: dict[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """The order of norms and the CTC blank, which is 0 if their padding token is not in the vocabulary."""
    blank = fields["blank"]
    known = isinstance(blank, int) and 0 <= blank < (fields["vocab_size"] or 0)
    size = fields["vocab_size"] or 32
    return {
        "order": "pre" if theirs.get("do_stable_layer_norm", False) else "post",
        "vocab_size": size,
        "blank": blank if known else 0,
    }


def write(config: Any) -> dict[str, Any]:
    """The inverse of `read`, with SpecAugment off: our models have no embedding for masked frames."""
    masking = {"mask_time_prob": 0.0, "mask_feature_prob": 0.0, "apply_spec_augment": False}
    return {"do_stable_layer_norm": config.order == "pre"} | masking


TRANSFORMERS = CheckpointMapping(
    name="wav2vec2",
    base="wav2vec2.",
    keys=KEYS,
    table=TABLE,
    head_tables=HEAD_TABLES,
    heads=heads_of("Wav2Vec2")
    | {"Wav2Vec2ForAudioFrameClassification": {"head": "token"}, "Wav2Vec2ForPreTraining": {"head": None}},
    only=ONLY,
    read=read,
    write=write,
)
