"""Base classes of encoder-decoder models: inputs, the encoder's states, and decoding with cross-attention."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from zoo.models.base import Model
from zoo.models.config import keeps_attention
from zoo.models.text import TextConfig, check_shapes, last_real
from zoo.models.tracing import trace_error
from zoo.nn.attention import Attention
from zoo.nn.block_config import BlockConfig
from zoo.nn.context import Context
from zoo.nn.core import Core
from zoo.nn.frontends.text import count_positions
from zoo.nn.heads import LMHead
from zoo.nn.kv_cache import EncoderDecoderState, check_state
from zoo.nn.lengths import AnyLengths
from zoo.nn.masks import CAUSAL, NO_MASK, PaddingMask
from zoo.nn.padding import known_padding, real_tokens
from zoo.nn.stack import Stack

SIDES = ("encoder", "decoder")
ENCODER_INPUTS = ("input_ids", "attention_mask", "lengths")
# Fields that have one value for both sides, and may have another for one of them.
BY_SIDE = ("depth", "heads", "mlp_dim", "attention", "mixer")


@dataclass(frozen=True, kw_only=True)
class EncoderDecoderConfig(TextConfig):
    """Base config of encoder-decoder models.

    depth, heads, mlp_dim, attention and mixer are those of both sides; encoder_attention and the like, if not None,
    those of one. An override may name a side with a dot: `replace(**{"decoder.attention": "performer"})`.
    decoder_depth=0: the encoder alone. cross_attention: the kind of attention to the encoder's states.
    max_length: of the position tables, or the longest texts that the model was trained on.
    tie_word_embeddings: the LM head uses the decoder's word embeddings. decoder_start_token_id: the first token that
    the decoder reads.
    """

    head: str | None = "lm"
    decoder_depth: int | None = None
    decoder_heads: int | None = None
    decoder_mlp_dim: int | None = None
    encoder_attention: Any = None
    decoder_attention: Any = None
    cross_attention: Any = "softmax"
    encoder_mixer: Any = None
    decoder_mixer: Any = None
    tie_word_embeddings: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = None
    decoder_start_token_id: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.allow_heads("lm", None)
        if self.decoder_depth == 0 and self.head is not None:
            raise ValueError(f"decoder_depth=0 with head={self.head!r}: the encoder alone has head=None")

    def side(self, name: str) -> dict[str, Any]:
        """The fields of `BY_SIDE` for one side, "encoder" or "decoder"."""
        own = {field: getattr(self, f"{name}_{field}", None) for field in BY_SIDE}
        return {field: getattr(self, field) if value is None else value for field, value in own.items()}

    def uses_attention(self, name: str = "attention") -> bool:
        if name == "cross_attention":
            return True  # no mixer replaces it
        sides = [side for side in SIDES if name in (f"{side}_attention", f"{side}.attention")]
        sides = sides or [side for side in SIDES if getattr(self, f"{side}_attention") is None]
        return any(keeps_attention(self.side(side)["mixer"]) for side in sides)

    def replace(self, **overrides: Any) -> Self:
        return super().replace(**with_sides(overrides))

    @classmethod
    def check_names(cls, values: Mapping[str, Any]) -> None:
        super().check_names(with_sides(values))


def with_sides(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides with `decoder.attention` as the field `decoder_attention`; `encoder.depth` is `depth`."""
    result: dict[str, Any] = {}
    for name, value in overrides.items():
        side, dot, field = name.partition(".")
        if dot and side in SIDES:
            name = field if side == "encoder" and field in BY_SIDE[:3] else f"{side}_{field}"
        if name in result:
            raise ValueError(f"{name}= is given twice")
        result[name] = value
    return result


@dataclass(frozen=True)
class GenerationStart:
    """The first tokens of the decoder [B, T], and logits processors (tokens so far, scores) -> scores of the family.

    mask [B, T]: 0 for padding among these tokens; None if there is none.
    """

    ids: Tensor
    processors: Sequence[Callable[[Tensor, Tensor], Tensor]] = ()
    mask: Tensor | None = None


class Side(nn.Module):
    """The encoder or the decoder: the front end `tokens`, and the stack `blocks`."""

    def __init__(self, tokens: nn.Module, blocks: Stack) -> None:
        super().__init__()
        self.tokens, self.blocks = tokens, blocks


class EncoderDecoder(Model):
    """Base class of encoder-decoder models of texts: forward(input_ids [B, N], attention_mask [B, N],
    decoder_input_ids [B, T], decoder_attention_mask [B, T]) -> logits of the next token of the decoder [B, T, V].

    The masks are 1 for real tokens; the encoder does not compute padding, and nothing attends to it. `encode` returns
    the encoder's states. `zoo.generate` calls `new_state` with these, and then `decode`. Families implement
    `make_side`, and where they differ `encoder_context`, `decoder_context` and `make_head`.
    """

    inputs: tuple[str, ...] = (
        "input_ids", "attention_mask", "decoder_input_ids", "decoder_attention_mask", "lengths",
    )  # fmt: skip
    generation_options: ClassVar[tuple[str, ...]] = ()  # what `zoo.generate` takes for this family alone
    decoder_prefix: ClassVar[str] = "decoder_"  # what the names of the decoder's inputs begin with
    encoder: Side
    decoder: Side | None

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.encoder = self.make_side("encoder")
        self.decoder = self.make_side("decoder") if config.side("decoder")["depth"] else None
        self.share_embeddings()
        self.head = self.make_head()
        if self.decoder is None:
            self.inputs = ENCODER_INPUTS

    def make_side(self, name: str) -> Side:
        """The "encoder" or the "decoder"."""
        raise NotImplementedError

    def make_blocks(
        self, name: str, *, final_norm: bool | None = None, memory_width: int | None = None, **options: Any
    ) -> Stack:
        """The stack of one side; memory_width: of the encoder's states, if the decoder has another width. options:
        further fields of its `BlockConfig`."""
        own = self.config.side(name)
        causal = name == "decoder"
        depth = own.pop("depth")
        block = BlockConfig.of(self.config, causal=causal, **own | options)
        cross = self.config.cross_attention if causal else None
        blocks = block.stack(depth, cross=cross, memory_width=memory_width, final_norm=final_norm)
        for attention in [block.cross for block in blocks if block.cross is not None]:
            check_cross_attention(attention.core)  # type: ignore[arg-type]
        return blocks

    def share_embeddings(self) -> None:
        """Both sides have the same word embeddings."""
        if self.decoder is not None:
            self.decoder.tokens.word.weight = self.encoder.tokens.word.weight  # type: ignore[union-attr]

    def make_head(self) -> nn.Module | None:
        c = self.config
        if c.head is None or self.decoder is None:
            return None
        return LMHead(c.width, c.vocab_size, self.tokens.word if c.tie_word_embeddings else None)

    @property
    def tokens(self) -> Any:
        """The front end of the decoder, whose vocabulary is that of the head."""
        return self.encoder.tokens if self.decoder is None else self.decoder.tokens

    def source_modules(self) -> set[nn.Module]:
        """The modules that compute all tokens of the source at once, also while the decoder reads one token at a time:
        the encoder, and the keys and values of cross-attention."""
        crosses = [] if self.decoder is None else [getattr(block, "cross", None) for block in self.decoder.modules()]
        keys_and_values = [(cross.k, cross.v) for cross in crosses if isinstance(cross, Attention)]
        return {*self.encoder.modules(), *chain.from_iterable(keys_and_values)}

    def encoder_context(self, positions: Tensor) -> Context:
        """Masks and biases of the encoder for tokens at `positions` [N] or [B, N]."""
        return Context()

    def decoder_context(self, positions: Tensor) -> Context:
        """Masks and biases of the decoder for tokens at `positions` [T] or [B, T]."""
        return Context(mask=CAUSAL)

    def encode(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        lengths: AnyLengths | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        *,
        layers: Sequence[int] | None = None,
    ) -> Any:
        """The encoder's states [B, N, D] after the final norm, exact zeros at padding; see `Model.encode`.

        The decoder's inputs may be among the arguments, so that `encode` takes a batch of `forward`; they change
        nothing.
        """
        attention_mask, lengths = self.source_mask(input_ids, attention_mask, lengths)
        positions = count_positions(attention_mask, input_ids.shape[1], 0, input_ids.device)
        return self.encoder.blocks(
            self.encoder.tokens(input_ids, positions),
            self.encoder_context(positions),
            keep=attention_mask,
            lengths=lengths,
            layers=layers,
            drop_padding=self.drop_padding,
        )

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        lengths: AnyLengths | None = None,
        **unknown: Any,
    ) -> Any:
        if type(unknown) is not dict:  # torch.fx
            raise trace_error(self)
        if unknown or input_ids is None:
            input_ids = self.check_inputs(unknown, input_ids)
        if self.decoder is None:
            if decoder_input_ids is not None or decoder_attention_mask is not None:
                raise self.input_error({"decoder_input_ids": decoder_input_ids})
            return self.encode(input_ids, attention_mask, lengths)
        x = self.hidden_states(input_ids, attention_mask, decoder_input_ids, decoder_attention_mask, lengths)
        return x if self.head is None else self.head(x)

    def hidden_states(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        lengths: AnyLengths | None = None,
    ) -> Any:
        """The decoder's hidden states [B, T, D] for the inputs of `forward`: what the head reads."""
        attention_mask, lengths = self.source_mask(input_ids, attention_mask, lengths)
        memory = self.encode(input_ids, attention_mask, lengths)
        return self.run_decoder(decoder_input_ids, decoder_attention_mask, memory, attention_mask)

    def source_mask(
        self, input_ids: Tensor, attention_mask: Tensor | None, lengths: AnyLengths | None
    ) -> tuple[Tensor | None, AnyLengths | None]:
        """(attention_mask, lengths) of source texts [B, N], checked; see `Model.check_lengths`."""
        check_shapes(input_ids, attention_mask, 0)
        return self.check_lengths(lengths, attention_mask, input_ids) if lengths is not None else (attention_mask, None)

    def check_decoder_inputs(
        self,
        decoder_input_ids: Tensor | None,
        decoder_attention_mask: Tensor | None,
        memory: Tensor | None,
        state: EncoderDecoderState | None,
    ) -> Tensor:
        """The decoder's ids [B, T]; raises ValueError unless they fit their mask and the texts of the encoder."""
        name = f"{self.decoder_prefix}input_ids"
        if decoder_input_ids is None:
            raise ValueError(
                f"{type(self).__name__} takes {', '.join(self.inputs)}; {name!r} is missing: in training "
                "the target tokens, shifted right behind decoder_start_token_id; zoo.generate writes new ones"
            )
        start = 0 if state is None else state.length
        check_shapes(decoder_input_ids, decoder_attention_mask, start, self.decoder_prefix)
        rows = decoder_input_ids.shape[0] // (1 if state is None else state.copies)
        if memory is not None and memory.shape[0] != rows:
            raise ValueError(
                f"{name} have {len(decoder_input_ids)} rows, but the encoder read {len(memory)}: expected one row for "
                "each of these"
            )
        return decoder_input_ids

    def run_decoder(
        self,
        decoder_input_ids: Tensor | None,
        decoder_attention_mask: Tensor | None,
        memory: Tensor | None,
        memory_mask: Tensor | None,
        state: EncoderDecoderState | None = None,
    ) -> Any:
        """Hidden states of the decoder [B, T, D] for tokens that attend to the encoder's states `memory` [B, N, D]."""
        assert self.decoder is not None
        decoder_input_ids = self.check_decoder_inputs(decoder_input_ids, decoder_attention_mask, memory, state)
        start = 0 if state is None else state.length
        positions = count_positions(decoder_attention_mask, decoder_input_ids.shape[1], start, decoder_input_ids.device)
        context = self.decoder_context(positions)
        context = Context(context.mask, context.bias, context.rotary, memory, padding_mask(memory_mask))
        return self.decoder.blocks(
            self.decoder.tokens(decoder_input_ids, positions), context, keep=decoder_attention_mask, state=state
        )

    @staticmethod
    def never_generated(config: Any) -> tuple[int, ...]:
        """The tokens that `zoo.generate` never writes with a model of this config."""
        return ()

    def source_tokenizer(self, tokenizer: Any, options: dict[str, Any]) -> Any:
        """The tokenizer of the source texts of `zoo.generate`, None for `model.preprocess`; `tokenizer`: the caller's.

        A family takes the options that are of its tokenizer out of `options`.
        """
        return tokenizer

    def generation_start(
        self, batch: Mapping[str, Any], decoder_input_ids: Tensor | None = None, **options: Any
    ) -> tuple[dict[str, Any], GenerationStart]:
        """What `zoo.generate` begins with: (the inputs of `encode`, the first tokens of the decoder).

        batch: input_ids and attention_mask as they were passed. options: of a family. Raises ValueError without a start
        token, TypeError for an option that the family does not have.
        """
        if options:
            known = "input_ids, attention_mask and decoder_input_ids"
            raise TypeError(f"generate: {type(self).__name__} takes {known}; it has no option {next(iter(options))!r}")
        if batch["input_ids"] is None:
            raise self.input_error({})
        ids, start = decoder_input_ids, self.config.decoder_start_token_id
        if ids is None and start is None:
            raise ValueError(
                "the config has no decoder_start_token_id: pass decoder_input_ids=, the first tokens of the decoder "
                "[B, T]; for mBART the code of the language"
            )
        if ids is None:
            ids = torch.full((len(batch["input_ids"]), 1), start)
        return dict(batch), GenerationStart(ids)

    def start_decoding(self, batch: Mapping[str, Any], capacity: int) -> EncoderDecoderState:
        """Read the inputs of `encode`: a cache for decoding up to `capacity` tokens."""
        return self.new_state(self.encode(**batch), batch.get("attention_mask"), capacity)

    def new_state(
        self, memory: Tensor, memory_mask: Tensor | None = None, capacity: int | None = None
    ) -> EncoderDecoderState:
        """An empty cache for decoding texts that attend to the encoder's states `memory` [B, N, D].

        memory_mask [B, N]: 1 for real tokens. capacity: the initial capacity in tokens.
        """
        assert self.decoder is not None
        like = self.tokens.word.weight
        layers = self.decoder.blocks.new_state(len(memory), capacity or 64, like)
        memory = memory.to(like.dtype)  # an optimized encoder returns float32
        return EncoderDecoderState(layers, memory, None if memory_mask is None else real_tokens(memory_mask))

    def decode(
        self,
        input_ids: Tensor,
        state: EncoderDecoderState,
        attention_mask: Tensor | None = None,
        *,
        every: bool = False,
    ) -> Tensor:
        """Logits of the token after the last real one of each row [B, V]; with `every`, after each token [B, T, V].

        The decoder's ids [B, T] continue the tokens of `state`; attention_mask [B, M] covers all of its tokens so far.
        """
        assert self.head is not None
        state = check_state(state, EncoderDecoderState)
        x = self.run_decoder(input_ids, attention_mask, state.memory, state.memory_mask, state)
        return self.head(x if every else last_real(x, attention_mask))


def check_cross_attention(core: Core) -> None:
    """Raise ValueError for a kind whose pattern compares positions: those of the two sides have no common order."""
    if core.pattern != NO_MASK:
        raise ValueError(
            f"cross_attention={getattr(core, 'kind', type(core).__name__)!r}: its pattern ({core.pattern}) is of "
            "distances within one text; use a kind without a pattern, such as softmax, additive or linear"
        )


def padding_mask(mask: Tensor | None) -> PaddingMask | None:
    """The mask of the encoder's states for cross-attention; see `known_padding`."""
    keep = known_padding(mask)
    return None if keep is None else PaddingMask(keep)
