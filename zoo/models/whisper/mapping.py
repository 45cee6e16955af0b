"""Mapping of Whisper to transformers and to OpenAI's files: config keys and tensor names, in both directions."""

from collections.abc import Mapping
from typing import Any

from zoo.models.mapping.config_keys import CheckpointMapping
from zoo.utils.errors import LoadError

# --- transformers -----------------------------------------------------------------------------------------------------

KEYS = """
    vocab_size          = vocab_size
    max_length          = max_target_positions
    mel_bins            = num_mel_bins
    width               = d_model
    depth               = encoder_layers
    decoder_depth       = decoder_layers
    heads               = encoder_attention_heads
    decoder_heads       = decoder_attention_heads
    mlp_dim             = encoder_ffn_dim
    decoder_mlp_dim     = decoder_ffn_dim
    act                 = activation_function      activations
    dropout             = dropout
    attention_dropout   = attention_dropout
    tie_word_embeddings = tie_word_embeddings
    bos_token_id        = bos_token_id
    pad_token_id        = pad_token_id
    eos_token_id        = eos_token_id
    decoder_start_token_id = decoder_start_token_id
"""

LAYER = """
    {side}.blocks.*.norm1.@       = ~{side}.layers.*.self_attn_layer_norm.@
    {side}.blocks.*.mixer.q.@     = ~{side}.layers.*.self_attn.q_proj.@
    {side}.blocks.*.mixer.k.weight = ~{side}.layers.*.self_attn.k_proj.weight
    {side}.blocks.*.mixer.v.@     = ~{side}.layers.*.self_attn.v_proj.@
    {side}.blocks.*.mixer.out.@   = ~{side}.layers.*.self_attn.out_proj.@
    {side}.blocks.*.norm2.@       = ~{side}.layers.*.final_layer_norm.@
    {side}.blocks.*.mlp.up.@      = ~{side}.layers.*.fc1.@
    {side}.blocks.*.mlp.down.@    = ~{side}.layers.*.fc2.@
    {side}.blocks.norm.@          = ~{side}.layer_norm.@
"""

TABLE = (
    """
    encoder.tokens.conv1.@        = ~encoder.conv1.@
    encoder.tokens.conv2.@        = ~encoder.conv2.@
    encoder.tokens.positions      = ~encoder.embed_positions.weight
    decoder.tokens.word.weight    = ~decoder.embed_tokens.weight
    decoder.tokens.positions      = ~decoder.embed_positions.weight
    decoder.blocks.*.cross.q.@    = ~decoder.layers.*.encoder_attn.q_proj.@
    decoder.blocks.*.cross.k.weight = ~decoder.layers.*.encoder_attn.k_proj.weight
    decoder.blocks.*.cross.v.@    = ~decoder.layers.*.encoder_attn.v_proj.@
    decoder.blocks.*.cross.out.@  = ~decoder.layers.*.encoder_attn.out_proj.@
    decoder.blocks.*.cross_norm.@ = ~decoder.layers.*.encoder_attn_layer_norm.@
    -                             = proj_out.weight
"""
    + LAYER.format(side="encoder")
    + LAYER.format(side="decoder")
)


def read(fields: dict[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Two frames for each position of the encoder."""
    positions = theirs.get("max_source_positions", 1500)
    if type(positions) is not int:
        raise LoadError(f"whisper: max_source_positions={positions!r:.200}, expected a whole number")
    return {"frames": 2 * positions}


TRANSFORMERS = CheckpointMapping(
    name="whisper",
    base="model.",
    keys=KEYS,
    table=TABLE,
    head_tables={"lm": "head.proj.weight = proj_out.weight"},
    heads={"WhisperForConditionalGeneration": {"head": "lm"}, "WhisperModel": {"head": None}},
    aliases={
        "hidden_size": "d_model",
        "num_hidden_layers": "encoder_layers",
        "num_attention_heads": "encoder_attention_heads",
    },
    defaults={
        "decoder_depth": 4, "decoder_heads": 6, "mlp_dim": 1536, "decoder_mlp_dim": 1536,
        "decoder_start_token_id": 50257, "bos_token_id": 50256, "eos_token_id": 50256, "pad_token_id": 50256,
    },
    read=read,
    write=lambda config: {"max_source_positions": config.frames // 2, "is_encoder_decoder": True},
)  # fmt: skip

# --- OpenAI's files ---------------------------------------------------------------------------------------------------

OPENAI_KEYS = """
    vocab_size    = n_vocab
    max_length    = n_text_ctx
    mel_bins      = n_mels
    width         = n_audio_state
    depth         = n_audio_layer
    decoder_depth = n_text_layer
    heads         = n_audio_head
    decoder_heads = n_text_head
"""

OPENAI_LAYER = """
    {side}.blocks.*.norm1.@       = {side}.blocks.*.attn_ln.@
    {side}.blocks.*.mixer.q.@     = {side}.blocks.*.attn.query.@
    {side}.blocks.*.mixer.k.weight = {side}.blocks.*.attn.key.weight
    {side}.blocks.*.mixer.v.@     = {side}.blocks.*.attn.value.@
    {side}.blocks.*.mixer.out.@   = {side}.blocks.*.attn.out.@
    {side}.blocks.*.norm2.@       = {side}.blocks.*.mlp_ln.@
    {side}.blocks.*.mlp.up.@      = {side}.blocks.*.mlp.0.@
    {side}.blocks.*.mlp.down.@    = {side}.blocks.*.mlp.2.@
"""

OPENAI_TABLE = (
    """
    encoder.tokens.conv1.@        = encoder.conv1.@
    encoder.tokens.conv2.@        = encoder.conv2.@
    encoder.tokens.positions      = encoder.positional_embedding
    encoder.blocks.norm.@         = encoder.ln_post.@
    decoder.tokens.word.weight    = decoder.token_embedding.weight
    decoder.tokens.positions      = decoder.positional_embedding
    decoder.blocks.*.cross.q.@    = decoder.blocks.*.cross_attn.query.@
    decoder.blocks.*.cross.k.weight = decoder.blocks.*.cross_attn.key.weight
    decoder.blocks.*.cross.v.@    = decoder.blocks.*.cross_attn.value.@
    decoder.blocks.*.cross.out.@  = decoder.blocks.*.cross_attn.out.@
    decoder.blocks.*.cross_norm.@ = decoder.blocks.*.cross_attn_ln.@
    decoder.blocks.norm.@         = decoder.ln.@
    -                             = decoder.mask
    -                             = alignment_heads
"""
    + OPENAI_LAYER.format(side="encoder")
    + OPENAI_LAYER.format(side="decoder")
)


def read_dims(fields: dict[str, Any], dims: Mapping[str, Any]) -> dict[str, Any]:
    """What the sizes imply: frames, and the special tokens, which stand at fixed places after the vocabulary."""
    if dims["n_audio_state"] != dims["n_text_state"]:
        raise LoadError(
            f"whisper: n_audio_state={dims['n_audio_state']} and n_text_state={dims['n_text_state']} differ, expected "
            "one width"
        )
    vocab_size = dims["n_vocab"]
    end = 50257 if vocab_size >= 51865 else 50256 if vocab_size == 51864 else None  # one less in the models of English
    ends = {f"{role}_token_id": end for role in ("bos", "eos", "pad")}
    ends["decoder_start_token_id"] = None if end is None else end + 1
    return {"frames": 2 * dims["n_audio_ctx"]} | ends


OPENAI = CheckpointMapping(
    name="whisper",
    keys=OPENAI_KEYS,
    table=OPENAI_TABLE,
    others=("n_audio_ctx", "n_text_state"),
    read=read_dims,
)
