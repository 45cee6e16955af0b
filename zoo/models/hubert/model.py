"""HuBERT (Hsu et al. 2021): the network of wav2vec 2.0, trained to predict hidden units."""

from dataclasses import dataclass
from typing import Any

from zoo.models.family import Family
from zoo.models.hubert.mapping import TRANSFORMERS
from zoo.models.wav2vec2.model import LARGE, STABLE, TINY, Wav2Vec2, Wav2Vec2Config


@dataclass(frozen=True, kw_only=True)
class HubertConfig(Wav2Vec2Config):
    """Config of HuBERT; see Wav2Vec2Config."""


class Hubert(Wav2Vec2):
    """forward(input_values [B, S], attention_mask [B, S]) -> output of the head; see Wav2Vec2."""


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

FAMILY = Family("hubert", Hubert, HubertConfig, "audio", VARIANTS, SOURCES, {"transformers": TRANSFORMERS})
