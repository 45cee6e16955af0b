"""Mamba-2 (Dao and Gu 2024): a decoder of state spaces whose heads have one decay per token."""

from dataclasses import dataclass
from typing import Any

from zoo.models.family import Family
from zoo.models.mamba.model import StateSpaceConfig, StateSpaceModel
from zoo.models.mamba2.mapping import TRANSFORMERS


@dataclass(frozen=True, kw_only=True)
class Mamba2Config(StateSpaceConfig):
    """heads: of the mixer, in `expand` times the width. groups: groups of heads that share B and C. See
    StateSpaceConfig."""

    own_mixer = "mamba2"

    heads: int = 24
    state: int = 128
    groups: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.inner % self.heads:
            raise ValueError(
                f"width={self.width} with expand={self.expand} has {self.inner} channels, which heads={self.heads} "
                "does not divide: choose a divisor"
            )

    @property
    def inner(self) -> int:
        """Channels of the mixer."""
        return int(self.expand * self.width)

    def mixer_options(self) -> dict[str, Any]:
        names = ("state", "conv", "expand", "heads", "groups", "bias", "conv_bias", "act")
        return {name: getattr(self, name) for name in names}


class Mamba2(StateSpaceModel):
    """forward(input_ids [B, N], attention_mask) -> logits of the next token [B, N, V]."""


PUBLISHED = dict(vocab_size=50288, bos_token_id=0, eos_token_id=0, pad_token_id=0)  # of the tokenizer of GPT-NeoX

VARIANTS: dict[str, dict[str, Any]] = {
    "mamba2_130m": PUBLISHED,
    "mamba2_370m": PUBLISHED | dict(width=1024, depth=48, heads=32),
    "mamba2_780m": PUBLISHED | dict(width=1536, depth=48, heads=48),
    "mamba2_1_3b": PUBLISHED | dict(width=2048, depth=48, heads=64),
    "mamba2_2_7b": PUBLISHED | dict(width=2560, depth=64, heads=80),
    "mamba_codestral_7b": dict(
        vocab_size=32768, max_length=262144, width=4096, depth=64, heads=128, groups=8, tie_word_embeddings=False,
        bos_token_id=0, eos_token_id=2, pad_token_id=1,
    ),
    "mamba2_nano": dict(vocab_size=256, max_length=256, width=128, depth=4, heads=8, state=32),
}  # fmt: skip

SOURCES = {"mamba_codestral_7b": "hf-hub:mistralai/Mamba-Codestral-7B-v0.1"}

FAMILY = Family("mamba2", Mamba2, Mamba2Config, "text", VARIANTS, SOURCES, {"transformers": TRANSFORMERS})
