"""Mapping of RWKV-4 to transformers: config keys and tensor names, in both directions."""

from zoo.models.mapping.config_keys import CheckpointMapping

KEYS = """
    vocab_size        = vocab_size
    max_length        = context_length
    width             = hidden_size
    depth             = num_hidden_layers
    head_dim          = attention_hidden_size
    mlp_dim           = intermediate_size
    norm_eps          = layer_norm_epsilon
    rescale_every     = rescale_every
    tie_word_embeddings = tie_word_embeddings
    bos_token_id      = bos_token_id
    eos_token_id      = eos_token_id
    pad_token_id      = pad_token_id
"""

TABLE = """
    tokens.word.weight          = ~embeddings.weight
    tokens.norm.@               = ~blocks.0.pre_ln.@
    blocks.*.norm1.@            = ~blocks.*.ln1.@
    blocks.*.mixer.decay        = ~blocks.*.attention.time_decay
    blocks.*.mixer.bonus        = ~blocks.*.attention.time_first
    blocks.*.mixer.mix_k        = ~blocks.*.attention.time_mix_key          row0 row0
    blocks.*.mixer.mix_v        = ~blocks.*.attention.time_mix_value        row0 row0
    blocks.*.mixer.mix_r        = ~blocks.*.attention.time_mix_receptance   row0 row0
    blocks.*.mixer.k.weight     = ~blocks.*.attention.key.weight
    blocks.*.mixer.v.weight     = ~blocks.*.attention.value.weight
    blocks.*.mixer.r.weight     = ~blocks.*.attention.receptance.weight
    blocks.*.mixer.out.weight   = ~blocks.*.attention.output.weight
    blocks.*.norm2.@            = ~blocks.*.ln2.@
    blocks.*.mlp.mix_up         = ~blocks.*.feed_forward.time_mix_key        row0 row0
    blocks.*.mlp.mix_r          = ~blocks.*.feed_forward.time_mix_receptance row0 row0
    blocks.*.mlp.up.weight      = ~blocks.*.feed_forward.key.weight
    blocks.*.mlp.r.weight       = ~blocks.*.feed_forward.receptance.weight
    blocks.*.mlp.down.weight    = ~blocks.*.feed_forward.value.weight
    blocks.norm.@               = ~ln_out.@
    -                           = head.weight
"""

TRANSFORMERS = CheckpointMapping(
    name="rwkv",
    base="rwkv.",
    keys=KEYS,
    table=TABLE,
    head_tables={"lm": "head.proj.weight = head.weight"},
    defaults={"rescale_every": 6, "bos_token_id": 0, "eos_token_id": 0},
    heads={"RwkvForCausalLM": {"head": "lm"}, "RwkvModel": {"head": None}},
    aliases={"max_position_embeddings": "context_length"},
)
