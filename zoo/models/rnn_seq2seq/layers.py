"""The recurrent encoder, and the decoders of four papers."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from zoo.models.encoder_decoder import check_cross_attention
from zoo.nn.attention import Attention
from zoo.nn.block_config import BlockConfig
from zoo.nn.context import Context
from zoo.nn.frontends.text import TextEmbedding
from zoo.nn.kv_cache import LayerState
from zoo.nn.masks import NO_MASK, MaskView
from zoo.nn.recurrent import LayerStates, RecurrentState, call_rnn, run_rnn, select_rows

CELLS = {"gru": nn.GRU, "lstm": nn.LSTM}


def make_tokens(c: Any) -> TextEmbedding:
    return TextEmbedding(c.vocab_size, c.embedding_dim or c.width, dropout=c.dropout)


def embed(tokens: nn.Module, ids: Tensor) -> Tensor:
    """[B, N] -> [B, N, E]; the order of the tokens is that of the recurrence, without positions."""
    x: Tensor = tokens(ids, torch.arange(ids.shape[1], device=ids.device))
    return x


def make_rnn(c: Any, inputs: int, width: int, depth: int, *, bidirectional: bool = False) -> nn.RNNBase:
    """Recurrent layers; dropout is between them."""
    return CELLS[c.cell](
        inputs, width, depth, batch_first=True, dropout=c.dropout if depth > 1 else 0.0, bidirectional=bidirectional
    )


class RecurrentEncoder(nn.Module):
    """Token ids -> states of the last layer at each token, and states of all layers after the last token."""

    def __init__(self, c: Any) -> None:
        super().__init__()
        self.tokens, self.reverse = make_tokens(c), c.reverse_source
        width = c.states_width // 2 if c.bidirectional else c.states_width
        self.rnn = make_rnn(c, c.embedding_dim or c.width, width, c.depth, bidirectional=c.bidirectional)

    def forward(
        self, ids: Tensor, keep: Tensor | None, lengths: Sequence[int] | None = None
    ) -> tuple[Tensor, LayerStates]:
        """[B, N] -> ([B, N, S], each [L, B, S]), S = encoder_width; zeros at padding."""
        return run_rnn(self.rnn, embed(self.tokens, ids), keep, lengths=lengths, reverse=self.reverse)


class SutskeverDecoder(nn.Module):
    """Sutskever et al. 2014: the decoder starts with the encoder's last states, and reads nothing else of it.

    extra: size of what each step reads beside its token.
    """

    def __init__(self, c: Any, extra: int = 0) -> None:
        super().__init__()
        self.tokens = make_tokens(c)
        self.depth = c.side("decoder")["depth"]
        self.rnn = make_rnn(c, (c.embedding_dim or c.width) + extra, c.width, self.depth)

    def start(self, final: LayerStates) -> RecurrentState:
        """The state before the first token; final: of the encoder, each [L, B, S]."""
        return RecurrentState(tuple(t.contiguous() for t in final))

    def forward(self, ids: Tensor, keep: Tensor | None, context: Context, state: LayerState) -> Tensor:
        """ids [B, T], which continue the tokens of `state` -> hidden states [B, T, D]."""
        cell = recurrent(state)
        y, cell.layers = run_rnn(self.rnn, embed(self.tokens, ids), keep, cell.layers)
        return y


class StartDecoder(SutskeverDecoder):
    """A decoder whose first states are tanh(W c), of one vector c [B, C] of the encoder."""

    def __init__(self, c: Any, extra: int, vector: int) -> None:
        super().__init__(c, extra)
        self.width, embedding = c.width, c.embedding_dim or c.width
        self.initial = nn.Linear(vector, len(state_names(c)) * self.depth * c.width)
        self.readout = nn.Linear(embedding + 2 * c.width, 2 * c.width)

    def first_states(self, vector: Tensor) -> LayerStates:
        states = self.initial(vector).tanh().unflatten(-1, (-1, self.depth, self.width))  # B K L D
        return tuple(t.transpose(0, 1).contiguous() for t in states.unbind(1))

    def read_out(self, y: Tensor, x: Tensor, c: Tensor) -> Tensor:
        """Maxout of the new state, the token that was read and the encoder's vector, each [B, T, *] -> [B, T, D]."""
        return self.readout(torch.cat([y, x, c], -1)).unflatten(-1, (self.width, 2)).amax(-1)


class ChoDecoder(StartDecoder):
    """Cho et al. 2014: every step reads the encoder's one vector c = tanh(V h), too."""

    def __init__(self, c: Any) -> None:
        super().__init__(c, extra=c.width, vector=c.width)
        self.summary = nn.Linear(c.states_width, c.width)

    def start(self, final: LayerStates) -> RecurrentState:
        vector = self.summary(final[0][-1]).tanh()
        return RecurrentState(self.first_states(vector), vector[:, None])

    def forward(self, ids: Tensor, keep: Tensor | None, context: Context, state: LayerState) -> Tensor:
        cell, x = recurrent(state), embed(self.tokens, ids)
        assert cell.extra is not None
        vector = cell.extra.expand(-1, x.shape[1], -1)
        y, cell.layers = run_rnn(self.rnn, torch.cat([x, vector], -1), keep, cell.layers)
        return self.read_out(y, x, vector)


class BahdanauDecoder(StartDecoder):
    """Bahdanau et al. 2014: each step attends to the encoder's states by the state before it, and reads the context.

    The first state comes from the encoder's backward direction, where it has one.
    """

    def __init__(self, c: Any) -> None:
        super().__init__(c, extra=c.width, vector=c.states_width // 2 if c.bidirectional else c.states_width)
        self.backward_only = c.bidirectional
        self.cross = make_cross(c)

    def start(self, final: LayerStates) -> RecurrentState:
        vector = final[0][-1]
        return RecurrentState(self.first_states(vector.chunk(2, -1)[1] if self.backward_only else vector))

    def forward(self, ids: Tensor, keep: Tensor | None, context: Context, state: LayerState) -> Tensor:
        cell, x = recurrent(state), embed(self.tokens, ids)
        outputs, contexts = [], []
        for t in range(x.shape[1]):
            query = cell.layers[0][-1][:, None]
            c = self.cross(query, one_token(context, keep, t), state, context.memory)
            outputs.append(step(self.rnn, torch.cat([x[:, t : t + 1], c], -1), cell, keep, t))
            contexts.append(c)
        return self.read_out(torch.cat(outputs, 1), x, torch.cat(contexts, 1))


class LuongDecoder(SutskeverDecoder):
    """Luong et al. 2015: the new state attends, and h~ = tanh(W [context; state]) predicts the next token.

    input_feeding: each step reads h~ of the step before it, too; without, all tokens are computed in one call.
    """

    def __init__(self, c: Any) -> None:
        super().__init__(c, extra=c.width if c.input_feeding else 0)
        self.input_feeding, self.width = c.input_feeding, c.width
        self.cross = make_cross(c)
        self.readout = nn.Linear(2 * c.width, c.width, bias=False)

    def start(self, final: LayerStates) -> RecurrentState:
        state = super().start(final)
        if self.input_feeding:
            state.extra = final[0].new_zeros(final[0].shape[1], 1, self.width)
        return state

    def attend(self, y: Tensor, context: Context, state: LayerState) -> Tensor:
        c = self.cross(y, context, state, context.memory)
        return self.readout(torch.cat([c, y], -1)).tanh()

    def forward(self, ids: Tensor, keep: Tensor | None, context: Context, state: LayerState) -> Tensor:
        if not self.input_feeding:
            return self.attend(super().forward(ids, keep, context, state), context, state)
        cell, x, outputs = recurrent(state), embed(self.tokens, ids), []
        for t in range(x.shape[1]):
            assert cell.extra is not None
            y = step(self.rnn, torch.cat([x[:, t : t + 1], cell.extra], -1), cell, keep, t)
            y = self.attend(y, one_token(context, keep, t), state)
            cell.extra = y if keep is None else torch.where(keep[:, t, None, None], y, cell.extra)
            outputs.append(y)
        return torch.cat(outputs, 1)


DECODERS = {"sutskever": SutskeverDecoder, "cho": ChoDecoder, "bahdanau": BahdanauDecoder, "luong": LuongDecoder}


def state_names(c: Any) -> str:
    """The states of a layer: h of a GRU, h and c of an LSTM."""
    return "hc" if c.cell == "lstm" else "h"


def make_cross(c: Any) -> Attention:
    """Attention of the decoder to the encoder's states [B, N, S]."""
    cross = BlockConfig.of(c, bias=False).attend(0, 1, c.cross_attention, cross=True, memory_width=c.states_width)
    check_cross_attention(cross.core)
    return cross


def recurrent(state: LayerState) -> RecurrentState:
    assert isinstance(state.mixer, RecurrentState)
    return state.mixer


def step(rnn: nn.RNNBase, x: Tensor, cell: RecurrentState, keep: Tensor | None, t: int) -> Tensor:
    """One token of each row, x [B, 1, E] -> [B, 1, D]; rows where token t is padding keep their state."""
    y, new = call_rnn(rnn, x, cell.layers)
    assert isinstance(y, Tensor)
    cell.layers = new if keep is None else select_rows(keep[None, :, t, None], new, cell.layers)
    return y


def one_token(context: Context, keep: Tensor | None, t: int) -> Context:
    """The context for token t alone, so that `zoo.capture` knows whether it is padding."""
    return context if keep is None else replace(context, mask=MaskView(NO_MASK, keep=keep[:, t : t + 1]))
