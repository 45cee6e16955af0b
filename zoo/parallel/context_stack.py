"""A stack of blocks on the tokens of this process, in the masks and positions of the whole sequence."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from zoo.nn.context import Context
from zoo.nn.frontends.packed_documents import PackedDocuments
from zoo.nn.frontends.text import TextEmbedding
from zoo.nn.masks import NO_MASK, MaskView
from zoo.nn.rotary import Rotary
from zoo.parallel.document_rows import SequenceMask, document_rows, embed_each
from zoo.parallel.row_stack import RowStack
from zoo.parallel.token_slices import TokenSlices


class DividedStack(RowStack):
    """The methods that context parallelism puts before those of a stack.

    slices, method: see `context_parallel`. gathers: whether the output is that of all tokens. tokens: of the sequence
    whose embeddings come divided; 0 where they come whole.
    """

    refusal = "with context parallelism: use a copy of the model without it"
    slices: TokenSlices
    method: str
    gathers: bool
    tokens: int = 0

    def row_tokens(self, x: Tensor) -> int:
        """Number of tokens of the whole sequence, of which x [B, N, D] has all or, if `tokens` is set, a part."""
        tokens, self.tokens = self.tokens or x.shape[1], 0
        return tokens

    def run(
        self, x: Tensor, context: Context, tokens: int, keep: Tensor | None, layers: Sequence[int] | None = None
    ) -> Any:
        """As in RowStack, for all tokens x [B, N, D] or those of this process [B, n, D]."""
        part = self.slices.part(tokens)
        x = x if x.shape[1] == part.stop - part.start else self.slices.take(x)
        selected = [range(self.depth)[i] for i in layers or ()]
        x, outputs = self.run_blocks(x, self.own_context(context, tokens, x.device), range(self.depth), selected)
        outputs[self.depth] = x if self.norm is None else self.norm(x)
        for i, y in outputs.items():
            y = y if keep is None else y * keep[:, part, None]  # exact zeros at padding
            outputs[i] = self.slices.gather(y, tokens) if self.gathers else y
        x = outputs[self.depth]
        return x if layers is None else (x, [outputs[i] for i in selected])

    def own_context(self, context: Context, tokens: int, device: torch.device) -> Context:
        """The context of the tokens of this process, from one of the whole sequence."""
        part, mask, bias = self.slices.part(tokens), context.mask, context.bias
        assert isinstance(mask, MaskView)
        q, k, documents = mask.q, mask.k, mask.documents if isinstance(mask, SequenceMask) else None
        if self.method == "gather" and not (documents is None and bias is None and self.sees_all(mask, tokens)):
            if q is None:
                q = k = torch.arange(tokens, device=device)[None]
            q, bias = q[:, part], None if bias is None else replace(bias, q=q[:, part], k=k)  # type: ignore[type-var]
            documents = None if documents is None else (documents[0][:, part], documents[1])
        own = SequenceMask(mask.inner, q, k, mask.keep, tokens=tokens, documents=documents)
        return replace(context, mask=own, bias=bias, rotary=own_rotary(context.rotary, part))

    def sees_all(self, mask: MaskView, tokens: int) -> bool:
        """Whether each token attends to all others in all blocks."""
        patterns = [block.mixer.core.pattern for block in self]  # type: ignore[union-attr]
        return mask.hides_nothing(tokens, tokens) and all(pattern == NO_MASK for pattern in patterns)


class DividedText(nn.Module):
    """The methods that context parallelism puts before those of a text model: each process embeds its own tokens."""

    tokens: TextEmbedding
    blocks: DividedStack
    context: Any

    def embed(
        self,
        input_ids: Tensor,
        positions: Tensor,
        token_type_ids: Tensor | None = None,
        words: Tensor | None = None,
    ) -> Tensor:
        """As in TextModel, for all ids [B, N] -> those of this process [B, n, D]."""
        tokens, slices = input_ids.shape[1], self.blocks.slices
        if self.tokens.max_length and tokens > self.tokens.max_length:
            raise self.tokens.length_error(tokens)
        self.blocks.tokens = tokens
        types, words = (None if x is None else slices.take(x) for x in (token_type_ids, words))
        embed: Any = super().embed  # type: ignore[misc]
        x: Tensor = embed(slices.take(input_ids), slices.take(positions, -1), types, words)
        return x

    def encode_documents(
        self,
        documents: PackedDocuments,
        input_ids: Tensor,
        types: Tensor | None,
        layers: Sequence[int] | None,
        more: Mapping[str, Any],
    ) -> Any:
        """As in TextModel, with the documents where they are in the rows."""
        slices, (rows, context) = self.blocks.slices, document_rows(self, documents)
        x = embed_each(super(), slices.take(input_ids), slices.take(rows.positions), *(
            None if x is None else slices.take(x) for x in (types, more.get("words"))
        ))  # fmt: skip
        return self.blocks.run(x, context, input_ids.shape[1], rows.keep, layers)


def own_rotary(rotary: Rotary | tuple[Rotary, ...] | None, part: slice) -> Any:
    """Rotary tables [N, R] or [B, 1, N, R] of some tokens; layers share few tables."""
    if rotary is None:
        return None
    tables = rotary if isinstance(rotary, tuple) else (rotary,)
    own = {table: replace(table, cos=table.cos[..., part, :], sin=table.sin[..., part, :]) for table in set(tables)}
    return tuple(own[table] for table in rotary) if isinstance(rotary, tuple) else own[rotary]
