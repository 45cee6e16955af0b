"""Longformer (Beltagy et al. 2020): RoBERTa with sliding-window attention and a few tokens with global attention."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from zoo.models.family import Family
from zoo.models.longformer.attention import LongformerAttention
from zoo.models.longformer.mapping import LONGFORMER
from zoo.models.roberta.model import Roberta, RobertaConfig
from zoo.nn.block_config import BlockConfig
from zoo.nn.context import Context
from zoo.nn.global_tokens import GlobalTokens


@dataclass(frozen=True, kw_only=True)
class LongformerConfig(RobertaConfig):
    """attention: None for the published one, a window and global tokens with projections of their own; any other kind
    replaces it in all layers. attention_window: even, half of it on either side of a token; one number, or one for each
    layer. sep_token_id: the token that ends a question. See RobertaConfig for the other fields."""

    max_length: int = 4096
    attention: Any = None
    attention_window: int | tuple[int, ...] = 512
    sep_token_id: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        several = self.attention_window if isinstance(self.attention_window, tuple) else (self.attention_window,)
        if not several or min(several) < 2 or any(window % 2 for window in several):
            raise ValueError(f"attention_window={self.attention_window!r}: expected even numbers of at least 2")
        if isinstance(self.attention_window, tuple) and len(several) != self.depth:
            raise ValueError(
                f"attention_window has {len(several)} numbers and depth={self.depth}: give one number, or one for each "
                "layer"
            )
        if len(set(several)) == 1:  # equal configs are written in one way
            object.__setattr__(self, "attention_window", several[0])

    @property
    def windows(self) -> tuple[int, ...]:
        """The window of each layer."""
        each = self.attention_window
        return each if isinstance(each, tuple) else (each,) * self.depth


class Longformer(Roberta):
    """forward(input_ids [B, N], attention_mask, token_type_ids, global_attention_mask) -> output of the head.

    global_attention_mask [B, N]: 1 for tokens that attend to all tokens and are attended by all. By default, as in
    transformers, the first token with head="classify", the tokens before the first separator with head="qa" (in a row
    without one, the first token), and none with other heads. Texts need not be multiples of the window.
    """

    inputs: tuple[str, ...] = (*Roberta.inputs, "global_attention_mask")
    token_inputs: ClassVar[tuple[str, ...]] = ("global_attention_mask",)

    def __init__(self, config: LongformerConfig) -> None:
        super().__init__(config if config.attention is not None else config.replace(attention="softmax"))
        self.config = config
        if config.attention is None and config.mixer is None:
            spec = BlockConfig.of(config, attention="softmax")
            for layer, block in enumerate(self.blocks):
                core = spec.core_spec(layer, config.depth)
                block.mixer = LongformerAttention(config.width, core, window=config.windows[layer])

    def context_inputs(
        self, ids: Tensor, keep: Tensor | None, global_attention_mask: Tensor | None = None, **more: Any
    ) -> dict[str, Any]:
        """The global tokens. Raises ValueError for a global_attention_mask that does not fit."""
        return more | {"global_tokens": self.global_tokens(ids, keep, global_attention_mask)}

    @property
    def has_global_tokens(self) -> bool:
        """Whether a layer has global tokens with projections of their own."""
        return any(isinstance(block.mixer, LongformerAttention) for block in self.blocks)

    def global_tokens(self, ids: Tensor, keep: Tensor | None, given: Tensor | None) -> GlobalTokens | None:
        """The global tokens of a batch, see the class."""
        if not self.has_global_tokens:
            if given is not None:
                raise ValueError(
                    f"no layer has global tokens of its own with attention={self.config.attention!r}: omit "
                    "global_attention_mask=, or load the model without attention="
                )
            return None
        if given is not None:
            if given.shape != ids.shape or given.is_floating_point():
                raise ValueError(
                    f"global_attention_mask is {tuple(given.shape)} of {given.dtype}, expected {tuple(ids.shape)} of "
                    "integers or bools, 1 for global tokens"
                )
            return GlobalTokens.of(given, keep)
        if self.config.head == "classify":
            return GlobalTokens.leading(ids, keep)
        return GlobalTokens.of(self.question(ids, keep), keep) if self.config.head == "qa" else None

    def complete_example(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """With a global token in every five, if a layer has such."""
        if not self.has_global_tokens:
            return batch
        ids = batch["input_ids"]
        chosen = torch.arange(ids.shape[1]) % 5 == 0
        return batch | {"global_attention_mask": chosen.long().expand(ids.shape).contiguous()}

    def question(self, ids: Tensor, keep: Tensor | None) -> Tensor:
        """The tokens before the first separator [B, N]; in a row without one, the first token."""
        ends = ids == self.config.sep_token_id
        ends = ends if keep is None else ends & (keep != 0)
        first = GlobalTokens.leading(ids, keep).flags
        return torch.where(ends.any(1, keepdim=True), ends.long().cumsum(1) == 0, first)

    def context(self, positions: Tensor, global_tokens: GlobalTokens | None = None) -> Context:
        return Context(global_tokens=global_tokens)


VARIANTS: dict[str, dict[str, Any]] = {
    "longformer_nano": dict(
        vocab_size=256, max_length=512, width=128, depth=2, heads=4, attention_window=32, dropout=0.0,
        attention_dropout=0.0,
    ),
    "longformer_base": {},
    "longformer_large": dict(width=1024, depth=24, heads=16),
}  # fmt: skip

SOURCES = {
    "longformer_base": "hf-hub:allenai/longformer-base-4096",
    "longformer_large": "hf-hub:allenai/longformer-large-4096",
}

FAMILY = Family("longformer", Longformer, LongformerConfig, "text", VARIANTS, SOURCES, {"transformers": LONGFORMER})
