"""Mapping of DALL-E to the package dalle-pytorch: `hparams` and tensor names, in both directions."""

from collections.abc import Mapping
from typing import Any

from zoo.models.mapping.config_keys import CheckpointMapping
from zoo.utils.errors import LoadError

KEYS = """
    text_vocab_size     = num_text_tokens
    text_length         = text_seq_len
    width               = dim
    depth               = depth
    heads               = heads
    head_dim            = dim_head
    tie_word_embeddings = share_input_output_emb
"""

# The modules of a layer are wrapped in LayerScale, a norm and one that caches; with tied weights a file also has the
# output layer below the embeddings.
TABLE = """
    tokens.word.weight                   = text_emb.weight                                  if head.text.weight
    tokens.image.weight                  = image_emb.weight                                 if head.text.weight
    tokens.{word,image}.weight           = to_logits.1.weight
    tokens.positions                     = text_pos_emb.weight
    tokens.rows                          = image_pos_emb.weights.0                          row0 column0
    tokens.columns                       = image_pos_emb.weights.1                          row0 row0
    blocks.*.norm1.@                     = transformer.layers.layers.*.0.fn.norm.@
    blocks.*.mixer.{q,k,v}.weight        = transformer.layers.layers.*.0.fn.fn.fn.to_qkv.weight
    blocks.*.mixer.out.@                 = transformer.layers.layers.*.0.fn.fn.fn.to_out.0.@
    blocks.*.scale1.gamma                = transformer.layers.layers.*.0.scale              row0 row0
    blocks.*.norm2.@                     = transformer.layers.layers.*.1.fn.norm.@
    blocks.*.mlp.{up,gate}.@             = transformer.layers.layers.*.1.fn.fn.net.0.@
    blocks.*.mlp.down.@                  = transformer.layers.layers.*.1.fn.fn.net.3.@
    blocks.*.scale2.gamma                = transformer.layers.layers.*.1.scale              row0 row0
    blocks.norm.@                        = to_logits.0.@
    head.{text,image}.weight             = to_logits.1.weight
    head.{text,image}.bias               = to_logits.1.bias
    -                                    = text_emb.linear.*
    -                                    = image_emb.linear.*
    -                                    = vae.**
    -                                    = logits_mask
"""
KINDS = {"full": "softmax", "axial_row": "axial_row", "axial_col": "axial_column", "conv_like": "conv_like"}
# What their models compute in addition, by its argument: the values with which they do not, and the default.
OPTIONS: dict[str, tuple[Any, Any]] = {
    "shift_tokens": (False, True), "rotary_emb": (False, True), "stable": (False, False), "reversible": (False, False),
    "sandwich_norm": (False, False), "sparse_attn": (False, False), "shared_attn_ids": (None, None),
    "shared_ff_ids": (None, None),
}  # fmt: skip


def read(fields: dict[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that they do not name as we do. theirs: `hparams` and `vae_params` in one."""
    for name, (plain, default) in OPTIONS.items():
        if (value := theirs.get(name, default)) != plain:
            raise LoadError(
                f"dalle-pytorch: {name}={value!r} is not supported, only {plain!r}: models of this package have no "
                "shifted tokens and no rotary embeddings, as in the paper"
            )
    side = theirs["image_size"] // 2 ** theirs["num_layers"]
    kinds = theirs.get("attn_types") or ("full",)
    kinds = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    if odd := next((kind for kind in kinds if kind not in KINDS), None):
        raise LoadError(f"dalle-pytorch: attn_types has {odd!r}, expected {', '.join(KINDS)}")
    layers = tuple(KINDS[kinds[i % len(kinds)]] for i in range(theirs["depth"]))
    return {
        "attention": layers[0] if len(set(layers)) == 1 else layers,
        "image_vocab_size": theirs["num_tokens"],
        "image_grid": (side, side),
        "head_dim": theirs.get("dim_head", 64),
        "heads": theirs.get("heads", 8),
        "mlp_dim": 4 * theirs["dim"],
    }


def write(config: Any) -> dict[str, Any]:
    """Raises ValueError for what they cannot express."""
    rows, columns = config.image_grid
    if rows != columns or rows & (rows - 1):
        raise ValueError(f"image_grid={config.image_grid} (it has squares with a power of 2 on each side)")
    names = {ours: theirs for theirs, ours in KINDS.items()}
    layers = config.attention if isinstance(config.attention, tuple) else (config.attention,)
    if odd := next((kind for kind in layers if not isinstance(kind, str) or kind not in names), None):
        raise ValueError(f"attention={odd!r} (it has {', '.join(names)})")
    # Their image tokenizer halves the sides of an image `num_layers` times.
    return {name: plain for name, (plain, _) in OPTIONS.items()} | {
        "attn_types": [names[kind] for kind in layers],
        "num_tokens": config.image_vocab_size,
        "image_size": rows * 2,
        "num_layers": 1,
    }


DALLE_PYTORCH = CheckpointMapping(
    name="dalle-pytorch",
    keys=KEYS,
    table=TABLE,
    defaults=dict(
        gated_mlp=True, act="gelu", norm_eps=1e-5, qkv_bias=False, layer_scale=0.1, pad_token_id=0, bos_token_id=0,
        tie_word_embeddings=False, text_vocab_size=10000, text_length=256,
    ),
    read=read,
    write=write,
)  # fmt: skip
