"""Mapping of HuBERT to transformers: config keys and tensor names, in both directions."""

from zoo.models.mapping.config_keys import CheckpointMapping
from zoo.models.wav2vec2 import mapping
from zoo.models.wav2vec2.mapping import HEAD_TABLES, KEYS, ONLY, TABLE

TRANSFORMERS = CheckpointMapping(
    name="hubert",
    base="hubert.",
    keys=KEYS + "\n feature_norm = feat_proj_layer_norm",
    table=TABLE,
    head_tables=HEAD_TABLES,
    heads=mapping.heads_of("Hubert"),
    only=ONLY | {"conv_pos_batch_norm": (False,)},
    read=mapping.read,
    write=mapping.write,
)
