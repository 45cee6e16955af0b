"""A stack of blocks on the tokens of this process, in the masks and positions of the whole sequence."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from zoo.nn.context import Context
from zoo.nn.frontends.packed_documents import PackedDocuments
from zoo.nn.frontends.text import TextEmbedding
from zoo.nn.kv_cache import StackState
from zoo.nn.lengths import AnyLengths, check_lengths
from zoo.nn.masks import NO_MASK, MaskView
from zoo.nn.padding import real_tokens
from zoo.nn.rotary import Rotary
from zoo.nn.stack import Stack
from zoo.parallel.document_rows import DocumentRows, SequenceMask, embed_each
from zoo.parallel.token_slices import TokenSlices


class DividedStack(Stack):
    """The methods that context parallelism puts before those of a stack.

    slices, method: see `context_parallel`. gathers: whether the output is that of all tokens. tokens: of the sequence
    whose embeddings come divided; 0 where they come whole.
    """

    slices: TokenSlices
    method: str
    gathers: bool
    tokens: int = 0

    def forward(
        self,
        x: Tensor,
        context: Context | None = None,
        *,
        keep: Tensor | None = None,
        state: StackState | None = None,
        layers: Sequence[int] | None = None,
        drop_padding: bool = True,
        lengths: AnyLengths | None = None,
        before: Mapping[int, nn.Module] | None = None,
    ) -> Any:
        """As in Stack, for x [B, N, D], or the part of this process [B, n, D] if `tokens` is set: padding is kept under
        a mask."""
        if state is not None or before is not None:
            what = "decoding with a cache" if state is not None else "gated cross-attention between blocks"
            raise ValueError(f"{what} is not possible with context parallelism: use a copy of the model without it")
        context = context or Context()
        tokens, self.tokens = self.tokens or x.shape[1], 0
        if lengths is not None:
            keep, _ = check_lengths(lengths, keep, x.new_empty(len(x), tokens), trust=True)
        keep = None if keep is None else real_tokens(keep)
        context = context.for_forward(tokens, keep=keep, cache_biases=not self.checkpointing)
        return self.run(x, context, tokens, keep, layers)

    def run(
        self,
        x: Tensor,
        context: Context,
        tokens: int,
        keep: Tensor | None,
        layers: Sequence[int] | None = None,
    ) -> Any:
        """x [B, N, D] or [B, n, D], in a context of the whole sequence."""
        part = self.slices.part(tokens)
        x = x if x.shape[1] == part.stop - part.start else self.slices.take(x)
        context, outputs = self.own_context(context, tokens, x.device), {}
        selected = None if layers is None else [range(self.depth)[i] for i in layers]
        recompute = self.checkpointing and torch.is_grad_enabled()
        for i, block in enumerate(self):
            own = context.layer(i) if isinstance(context.rotary, tuple) else context
            x = checkpoint(block, x, own, use_reentrant=False, **self.keeps) if recompute else block(x, own)
            if selected is not None and i in selected:
                outputs[i] = x
        outputs[self.depth] = x if self.norm is None else self.norm(x)
        for i, y in outputs.items():
            y = y if keep is None else y * keep[:, part, None]  # exact zeros at padding
            outputs[i] = self.slices.gather(y, tokens) if self.gathers else y
        x = outputs[self.depth]
        return x if selected is None else (x, [outputs[i] for i in selected])

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
        rows, slices = DocumentRows.of(documents), self.blocks.slices
        if self.tokens.max_length and documents.index.shape[1] > self.tokens.max_length:
            raise self.tokens.length_error(documents.index.shape[1])
        x = embed_each(super(), slices.take(input_ids), slices.take(rows.positions), *(
            None if x is None else slices.take(x) for x in (types, more.get("words"))
        ))  # fmt: skip
        context = rows.context(self.context(rows.positions), cache_biases=not self.blocks.checkpointing)
        return self.blocks.run(x, context, input_ids.shape[1], rows.keep, layers)


def own_rotary(rotary: Rotary | tuple[Rotary, ...] | None, part: slice) -> Any:
    """Rotary tables [N, R] or [B, 1, N, R] of some tokens; layers share few tables."""
    if rotary is None:
        return None
    tables = rotary if isinstance(rotary, tuple) else (rotary,)
    own = {table: replace(table, cos=table.cos[..., part, :], sin=table.sin[..., part, :]) for table in set(tables)}
    return tuple(own[table] for table in rotary) if isinstance(rotary, tuple) else own[rotary]
