"""Mapping of T5 and mT5 to transformers: config keys and tensor names, in both directions."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from zoo.models.mapping.config_keys import ACTIVATIONS, CheckpointMapping
from zoo.utils.errors import LoadError

# dropout_rate is that of attention weights, too.
KEYS = """
    vocab_size             = vocab_size
    max_length             = n_positions
    width                  = d_model
    depth                  = num_layers
    decoder_depth          = num_decoder_layers
    heads                  = num_heads
    head_dim               = d_kv
    mlp_dim                = d_ff
    relative_attention_num_buckets  = relative_attention_num_buckets
    relative_attention_max_distance = relative_attention_max_distance
    norm_eps               = layer_norm_epsilon
    attention_dropout      = dropout_rate
    dropout                = dropout_rate
    tie_word_embeddings    = tie_word_embeddings
    bos_token_id           = bos_token_id
    pad_token_id           = pad_token_id
    eos_token_id           = eos_token_id
    decoder_start_token_id = decoder_start_token_id
"""

# Of one layer of a side; the MLP follows the cross-attention.
LAYER = """
    {side}.blocks.*.norm1.weight     = {side}.block.*.layer.0.layer_norm.weight
    {side}.blocks.*.mixer.q.weight   = {side}.block.*.layer.0.SelfAttention.q.weight
    {side}.blocks.*.mixer.k.weight   = {side}.block.*.layer.0.SelfAttention.k.weight
    {side}.blocks.*.mixer.v.weight   = {side}.block.*.layer.0.SelfAttention.v.weight
    {side}.blocks.*.mixer.out.weight = {side}.block.*.layer.0.SelfAttention.o.weight
    {side}.blocks.*.norm2.weight     = {mlp}.layer_norm.weight
    {side}.blocks.*.mlp.gate.weight  = {mlp}.DenseReluDense.wi_0.weight
    {side}.blocks.*.mlp.up.weight    = {mlp}.DenseReluDense.wi_1.weight if {side}.blocks.*.mlp.gate.weight
    {side}.blocks.*.mlp.up.weight    = {mlp}.DenseReluDense.wi.weight
    {side}.blocks.*.mlp.down.weight  = {mlp}.DenseReluDense.wo.weight
    {side}.blocks.norm.weight        = {side}.final_layer_norm.weight
    {side}.relative_attention_bias.weight = {side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight
"""

ENCODER = LAYER.format(side="encoder", mlp="encoder.block.*.layer.1")
DECODER = LAYER.format(side="decoder", mlp="decoder.block.*.layer.2")
DECODER += """
    decoder.blocks.*.cross_norm.weight = decoder.block.*.layer.1.layer_norm.weight
    decoder.blocks.*.cross.q.weight    = decoder.block.*.layer.1.EncDecAttention.q.weight
    decoder.blocks.*.cross.k.weight    = decoder.block.*.layer.1.EncDecAttention.k.weight
    decoder.blocks.*.cross.v.weight    = decoder.block.*.layer.1.EncDecAttention.v.weight
    decoder.blocks.*.cross.out.weight  = decoder.block.*.layer.1.EncDecAttention.o.weight
"""

# Old files have biases for the cross-attention of the first layer, which no release of the model uses.
EMBEDDINGS = """
    encoder.tokens.word.weight = shared.weight | encoder.embed_tokens.weight | decoder.embed_tokens.weight
    -                          = encoder.embed_tokens.weight
    -                          = decoder.embed_tokens.weight
    -                          = decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight
"""

HEAD_TABLES: dict[str | None, str] = {
    "lm": """
    head.proj.weight           = lm_head.weight
    -                          = lm_head.weight
""",
    None: """
    -                          = lm_head.weight
""",
}


@dataclass(frozen=True, kw_only=True)
class T5Mapping(CheckpointMapping):
    """The mapping of a model type. A file for the encoder alone may have the decoder, too."""

    def table_for(self, config: Any) -> str:
        return super().table_for(config) + ("- = decoder.**" if config.decoder_depth == 0 else "")


def read_mlp(theirs: Mapping[str, Any], default: str) -> dict[str, Any]:
    """act and gated_mlp of `feed_forward_proj`: "relu", "gated-silu", ...; "gated-gelu" means GELU by tanh.

    The newer keys dense_act_fn and is_gated_act take precedence, as in transformers.
    """
    name = theirs.get("feed_forward_proj", default)
    gated, _, act = str(name).rpartition("-")
    if gated not in ("", "gated"):
        raise LoadError(
            f"feed_forward_proj={name!r} is not supported: expected the name of an activation, or gated-NAME"
        )
    if name == "gated-gelu":
        act = "gelu_new"
    act = theirs.get("dense_act_fn", act)
    return {"act": ACTIVATIONS.get(act, act), "gated_mlp": bool(theirs.get("is_gated_act", gated))}


def write_mlp(config: Any) -> dict[str, Any]:
    """The inverse of `read_mlp`."""
    theirs = next((name for name, ours in ACTIVATIONS.items() if ours == config.act), config.act)
    if config.gated_mlp and config.act == "gelu":
        raise ValueError("act='gelu' with gated_mlp=True, which reads as GELU by tanh")
    gated = "gated-gelu" if theirs == "gelu_new" else f"gated-{theirs}"
    name = gated if config.gated_mlp else theirs
    return {"feed_forward_proj": name, "dense_act_fn": theirs, "is_gated_act": config.gated_mlp}


def read_t5(fields: dict[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Files without scale_decoder_outputs scale the inputs of the head if it has the word embeddings."""
    scaled = theirs.get("scale_decoder_outputs", fields["tie_word_embeddings"])
    return read_mlp(theirs, "relu") | {"scale_decoder_outputs": scaled}


def write_t5(config: Any) -> dict[str, Any]:
    return write_mlp(config) | {"scale_decoder_outputs": config.scale_decoder_outputs}


def read_mt5(fields: dict[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    return read_mlp(theirs, "gated-gelu") | {"scale_decoder_outputs": False}


def heads(prefix: str) -> dict[str, dict[str, Any]]:
    """transformers' classes; that of the encoder comes before the one that has both sides."""
    return {
        f"{prefix}ForConditionalGeneration": {"head": "lm"},
        f"{prefix}EncoderModel": {"head": None, "decoder_depth": 0},
        f"{prefix}Model": {"head": None},
    }


def rewrite(config: Any) -> Any:
    """The config without values for the decoder that are those of the encoder, too."""
    same = [name for name in ("heads", "mlp_dim") if getattr(config, f"decoder_{name}") == getattr(config, name)]
    return config.replace(**{f"decoder_{name}": None for name in same})


T5_MAPPING = T5Mapping(
    name="t5",
    keys=KEYS,
    table=EMBEDDINGS + ENCODER + DECODER,
    head_tables=HEAD_TABLES,
    heads=heads("T5"),
    aliases={"hidden_size": "d_model", "num_hidden_layers": "num_layers", "num_attention_heads": "num_heads"},
    rewrite=rewrite,
    read=read_t5,
    write=write_t5,
    writes={"is_encoder_decoder": True},
)

MT5_MAPPING = replace(
    T5_MAPPING,
    name="mt5",
    heads=heads("MT5"),
    defaults={"vocab_size": 250112, "mlp_dim": 1024, "depth": 8, "heads": 6, "max_length": 1024},
    read=read_mt5,
    write=write_mlp,
)
