"""The Evoformer of AlphaFold 2 (Jumper et al. 2021): an alignment and the pairs of its residues, updated in turn.

"Highly accurate protein structure prediction with AlphaFold", Nature 596; algorithms are those of its supplement. What
follows the Evoformer there, the structure module, is not a part of this family; its head predicts contacts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zoo.models.base import Model
from zoo.models.config import Config
from zoo.models.evoformer.block import EvoformerStack, Masks
from zoo.models.evoformer.embedding import AlignmentEmbedding
from zoo.models.evoformer.mapping import OPENFOLD
from zoo.models.evoformer.part import ZeroLinear
from zoo.models.family import Family
from zoo.nn.frontends.inputs import check_not_empty
from zoo.nn.padding import known_padding
from zoo.nn.recurrent_core import RecurrentCore
from zoo.nn.registry import CORES, for_layer, resolve
from zoo.preprocessing.alignment import MASK
from zoo.preprocessing.alignment_processor import AlignmentProcessor


@dataclass(frozen=True, kw_only=True)
class EvoformerConfig(Config):
    """head: "contacts", or None for the hidden states of the query. vocab_size: number of residues, with the gap.
    width, heads, head_dim, mlp_dim: of the alignment; pair_width, ...: of the pairs. head_dim None: width / heads;
    mlp_dim None: 4 * width.
    outer_width: E of the outer products [E, E]. triangle_width: channels of the triangle multiplication, None for
    pair_width. max_distance: along the chain, beyond which all distances have one embedding.
    dropout: of the attention within sequences, for all sequences at once; pair_dropout: of the triangles.
    attention: the kind of all attention; column_attention: that within columns, None for the same.
    chunk_size: number of rows or columns that a part of a block computes at once, which takes less memory; None: all.
    masked_msa: a head that predicts masked residues of the alignment, for training; vocab_size=23 has the mask, 22.
    """

    head: str | None = "contacts"
    vocab_size: int = 22
    width: int = 256
    depth: int = 48
    heads: int = 8
    head_dim: int | None = None
    mlp_dim: int | None = None
    pair_width: int = 128
    pair_heads: int = 4
    pair_head_dim: int | None = None
    pair_mlp_dim: int | None = None
    outer_width: int = 32
    triangle_width: int | None = None
    max_distance: int = 32
    norm_eps: float = 1e-5
    dropout: float = 0.15
    pair_dropout: float = 0.25
    attention: Any = "softmax"
    column_attention: Any = None
    chunk_size: int | None = None
    masked_msa: bool = False
    added_later: ClassVar[Mapping[str, Any]] = {"masked_msa": False}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.masked_msa and self.vocab_size <= MASK:
            raise ValueError(f"vocab_size={self.vocab_size}: masked_msa=True needs the mask, residue {MASK}: expected "
                             f"{MASK + 1}")  # fmt: skip
        if self.head not in (None, "contacts"):
            raise ValueError(f"head={self.head!r}: an Evoformer has head='contacts' and None (hidden states)")
        for prefix in ("", "pair_"):
            width, heads = getattr(self, f"{prefix}width"), getattr(self, f"{prefix}heads")
            if getattr(self, f"{prefix}head_dim") is None and width % heads:
                raise ValueError(
                    f"{prefix}width={width} is not divisible by {prefix}heads={heads}: choose a divisor, or set "
                    f"{prefix}head_dim"
                )
        for layer in range(self.depth):
            cls, _ = resolve(for_layer(self.attention, layer, self.depth), CORES)
            if issubclass(cls, RecurrentCore):
                raise ValueError(
                    f"attention={for_layer(self.attention, layer, self.depth)!r}: this kind has no scores, to which an "
                    "Evoformer adds its pairs as a bias: choose a kind with scores, such as 'softmax', 'additive' or "
                    "'local', and this one for the columns alone: column_attention="
                )

    @property
    def resolved_head_dim(self) -> int:
        """`head_dim`, or its default."""
        return self.head_dim or self.width // self.heads

    @property
    def resolved_pair_head_dim(self) -> int:
        """`pair_head_dim`, or its default."""
        return self.pair_head_dim or self.pair_width // self.pair_heads


class ContactHead(nn.Module):
    """Logits of contacts [B, N, N] from pairs [B, N, N, C]: those of (i, j) and (j, i) are their mean."""

    def __init__(self, pair_width: int, eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(pair_width, eps)
        self.proj = nn.Linear(pair_width, 1)

    def forward(self, pair: Tensor) -> Tensor:
        y = self.proj(self.norm(pair)).squeeze(-1)
        return (y + y.mT) / 2


class Evoformer(Model):
    """forward(msa [B, S, N]) -> logits of contacts [B, N, N], or with head=None the hidden states of the query.

    msa: residues of S aligned sequences as integers, the first is the query. msa_mask [B, S, N]: 1 for what is real, 0
    for padding by sequences (a gap is real). attention_mask [B, N]: 1 for real residues, 0 for padding of the query.
    """

    inputs = ("msa", "msa_mask", "attention_mask")

    def __init__(self, config: EvoformerConfig) -> None:
        super().__init__(config)
        c = config
        self.residues = AlignmentEmbedding(c.vocab_size, c.width, c.pair_width, c.max_distance)
        self.blocks = EvoformerStack(c)
        self.head = self.make_head()
        self.masked_msa = ZeroLinear(c.width, MASK + 1) if c.masked_msa else None

    def make_head(self) -> nn.Module | None:
        c = self.config
        return None if c.head is None else ContactHead(c.pair_width, c.norm_eps)

    def default_preprocess(self) -> AlignmentProcessor:
        """Takes up to 128 sequences of an alignment."""
        return AlignmentProcessor()

    def set_checkpointing(self, enabled: bool = True) -> None:
        """Turn gradient checkpointing on or off: activations are recomputed in the backward pass."""
        self.blocks.checkpointing = enabled

    def encode(
        self,
        msa: Tensor,
        msa_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        layers: Sequence[int] | None = None,
        return_pair: bool = False,
        return_msa: bool = False,
    ) -> Any:
        """Hidden states of the query [B, N, D] after the last block, which has no norm; exact zeros at padding.

        layers: numbers of blocks; returns (hidden states, [those after each of these blocks]). return_pair: also
        return the representation of pairs [B, N, N, C]; return_msa: and last that of the alignment [B, S, N, D], whose
        padding has no meaning.
        """
        residues, masks = self.check_alignment(msa, msa_mask, attention_mask)
        numbers = [range(len(self.blocks))[i] for i in layers or ()]
        x, pair, outputs = self.blocks(*self.residues(msa, residues), masks, tuple(numbers))
        query, chosen = x[:, 0], [outputs[i] for i in numbers]
        if residues is not None and masks[1] is not None:
            query, chosen = query * residues[..., None], [y * residues[..., None] for y in chosen]
            pair = pair * masks[1][..., None]
        found = [query] + [chosen] * (layers is not None) + [pair] * return_pair + [x] * return_msa
        return query if len(found) == 1 else tuple(found)

    def forward(
        self,
        msa: Tensor | None = None,
        msa_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        return_msa_logits: bool = False,
        **unknown: Any,
    ) -> Any:
        """return_msa_logits: return (the output, logits of all residues of the alignment [B, S, N, 23]), by the linear
        layer of the masked MSA prediction (supplement, section 1.9.9). Raises ValueError without masked_msa=True."""
        msa = self.check_inputs(unknown, msa)
        query, pair, x = self.encode(msa, msa_mask, attention_mask, return_pair=True, return_msa=True)
        output = query if self.head is None else self.head(pair)
        if not return_msa_logits:
            return output
        if self.masked_msa is None:
            raise ValueError("the model has no head for masked residues: create it with masked_msa=True, vocab_size=23")
        return output, self.masked_msa(x)

    def check_alignment(
        self, msa: Tensor, msa_mask: Tensor | None, attention_mask: Tensor | None
    ) -> tuple[Tensor | None, Masks]:
        """(real residues [B, N], masks of the alignment and of pairs), each None if nothing is padding.

        Raises ValueError for what is not an alignment [B, S, N] of integers below `vocab_size`, and for other masks.
        """
        if not isinstance(msa, Tensor) or msa.ndim != 3 or msa.is_floating_point() or msa.dtype == torch.bool:
            found = f"{tuple(msa.shape)} of {msa.dtype}" if isinstance(msa, Tensor) else type(msa).__name__
            raise ValueError(
                f"msa: expected integers [B, S, N], S aligned sequences of N residues for each row, got {found}"
            )
        check_not_empty(msa, "msa")
        check_residues(msa, self.config.vocab_size)
        rows, _, residues = msa.shape
        for name, mask, shape in (
            ("msa_mask", msa_mask, tuple(msa.shape)),
            ("attention_mask", attention_mask, (rows, residues)),
        ):
            if mask is not None and (tuple(mask.shape) != shape or mask.is_floating_point()):
                raise ValueError(
                    f"{name} is {tuple(mask.shape)} of {mask.dtype}; expected integers or bools {shape}, 1 for what is "
                    "real"
                )
        real, keep = known_padding(attention_mask), known_padding(msa_mask, "msa_mask")
        if real is None:
            return None, (keep, None)
        both = real[:, None].expand(msa.shape) if keep is None else keep & real[:, None]
        return real, (both, real[:, :, None] & real[:, None, :])


def check_residues(msa: Tensor, vocab_size: int) -> None:
    """Raise ValueError for residues that have no embedding; those on a GPU are not looked at."""
    if msa.device.type != "cpu" or torch.compiler.is_compiling():
        return
    low, high = (int(x) for x in torch.aminmax(msa))
    if low < 0 or high >= vocab_size:
        raise ValueError(
            f"msa has residues from {low} to {high}, but the model knows 0 to {vocab_size - 1}: 0 to 19 in the order "
            "ARNDCQEGHILKMFPSTWYV, 20 for an unknown one, 21 for a gap and, with vocab_size=23, 22 for a masked one"
        )


NANO = dict(width=64, depth=4, heads=4, pair_width=32, pair_heads=4, outer_width=16)

VARIANTS: dict[str, dict[str, Any]] = {
    "evoformer_nano": NANO | dict(dropout=0.0, pair_dropout=0.0),
    "evoformer_tiny": dict(width=128, depth=8, heads=4, pair_width=64, pair_heads=4, outer_width=16),
    "evoformer": {},
}

FAMILY = Family("evoformer", Evoformer, EvoformerConfig, "alignment", VARIANTS, mappings={"openfold": OPENFOLD})
