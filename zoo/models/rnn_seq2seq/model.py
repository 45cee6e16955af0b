"""Recurrent encoder-decoders: one vector (Sutskever et al., Cho et al. 2014) and attention (Bahdanau et al. 2014,
Luong et al. 2015), on torch's nn.GRU and nn.LSTM."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig, padding_mask
from zoo.models.family import Family
from zoo.models.rnn_seq2seq.layers import DECODERS, RecurrentEncoder, state_names
from zoo.models.text import last_real
from zoo.nn.context import Context
from zoo.nn.kv_cache import EncoderDecoderState, LayerState, StackState
from zoo.nn.lengths import AnyLengths
from zoo.nn.padding import known_padding, real_tokens
from zoo.nn.recurrent import LayerStates

ATTENDS = ("bahdanau", "luong")
# Fields of transformers' blocks, with which recurrent layers have nothing to do.
OF_BLOCKS = (
    "mlp_dim", "decoder_mlp_dim", "act", "norm_eps", "drop_path", "attention", "encoder_attention", "decoder_attention",
    "mixer", "encoder_mixer", "decoder_mixer", "decoder_heads",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RnnSeq2SeqConfig(EncoderDecoderConfig):
    """Config of recurrent encoder-decoders; see EncoderDecoderConfig. Fields of transformers' blocks are refused.

    architecture: of which paper the decoder is.
        "sutskever": it starts with the encoder's last states (Sutskever et al. 2014).
        "cho": one vector starts it, and every step reads the vector (Cho et al. 2014).
        "bahdanau": each step attends by the state before it, and reads the context (Bahdanau et al. 2014).
        "luong": the new state attends after the recurrent layers (Luong et al. 2015); with input_feeding each step
            reads what the step before it predicted from.
    cross_attention, heads, scale: of the decoder's attention, None for one vector.
    width: of the decoder's states. encoder_width: of the encoder's, both directions together (None: width).
    embedding_dim: of the word embeddings, which both sides share (None: width).
    reverse_source: the encoder reads the text from its end, which Sutskever et al. found to help.
    dropout: of embeddings, between layers and before the head.
    """

    vocab_size: int = 30000
    max_length: int = 1024
    width: int = 1000
    depth: int = 1
    heads: int = 1
    cell: Literal["gru", "lstm"] = "gru"
    architecture: Literal["sutskever", "cho", "bahdanau", "luong"] = "sutskever"
    input_feeding: bool = False
    bidirectional: bool = False
    reverse_source: bool = False
    encoder_width: int | None = None
    embedding_dim: int | None = None
    scale: float | None = None
    cross_attention: Any = None
    tie_word_embeddings: bool = False
    bos_token_id: int | None = 1
    pad_token_id: int | None = 0
    eos_token_id: int | tuple[int, ...] | None = 2
    decoder_start_token_id: int | None = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        defaults = type(self).__dataclass_fields__
        for name in OF_BLOCKS:
            if (value := getattr(self, name)) != defaults[name].default:
                raise ValueError(
                    f"{name}={value!r}: recurrent layers have no transformer blocks; the attention of the decoder is "
                    "cross_attention=, with heads=, kv_heads= and head_dim="
                )
        if (self.cross_attention is not None) != (self.architecture in ATTENDS):
            raise ValueError(
                f"architecture={self.architecture!r} with cross_attention={self.cross_attention!r}: 'bahdanau' and "
                "'luong' attend, with a kind such as 'additive' or 'softmax'; 'sutskever' and 'cho' do not, with None"
            )
        if self.input_feeding and self.architecture != "luong":
            raise ValueError(f"input_feeding=True is of architecture='luong', not of {self.architecture!r}")
        for name in ("encoder_width", "embedding_dim"):
            if (size := getattr(self, name)) is not None and size < 1:
                raise ValueError(f"{name}={size}: expected at least 1")
        if self.bidirectional and self.states_width % 2:
            raise ValueError(f"bidirectional=True needs an even width of the encoder's states, not {self.states_width}")
        self.check_sizes()

    def check_sizes(self) -> None:
        """Raise ValueError for sizes that do not fit together."""
        depth = self.side("decoder")["depth"]
        copies = self.architecture in ("sutskever", "luong") and depth
        if copies and (self.states_width != self.width or depth != self.depth):
            raise ValueError(
                f"architecture={self.architecture!r}: the decoder starts with the encoder's states, so that both sides "
                f"have the same width and depth; given encoder_width={self.states_width}, width={self.width}, "
                f"depth={self.depth}, decoder_depth={depth}"
            )
        if self.tie_word_embeddings and self.embedding_dim not in (None, self.width):
            raise ValueError(
                f"tie_word_embeddings=True needs embedding_dim={self.width}, the width, not {self.embedding_dim}"
            )

    @property
    def states_width(self) -> int:
        """Width of the encoder's states."""
        return self.encoder_width or self.width


class RnnSeq2Seq(EncoderDecoder):
    """Recurrent encoder-decoder; see EncoderDecoder and RnnSeq2SeqConfig.

    The encoder is `encoder.rnn`, the decoder `decoder.rnn`, its attention `decoder.cross`. Targets go through the
    recurrent layers in one call, but for "bahdanau" and input feeding, whose steps need the one before.
    """

    def make_side(self, name: str) -> Any:
        return RecurrentEncoder(self.config) if name == "encoder" else DECODERS[self.config.architecture](self.config)

    def read(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, lengths: AnyLengths | None = None
    ) -> tuple[Tensor, LayerStates]:
        """(the encoder's states [B, N, S] of the last layer, zeros at padding; those of all layers after the last token
        of each row, each [L, B, S])."""
        attention_mask, counts = self.source_mask(input_ids, attention_mask, lengths)
        keep = known_padding(attention_mask) if counts or attention_mask is None else real_tokens(attention_mask)
        found: tuple[Tensor, LayerStates] = self.encoder(input_ids, keep, None if keep is None else counts)
        return found

    def encode(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        lengths: AnyLengths | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        *,
        layers: Sequence[int] | None = None,
    ) -> Tensor:
        if layers is not None:
            raise ValueError(
                f"layers={list(layers)}: recurrent layers run in one call that returns the states of the last one; "
                "omit layers="
            )
        return self.read(input_ids, attention_mask, lengths)[0]

    def hidden_states(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        lengths: AnyLengths | None = None,
    ) -> Tensor:
        attention_mask, lengths = self.source_mask(input_ids, attention_mask, lengths)
        memory, final = self.read(input_ids, attention_mask, lengths)
        state = self.new_state(memory, attention_mask, final=final)
        return self.run_decoder(decoder_input_ids, decoder_attention_mask, memory, state.memory_mask, state)

    def new_state(
        self,
        memory: Tensor,
        memory_mask: Tensor | None = None,
        capacity: int | None = None,
        *,
        final: LayerStates | None = None,
    ) -> EncoderDecoderState:
        """The state of the decoder before its first token; see EncoderDecoder.new_state.

        final: the encoder's states of all layers after the last token, from `read`. Without, they are taken from
        `memory`, which has those of the last layer. Raises ValueError where the decoder needs more: cells of an LSTM,
        or several layers.
        """
        assert self.decoder is not None
        keep = known_padding(memory_mask)
        if final is None:
            final = self.final_states(memory, keep)
        cell: Any = self.decoder.start(final)  # type: ignore[operator]
        return EncoderDecoderState(StackState([LayerState(cell)]), memory, keep)

    def final_states(self, memory: Tensor, keep: Tensor | None) -> LayerStates:
        """The state of the encoder's last layer after the last token of each row, [1, B, S]."""
        c = self.config
        if c.architecture in ("sutskever", "luong") and (c.depth > 1 or len(state_names(c)) > 1):
            raise ValueError(
                f"the decoder of architecture={c.architecture!r}, cell={c.cell!r}, depth={c.depth} starts with states "
                "that the encoder's outputs do not have: make its state by model.start_decoding(batch), or pass "
                "final= of model.read(...)"
            )
        keep = torch.ones_like(memory[..., 0], dtype=torch.bool) if keep is None else keep
        forward, backward = memory.chunk(2, -1) if c.bidirectional else (memory, memory[..., :0])
        if c.reverse_source:
            forward, backward = (t.flip(1) for t in (forward, backward))
            keep = keep.flip(1)
        return (torch.cat([last_real(forward, keep), last_real(backward.flip(1), keep.flip(1))], -1)[None],)

    def start_decoding(self, batch: Mapping[str, Any], capacity: int | None = None) -> EncoderDecoderState:
        memory, final = self.read(batch["input_ids"], batch.get("attention_mask"), batch.get("lengths"))
        return self.new_state(memory, batch.get("attention_mask"), capacity, final=final)

    def run_decoder(
        self,
        decoder_input_ids: Tensor | None,
        decoder_attention_mask: Tensor | None,
        memory: Tensor | None,
        memory_mask: Tensor | None,
        state: EncoderDecoderState | None = None,
    ) -> Tensor:
        assert self.decoder is not None and state is not None
        ids = self.check_decoder_inputs(decoder_input_ids, decoder_attention_mask, memory, state)
        new = ids.shape[1]
        keep = None if decoder_attention_mask is None else real_tokens(decoder_attention_mask[:, -new:])
        context = Context(memory=memory, memory_mask=padding_mask(memory_mask)).for_forward(new, keep=keep)
        x: Tensor = self.decoder(ids, keep, context, state[0])
        state.advance(new)
        x = F.dropout(x, self.config.dropout, self.training)
        return x if keep is None else x * keep[:, :, None]

    def set_checkpointing(self, enabled: bool = True) -> None:
        if enabled:
            raise ValueError("recurrent layers do not support gradient checkpointing: train with a smaller batch_size")


BAHDANAU = dict(architecture="bahdanau", cross_attention="additive", bidirectional=True)
LUONG = dict(architecture="luong", cross_attention="softmax", scale=1.0, cell="lstm", reverse_source=True)
NANO = dict(vocab_size=256, max_length=128, width=128, embedding_dim=None, encoder_width=None)

SIZES: dict[str, dict[str, Any]] = {
    "gru_seq2seq": dict(architecture="cho", vocab_size=15000, embedding_dim=100),
    "lstm_seq2seq": dict(cell="lstm", vocab_size=80000, depth=4, reverse_source=True),
    "gru_bahdanau": BAHDANAU | dict(embedding_dim=620, encoder_width=2000),
    "lstm_luong": LUONG | dict(vocab_size=50000, depth=4, dropout=0.2),
    "lstm_luong_input_feeding": LUONG | dict(vocab_size=50000, depth=4, dropout=0.2, input_feeding=True),
}
VARIANTS = SIZES | {
    f"{name}_nano": size | NANO | dict(depth=min(size.get("depth", 1), 2), dropout=0.0) for name, size in SIZES.items()
}

FAMILY = Family("rnn_seq2seq", RnnSeq2Seq, RnnSeq2SeqConfig, "text", VARIANTS)
