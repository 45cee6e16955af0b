"""HuBERT (Hsu et al. 2021): the network of wav2vec 2.0, trained to name hidden units instead of telling them apart."""

from dataclasses import dataclass
from typing import Any

from ..formats.dialect import Dialect
from . import wav2vec2
from .base import Family
from .wav2vec2 import HEAD_TABLES, KEYS, LARGE, ONLY, STABLE, TABLE, TINY, Wav2Vec2, Wav2Vec2Config


@dataclass(frozen=True, kw_only=True)
class HubertConfig(Wav2Vec2Config):
    """See Wav2Vec2Config."""


class Hubert(Wav2Vec2):
    """forward(input_values [B, S], attention_mask [B, S]) -> what the head answers; see Wav2Vec2."""


VARIANTS: dict[str, dict[str, Any]] = {
    "hubert_tiny": TINY,
    "hubert_base": {},
    "hubert_large": LARGE | STABLE,
    "hubert_large_ls960_ft": LARGE | STABLE | dict(head="ctc"),
    "hubert_xlarge": STABLE | dict(width=1280, depth=48, heads=16),
}

SOURCES = {
    "hubert_base": "hf-hub:facebook/hubert-base-ls960",
    "hubert_large": "hf-hub:facebook/hubert-large-ll60k",
    "hubert_large_ls960_ft": "hf-hub:facebook/hubert-large-ls960-ft",
    "hubert_xlarge": "hf-hub:facebook/hubert-xlarge-ll60k",
}

TRANSFORMERS = Dialect(
    name="hubert",
    base="hubert.",
    keys=KEYS + "\n feature_norm = feat_proj_layer_norm",
    table=TABLE,
    head_tables=HEAD_TABLES,
    heads=wav2vec2.heads_of("Hubert"),
    only=ONLY | {"conv_pos_batch_norm": (False,)},
    read=wav2vec2.read,
    write=wav2vec2.write,
)

FAMILY = Family("hubert", Hubert, HubertConfig, "audio", VARIANTS, SOURCES, {"transformers": TRANSFORMERS})
