"""Mapping of the text towers of CLIP and SigLIP to transformers and open_clip: config keys and tensor names."""

from collections.abc import Mapping
from typing import Any

from zoo.models.mapping.config_keys import CheckpointMapping
from zoo.models.vit.clip_mapping import (
    BLOCK_KEYS,
    BLOCKS,
    PLAIN,
    RESBLOCKS,
    SIGLIP_DEFAULTS,
    read_blocks,
    write_blocks,
)

TEXT_KEYS = BLOCK_KEYS + "vocab_size = vocab_size \n max_length = max_position_embeddings"
TEXT_TABLE = (
    BLOCKS
    + """
    tokens.word.weight          = ~embeddings.token_embedding.weight
    tokens.positions            = ~embeddings.position_embedding.weight
    blocks.norm.@               = ~final_layer_norm.@
"""
)
ARGMAX = 2  # eos_token_id of the original CLIP configs: transformers then pools at the highest token id


def read_text(fields: dict[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Pooling of the text, by the rule of transformers."""
    end = first(theirs.get("eos_token_id", 49407))
    return {"pool": "argmax"} if end == ARGMAX else {"pool": "eos", "eos_token_id": end}


def first(ids: Any) -> Any:
    return ids[0] if isinstance(ids, list | tuple) else ids


CLIP_TEXT = CheckpointMapping(
    name="clip_text_model",
    base="text_model.",
    heads={"CLIPTextModel": {"head": None}},
    keys=TEXT_KEYS,
    table=TEXT_TABLE,
    defaults=dict(mlp_dim=2048),
    read=read_text,
    write=lambda config: {"eos_token_id": ARGMAX if config.pool == "argmax" else config.eos_token_id},
)
SIGLIP_TEXT = CheckpointMapping(
    name="siglip_text_model",
    keys=TEXT_KEYS,
    table=TEXT_TABLE,
    defaults=SIGLIP_DEFAULTS | dict(vocab_size=32000, max_length=64, width=768, heads=12, causal=False, pool="last"),
    read=lambda fields, theirs: {"eos_token_id": first(theirs.get("eos_token_id", 49407))},
    write=lambda config: {"eos_token_id": config.eos_token_id},
)


OPEN_CLIP_TEXT = CheckpointMapping(
    name="open_clip's text tower",
    keys="""
        max_length   = context_length
        vocab_size   = vocab_size
        width        = width
        heads        = heads
        depth        = layers
        eos_token_id = eos_id
        pool         = pool_type
    """,
    table=RESBLOCKS
    + """
        tokens.word.weight  = ~token_embedding.weight
        tokens.positions    = ~positional_embedding
        blocks.norm.@       = ~ln_final.@
        -                   = ~attn_mask
    """,
    defaults=dict(pool="argmax", eos_token_id=2),
    only=PLAIN
    | {
        "pool_type": ("argmax", "eos", "last"),
        "embed_cls": (False,),
        "use_pad_mask": (False,),
        "ls_init_value": (None,),
        "hf_model_name": (None,),
    },
    others=(
        "quick_gelu", "mlp_ratio", "act_kwargs", "norm_kwargs", "no_causal_mask", "proj_bias", "proj_type", "pad_id",
        "hf_tokenizer_name", "tokenizer_mode", "tokenizer_kwargs", "correct_cls_mask", "final_ln_after_pool",
        "hf_model_pretrained", "hf_proj_type", "hf_pooler_type",
    ),
    read=lambda fields, theirs: (
        read_blocks(fields, theirs) | {"causal": not theirs.get("no_causal_mask", False)}
    ),
    write=lambda config: write_blocks(config) | ({} if config.causal else {"no_causal_mask": True}),
)  # fmt: skip
