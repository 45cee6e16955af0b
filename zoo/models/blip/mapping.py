"""Mapping of BLIP to transformers: config keys and tensor names, in both directions."""

from collections.abc import Mapping
from typing import Any

from zoo.models.mapping.nested_keys import NestedMapping
from zoo.utils.errors import LoadError

KEYS = """
    image_size          = vision_config.image_size
    patch_size          = vision_config.patch_size
    width               = vision_config.hidden_size
    depth               = vision_config.num_hidden_layers
    heads               = vision_config.num_attention_heads
    mlp_dim             = vision_config.intermediate_size
    act                 = vision_config.hidden_act     activations
    norm_eps            = vision_config.layer_norm_eps
    vocab_size          = text_config.vocab_size
    max_length          = text_config.max_position_embeddings
    decoder_width       = text_config.hidden_size
    decoder_depth       = text_config.num_hidden_layers
    decoder_heads       = text_config.num_attention_heads
    decoder_mlp_dim     = text_config.intermediate_size
    decoder_norm_eps    = text_config.layer_norm_eps
    dropout             = text_config.hidden_dropout_prob
    attention_dropout   = text_config.attention_probs_dropout_prob
    decoder_start_token_id = text_config.bos_token_id
    eos_token_id        = text_config.sep_token_id
    pad_token_id        = text_config.pad_token_id
"""

VISION = """
    encoder.tokens.proj.@              = vision_model.embeddings.patch_embedding.@
    encoder.tokens.cls                 = vision_model.embeddings.class_embedding       row0 row0
    encoder.tokens.positions           = vision_model.embeddings.position_embedding    row0
    encoder.blocks.*.norm1.@           = vision_model.encoder.layers.*.layer_norm1.@
    encoder.blocks.*.mixer.{q,k,v}.@   = vision_model.encoder.layers.*.self_attn.qkv.@
    encoder.blocks.*.mixer.out.@       = vision_model.encoder.layers.*.self_attn.projection.@
    encoder.blocks.*.norm2.@           = vision_model.encoder.layers.*.layer_norm2.@
    encoder.blocks.*.mlp.up.@          = vision_model.encoder.layers.*.mlp.fc1.@
    encoder.blocks.*.mlp.down.@        = vision_model.encoder.layers.*.mlp.fc2.@
    encoder.blocks.norm.@              = vision_model.post_layernorm.@
"""

TEXT = """
    decoder.tokens.word.weight         = text_decoder.bert.embeddings.word_embeddings.weight
    decoder.tokens.positions           = text_decoder.bert.embeddings.position_embeddings.weight
    decoder.tokens.norm.@              = text_decoder.bert.embeddings.LayerNorm.@
    decoder.blocks.*.mixer.q.@         = text_decoder.bert.encoder.layer.*.attention.self.query.@
    decoder.blocks.*.mixer.k.@         = text_decoder.bert.encoder.layer.*.attention.self.key.@
    decoder.blocks.*.mixer.v.@         = text_decoder.bert.encoder.layer.*.attention.self.value.@
    decoder.blocks.*.mixer.out.@       = text_decoder.bert.encoder.layer.*.attention.output.dense.@
    decoder.blocks.*.norm1.@           = text_decoder.bert.encoder.layer.*.attention.output.LayerNorm.@
    decoder.blocks.*.cross.q.@         = text_decoder.bert.encoder.layer.*.crossattention.self.query.@
    decoder.blocks.*.cross.k.@         = text_decoder.bert.encoder.layer.*.crossattention.self.key.@
    decoder.blocks.*.cross.v.@         = text_decoder.bert.encoder.layer.*.crossattention.self.value.@
    decoder.blocks.*.cross.out.@       = text_decoder.bert.encoder.layer.*.crossattention.output.dense.@
    decoder.blocks.*.cross_norm.@      = text_decoder.bert.encoder.layer.*.crossattention.output.LayerNorm.@
    decoder.blocks.*.mlp.up.@          = text_decoder.bert.encoder.layer.*.intermediate.dense.@
    decoder.blocks.*.mlp.down.@        = text_decoder.bert.encoder.layer.*.output.dense.@
    decoder.blocks.*.norm2.@           = text_decoder.bert.encoder.layer.*.output.LayerNorm.@
    -                                  = text_decoder.bert.embeddings.position_ids
"""

HEAD_TABLES: dict[str | None, str] = {
    "lm": """
    head.dense.@                       = text_decoder.cls.predictions.transform.dense.@
    head.norm.@                        = text_decoder.cls.predictions.transform.LayerNorm.@
    head.proj.weight                   = text_decoder.cls.predictions.decoder.weight
    head.proj.bias                     = text_decoder.cls.predictions.bias | text_decoder.cls.predictions.decoder.bias
    -                                  = text_decoder.cls.predictions.decoder.*
""",
    None: "- = text_decoder.cls.**",
}


def read(fields: dict[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """The first token is bos_token_id. Both sides have one activation."""
    acts = [theirs.get(f"{part}_config.hidden_act", "gelu") for part in ("vision", "text")]
    if acts[0] != acts[1]:
        raise LoadError(f"blip: hidden_act of vision_config and text_config, {acts[0]!r} and {acts[1]!r}, differ")
    return {"bos_token_id": fields["decoder_start_token_id"]}


BLIP = NestedMapping(
    name="blip",
    keys=KEYS,
    table=VISION + TEXT,
    head_tables=HEAD_TABLES,
    heads={"BlipForConditionalGeneration": {"head": "lm"}},
    # Those of transformers, whose text_config has 8 heads.
    defaults={
        "decoder_width": 768, "decoder_depth": 12, "decoder_heads": 8, "mlp_dim": 3072, "decoder_mlp_dim": 3072,
    },
    only={"tie_word_embeddings": (True,), "text_config.tie_word_embeddings": (True,)},
    read=read,
    write=lambda config: {"text_config.hidden_act": {"gelu_tanh": "gelu_new"}.get(config.act, config.act),
                          "text_config.encoder_hidden_size": config.width, "text_config.is_decoder": True},
    processor="BlipProcessor",
    image_processor="BlipImageProcessor",
    tokenizer="bert",
)  # fmt: skip
