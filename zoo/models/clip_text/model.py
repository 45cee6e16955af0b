"""The text towers of CLIP (Radford et al. 2021) and SigLIP (Zhai et al. 2023): pre-norm, pooled at one token."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from zoo.models.clip_text.mapping import CLIP_TEXT
from zoo.models.family import Family
from zoo.models.text import TextConfig, TextModel, check_shapes
from zoo.models.tracing import trace_error
from zoo.nn.block_config import BlockConfig
from zoo.nn.context import Context
from zoo.nn.frontends.inputs import check_not_empty
from zoo.nn.frontends.text import TextEmbedding
from zoo.nn.heads import TokenPooling
from zoo.nn.lengths import AnyLengths, Lengths
from zoo.nn.masks import CAUSAL
from zoo.nn.padding import real_tokens


@dataclass(frozen=True, kw_only=True)
class ClipTextConfig(TextConfig):
    """causal: causal attention (CLIP); otherwise bidirectional without a mask, padding included (SigLIP). pool: at the
    first eos_token_id ("eos"), at the first token with the highest id ("argmax", as in published CLIP models), or at
    the "last" token. See TextConfig for the other fields."""

    head: str | None = "pool"
    vocab_size: int = 49408
    max_length: int = 77
    width: int = 512
    depth: int = 12
    heads: int = 8
    act: str = "quick_gelu"
    causal: bool = True
    pool: Literal["eos", "argmax", "last"] = "argmax"  # type: ignore[assignment]
    eos_token_id: int = 49407

    def __post_init__(self) -> None:
        super().__post_init__()
        self.allow_heads("pool", "classify", None)


class ClipText(TextModel):
    """forward(input_ids [B, N], attention_mask) -> features [B, D]; attention_mask only with `causal`.

    With causal attention the tokens after the pooled one do not affect it, and `forward` does not compute them.
    """

    inputs: tuple[str, ...] = ("input_ids", "attention_mask", "lengths")
    head: TokenPooling | None
    ends_checked = False  # whether all texts of a batch on a GPU have an end token

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__(config)
        c = config
        self.tokens = TextEmbedding(c.vocab_size, c.width, max_length=c.max_length, dropout=c.dropout)
        self.blocks = BlockConfig.of(c).stack(c.depth)
        self.head = self.make_head()
        if not c.causal:
            self.inputs = ("input_ids",)

    def make_head(self) -> TokenPooling | None:
        c = self.config
        return None if c.head is None else TokenPooling(c.width, c.num_classes if c.head == "classify" else None)

    def context(self, positions: Tensor) -> Context:
        return Context(mask=CAUSAL) if self.config.causal else Context()

    def encode(  # type: ignore[override]
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        lengths: AnyLengths | None = None,
        *,
        layers: Sequence[int] | None = None,
    ) -> Any:
        """Hidden states [B, N, D] after the final norm, exact zeros at padding; see Model.encode."""
        self.check_mask(attention_mask, lengths)
        return super().encode(input_ids, attention_mask, lengths=lengths, layers=layers)

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        lengths: AnyLengths | None = None,
        **unknown: Any,
    ) -> Tensor:
        if type(unknown) is not dict:  # torch.fx
            raise trace_error(self)
        if not self.config.causal:
            given = {"attention_mask": attention_mask, "lengths": lengths}
            unknown |= {name: value for name, value in given.items() if value is not None}
        if unknown or input_ids is None:
            input_ids = self.check_inputs(unknown, input_ids)
        if self.head is None:
            return self.encode(input_ids, attention_mask, lengths)
        check_not_empty(input_ids, "input_ids")
        waits = lengths is None or input_ids.device.type == "cpu"  # for where the texts end
        if lengths is not None:
            check_shapes(input_ids, attention_mask, 0)
            attention_mask, lengths = self.check_lengths(lengths, attention_mask, input_ids)
        index = self.pooled_index(input_ids, attention_mask)
        if self.config.causal and waits and not torch.compiler.is_compiling() and not input_ids.is_meta:
            input_ids, attention_mask, lengths = self.truncate(input_ids, attention_mask, index)
        return self.head(self.encode(input_ids, attention_mask, lengths), index)

    def truncate(
        self, input_ids: Tensor, attention_mask: Tensor | None, index: Tensor
    ) -> tuple[Tensor, Tensor | None, Lengths | None]:
        """Ids, mask and lengths without the tokens after the pooled one, which do not affect it."""
        real = torch.arange(input_ids.shape[1], device=index.device) <= index[:, None]
        valid = index.new_ones(1)
        if attention_mask is not None:
            real = real & attention_mask.bool()
            valid = (attention_mask == attention_mask.bool()).all()[None]
        *numbers, is_valid = torch.cat([index, real.sum(1), valid]).tolist()  # waits for the device once
        if attention_mask is not None and not is_valid:
            real_tokens(attention_mask)
        longest, lengths = max(numbers[: len(index)]) + 1, Lengths(numbers[len(index) :])
        input_ids = input_ids[:, :longest]
        if lengths.count(longest) == len(lengths):
            return input_ids, None, None
        if self.drop_padding:
            return input_ids, real[:, :longest], lengths
        return input_ids, None if attention_mask is None else attention_mask[:, :longest], None

    def pooled_index(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Index [B] of the token that is pooled."""
        if input_ids.ndim != 2:
            raise ValueError(f"expected token ids [B, N] of integers, got {tuple(input_ids.shape)}")
        c = self.config
        if c.pool == "argmax":
            return input_ids.argmax(1)
        if c.pool == "eos":
            found = input_ids == c.eos_token_id
            if not torch.compiler.is_compiling() and not input_ids.is_meta:
                self.warn_without_end(found)
            return found.int().argmax(1)
        if attention_mask is None:
            return torch.full_like(input_ids[:, 0], input_ids.shape[1] - 1)
        return input_ids.shape[1] - 1 - attention_mask.long().flip(1).argmax(1)

    def warn_without_end(self, found: Tensor) -> None:
        """Warn of a text without the end token: in each batch on a CPU, in the first on a GPU, which is waited for."""
        if self.ends_checked:
            return
        self.ends_checked = found.is_cuda
        if not bool(found.any(1).all()):
            row = int((~found.any(1)).nonzero()[0])
            warnings.warn(
                f"text {row} has no end token (id {self.config.eos_token_id}): its first token is pooled, as in "
                "transformers; model.preprocess(texts) adds the end token",
                stacklevel=6,  # the call of the model
            )

    def check_mask(self, attention_mask: Tensor | None, lengths: AnyLengths | None = None) -> None:
        """Raise ValueError for a mask if the model has none."""
        if (attention_mask is not None or lengths is not None) and not self.config.causal:
            raise ValueError(
                "this text tower takes no attention_mask and no lengths: texts have a fixed length, and padding is "
                "attended to"
            )


LARGE = dict(width=768, heads=12)
HUGE = dict(width=1024, depth=24, heads=16, act="gelu")
GIGANTIC = dict(width=1280, depth=32, heads=20, act="gelu")
SIGLIP = dict(
    causal=False, pool="last", vocab_size=32000, max_length=64, width=768, heads=12, act="gelu_tanh", norm_eps=1e-6,
)  # fmt: skip
SO400M = dict(width=1152, depth=27, heads=16, mlp_dim=4304)

VARIANTS: dict[str, dict[str, Any]] = {
    "clip_text_tiny": dict(vocab_size=2048, max_length=32, width=128, depth=4, heads=4, act="gelu", eos_token_id=1),
    "clip_text_base": {},
    "clip_text_large": LARGE,
    "clip_text_huge": HUGE,
    "clip_text_gigantic": GIGANTIC,
    "siglip_text_base": SIGLIP,
    "siglip_text_large": SIGLIP | dict(width=1024, depth=24, heads=16),
    "siglip_text_so400m": SIGLIP | SO400M,
}

FAMILY = Family("clip_text", ClipText, ClipTextConfig, "text", VARIANTS, {}, {"transformers": CLIP_TEXT})
