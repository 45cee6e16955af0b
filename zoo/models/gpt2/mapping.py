"""Mapping of GPT-2 to transformers: config keys and tensor names, in both directions."""

from zoo.models.mapping.config_keys import CheckpointMapping

KEYS = """
    vocab_size        = vocab_size
    max_length        = n_positions
    width             = n_embd
    depth             = n_layer
    heads             = n_head
    mlp_dim           = n_inner
    act               = activation_function      activations
    norm_eps          = layer_norm_epsilon
    dropout           = resid_pdrop
    attention_dropout = attn_pdrop
    tie_word_embeddings = tie_word_embeddings
    bos_token_id      = bos_token_id
    eos_token_id      = eos_token_id
    pad_token_id      = pad_token_id
"""

# Published files contain the causal mask of each layer, and some the LM head as well as the tied word embeddings.
TABLE = """
    tokens.word.weight          = ~wte.weight
    tokens.positions            = ~wpe.weight
    blocks.*.norm1.@            = ~h.*.ln_1.@
    blocks.*.mixer.{q,k,v}.@    = ~h.*.attn.c_attn.@             T
    blocks.*.mixer.out.@        = ~h.*.attn.c_proj.@             T
    blocks.*.norm2.@            = ~h.*.ln_2.@
    blocks.*.mlp.up.@           = ~h.*.mlp.c_fc.@                T
    blocks.*.mlp.down.@         = ~h.*.mlp.c_proj.@              T
    blocks.norm.@               = ~ln_f.@
    -                           = ~h.*.attn.bias
    -                           = ~h.*.attn.masked_bias
    -                           = lm_head.weight
"""

TRANSFORMERS = CheckpointMapping(
    name="gpt2",
    base="transformer.",
    keys=KEYS,
    table=TABLE,
    head_tables={
        "lm": "head.proj.weight = lm_head.weight",
        "classify": "head.proj.weight = score.weight",
        "token": "head.proj.@ = classifier.@",
        "qa": "head.proj.@ = qa_outputs.@",
    },
    defaults={"bos_token_id": 50256, "eos_token_id": 50256},
    heads={
        "GPT2LMHeadModel": {"head": "lm"},
        "GPT2Model": {"head": None},
        "GPT2ForSequenceClassification": {"head": "classify", "pool": "last"},
        "GPT2ForTokenClassification": {"head": "token"},
        "GPT2ForQuestionAnswering": {"head": "qa"},
    },
    only={
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
    },
    aliases={
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
    },
    write=lambda config: {"embd_pdrop": config.dropout},
)
