"""Mapping of Marian to transformers: config keys and tensor names, in both directions."""

from collections.abc import Mapping
from typing import Any

from zoo.models.bart.mapping import BART, HEAD_TABLES, KEYS, LAYERS, TIED
from zoo.models.mapping.config_keys import CheckpointMapping

# Positions are computed; files have them or not. Without shared embeddings each side has its own.
EMBEDDINGS = """
    decoder.tokens.word.weight    = ~decoder.embed_tokens.weight
    encoder.tokens.word.weight    = ~encoder.embed_tokens.weight   if decoder.tokens.word.weight
    encoder.tokens.word.weight    = ~shared.weight | ~encoder.embed_tokens.weight | ~decoder.embed_tokens.weight
    -                             = ~encoder.embed_tokens.weight
    -                             = ~decoder.embed_tokens.weight
    -                             = ~encoder.embed_positions.weight
    -                             = ~decoder.embed_positions.weight
"""


def read(fields: dict[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    shared = theirs.get("share_encoder_decoder_embeddings", True)
    return {"decoder_vocab_size": None if shared else theirs.get("decoder_vocab_size") or fields["vocab_size"]}


def write(config: Any) -> dict[str, Any]:
    own = config.decoder_vocab_size
    return {"decoder_vocab_size": own or config.vocab_size, "share_encoder_decoder_embeddings": own is None}


MARIAN = CheckpointMapping(
    name="marian",
    base="model.",
    keys="\n".join(line for line in KEYS.splitlines() if "forced_bos" not in line),
    table=EMBEDDINGS + LAYERS,
    head_tables={**HEAD_TABLES, "lm": HEAD_TABLES["lm"].replace("row0", "row0 ?")},
    heads={"MarianMTModel": {"head": "lm"}, "MarianModel": {"head": None}},
    aliases={**BART.aliases, "num_hidden_layers": "encoder_layers"},
    # keys of converted files, which transformers ignores: it has no other kind of Marian
    only={
        **TIED,
        "add_final_layer_norm": (False,), "normalize_before": (False,), "normalize_embedding": (False,),
        "add_bias_logits": (False,), "static_position_embeddings": (True,),
    },
    # transformers' defaults
    defaults=dict(
        vocab_size=58101, max_length=1024, width=1024, depth=12, decoder_depth=12, heads=16, decoder_heads=16,
        mlp_dim=4096, decoder_mlp_dim=4096, act="gelu", scale_embedding=False,
    ),
    read=read,
    write=write,
    writes={"is_encoder_decoder": True},
)  # fmt: skip
