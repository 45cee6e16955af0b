"""Checked prompts, and the decoding sessions that continue them."""

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from zoo.inference.generation.logits_processors import LogitsProcessors
from zoo.inference.generation.one_token import one_token_step
from zoo.inference.generation.prompt_cache import CachedText, PromptCache
from zoo.inference.generation.prompt_products import products_of_prompts
from zoo.inference.generation.sampling import Sampling, require
from zoo.inference.generation.stopping import StoppingCriteria, StreamerAdapter
from zoo.inference.optimized_model import Optimized, to_float32
from zoo.models.base import Model
from zoo.models.bridge.model import Bridge
from zoo.models.encoder_decoder import EncoderDecoder, GenerationStart
from zoo.nn.kv_cache import EncoderDecoderState, StackState
from zoo.nn.padding import real_tokens


@dataclass(frozen=True)
class Prompt:
    """A prompt of a model: ids [B, N], and keep [B, N], False for padding (None if there is none).

    room: the maximum number of new tokens. copies: continuations per row; the prompt itself is read once. source: the
    inputs of an encoder; the ids are then the first ones of the decoder. cache: has what was read before, of one row
    without padding. images: the inputs of the encoder of a bridge, whose features are read among the ids.
    """

    model: Any
    ids: Tensor
    keep: Tensor | None
    room: int
    copies: int = 1
    source: Mapping[str, Tensor] | None = None
    cache: PromptCache | None = None
    images: Mapping[str, Tensor] | None = None

    @classmethod
    def checked(
        cls, model: Model, ids: Tensor, mask: Tensor | None, room: int, target: Model | None = None
    ) -> "Prompt":
        """Check a prompt; raises ValueError if it is invalid, or if the model cannot generate."""
        check_model(model, room, target)
        ids, keep = check_ids(model, ids, mask)
        check_length(model, int(ids.shape[1] if keep is None else keep.sum(1).max()), room)
        return cls(model, ids if keep is None else ids * keep, keep, room)

    @classmethod
    def of_source(
        cls,
        model: EncoderDecoder,
        source: Mapping[str, Any],
        start: GenerationStart,
        room: int,
        target: Model | None = None,
    ) -> "Prompt":
        """Check the inputs of an encoder and the first ids of the decoder; raises ValueError as `checked`."""
        check_model(model, room, target)
        source = dict(source)
        if "input_ids" in source:
            found, keep = check_ids(model, source["input_ids"], source.get("attention_mask"))
            source |= {"input_ids": found if keep is None else found * keep, "attention_mask": keep}
        ids, keep = check_ids(model, start.ids, start.mask, "decoder_input_ids")
        check_length(model, ids.shape[1], room)
        return cls(model, ids if keep is None else ids * keep, keep, room, source=source)

    def repeated(self, copies: int) -> "Prompt":
        if copies > 1 and self.cache is not None:
            raise ValueError("cache= has the tokens of one row: omit it for num_beams= or num_return_sequences=")
        return replace(self, copies=copies)

    def new_state(self) -> StackState:
        """An empty cache for the prompt and all new tokens; an encoder reads the source or the images here."""
        if isinstance(self.model, Bridge):
            return self.model.start_decoding(self.images or {}, len(self.ids), self.capacity)
        if self.source is None:
            state: StackState = self.model.new_state(len(self.ids), self.capacity)
            return state
        return self.model.start_decoding(self.source, self.capacity)

    def cached(self, cache: PromptCache | None) -> "Prompt":
        """This prompt with a cache. Raises ValueError unless it is one row without padding."""
        if cache is None:
            return self
        if not isinstance(cache, PromptCache):
            raise ValueError(f"cache: expected a PromptCache, given a {type(cache).__name__}")
        if self.source is not None:
            raise ValueError("cache= is for decoders alone: what an encoder reads has no common beginning; omit it")
        if len(self.ids) > 1 or self.keep is not None:
            given = "padding" if len(self.ids) == 1 else f"{len(self.ids)} rows"
            raise ValueError(f"cache= has the tokens of one row without padding, given {given}: omit one of the two")
        return replace(self, cache=cache)

    def cached_text(self) -> CachedText | None:
        """What the cache has of this prompt; None without a cache."""
        return None if self.cache is None else self.cache.take(self.model, self.ids, self.capacity, self.images)

    @property
    def capacity(self) -> int:
        """The number of tokens of a row at most."""
        return self.ids.shape[1] + self.room

    @property
    def rows(self) -> int:
        return len(self.ids) * self.copies

    def read(self) -> tuple["DecodingSession", Tensor]:
        """A session that has read the prompt, and the scores [rows, V] of the next token."""
        sizes = [self.ids.numel(), *(part.numel() for part in (self.source or {}).values() if part is not None)]
        with products_of_prompts(self.model, max(sizes)):
            session = DecodingSession(self)
            scores = session.read(self.ids[:, session.state.length :])
        if isinstance(self.model, Bridge):
            session.model = self.model.decoder
        if self.keep is None and self.room > 1:
            session.step = one_token_step(session.model, session.state)
        if self.copies > 1:
            session.repeat(self.copies)
            scores = scores.repeat_interleave(self.copies, 0)
        return session, scores

    def last_tokens(self, count: int) -> list[list[int]]:
        """Up to `count` last tokens of each row, without padding."""
        if self.keep is None:
            rows: list[list[int]] = self.ids[:, -count:].tolist()
            return rows
        return [row[keep][-count:].tolist() for row, keep in zip(self.ids, self.keep)]

    def padded_left(self, fill: int) -> tuple[Tensor, Tensor]:
        """(the tokens [B, N] with padding on the left, where it is `fill`; the number of padding tokens [B])."""
        if self.keep is None:
            return self.ids, self.ids.new_zeros(len(self.ids))
        order = self.keep.int().sort(dim=1, stable=True).indices
        return self.ids.masked_fill(~self.keep, fill).gather(1, order), (~self.keep).sum(1)

    def seen(self) -> Tensor:
        """The tokens in each prompt as a mask [rows, V]."""
        vocabulary = self.model.config.part_of("decoder_input_ids").vocab_size
        real = torch.ones_like(self.ids) if self.keep is None else self.keep.long()
        counts = self.ids.new_zeros(len(self.ids), vocabulary).scatter_add_(1, self.ids, real)
        return (counts > 0).repeat_interleave(self.copies, 0)


class DecodingSession:
    """A model with its cache, and the mask of the tokens so far that are not padding.

    most_probable: the tokens with the highest scores that were read last, [B] or [B, N]. step: what reads one token of
    each row, if there is a faster way than `model.decode`. reader: on a GPU, what reads all further tokens in place of
    the cache; see `zoo.inference.generation.graph_decoding`.
    """

    most_probable: Tensor

    def __init__(self, prompt: Prompt) -> None:
        self.model, batch = prompt.model, len(prompt.ids)
        self.is_cast = isinstance(prompt.model, Bridge) and isinstance(prompt.model, Optimized)
        self.step: Callable[[Tensor], Tensor] | None = None
        self.reader: Any = None
        self.text = prompt.cached_text()
        self.state = prompt.new_state() if self.text is None else self.text.state
        self.keep = None
        if prompt.keep is not None:
            self.keep = torch.cat([prompt.keep, prompt.keep.new_ones(batch, prompt.room)], 1)

    def read(self, ids: Tensor, every: bool = False) -> Tensor:
        """Read ids [B, N]; returns the scores after the last token [B, V], or with `every` after each [B, N, V].

        Raises ValueError for scores without a greatest one: no token could be chosen among them.
        """
        if self.text is not None:
            self.text.add(ids[0].tolist())
        if self.reader is not None:
            scores = self.reader(ids)
        elif self.step is not None and self.keep is None and ids.shape[1] == 1 and not every:
            scores = self.step(ids)
        else:
            keep = None if self.keep is None else self.keep[:, : self.state.length + ids.shape[1]]
            scores = self.model.decode(ids, self.state, keep, every=every)
        scores = to_float32(scores) if self.is_cast else scores
        best, self.most_probable = scores.max(-1)  # one pass for the check and for the greedy choice
        if not all(map(math.isfinite, best.flatten().tolist())):
            raise scores_error(self.model)
        return scores

    def repeat(self, copies: int) -> None:
        """Each row becomes `copies` rows."""
        index = torch.arange(len(self.most_probable), device=self.most_probable.device).repeat_interleave(copies)
        if isinstance(self.state, EncoderDecoderState):
            self.state.repeat(copies)
        else:
            self.state.reorder(index)
        self.most_probable = self.most_probable[index]
        self.keep = None if self.keep is None else self.keep[index]

    def reorder(self, index: Tensor) -> None:
        """Row i continues from the state of row index[i]."""
        (self.state if self.reader is None else self.reader).reorder(index)
        self.most_probable = self.most_probable[index]
        self.keep = None if self.keep is None else self.keep[index]


@dataclass(frozen=True)
class GenerationTask:
    """A prompt and how to continue it."""

    prompt: Prompt
    sampling: Sampling
    stopping: StoppingCriteria
    fill: int
    generator: torch.Generator | None
    stream: StreamerAdapter
    processors: LogitsProcessors
    output_scores: bool = False

    @property
    def alone(self) -> bool:
        """Whether no code of the caller runs between two tokens, which might change the model."""
        return self.stream.is_passive and not self.processors.custom


@dataclass(frozen=True)
class Generated:
    """New tokens [rows, new]; with output_scores the log-probability of each; with beams the scores of texts [rows]."""

    tokens: Tensor
    log_probs: Tensor | None = None
    sequences_scores: Tensor | None = None


def scores_error(model: Any) -> ValueError:
    """The error for scores without a greatest one."""
    return ValueError(
        f"the scores of the next token are not finite (NaN or infinite): the weights of the model are damaged, or too "
        f"great for its type ({str(model.dtype).removeprefix('torch.')}); try dtype=torch.float32"
    )


# --- Checks -----------------------------------------------------------------------------------------------------------


def check_model(model: Model, room: int, target: Model | None) -> None:
    """Raises ValueError for a model that cannot generate, or that cannot be a draft of the model `target`."""
    role = "model" if target is None else "draft"
    head = getattr(getattr(model, "config", None), "head", None)
    if head != "lm" or not hasattr(model, "decode"):
        raise ValueError(f"{role}: generation needs a decoder with head='lm', given a {type(model).__name__} with "
                         f"head={head!r}")  # fmt: skip
    if target is not None and isinstance(target, EncoderDecoder) != isinstance(model, EncoderDecoder):
        raise ValueError(f"the draft is a {type(model).__name__} and the model a {type(target).__name__}: both must "
                         "have an encoder, or neither")  # fmt: skip
    vocabulary, expected = (one and one.config.part_of("decoder_input_ids").vocab_size for one in (model, target))
    if target is not None and vocabulary != expected:
        raise ValueError(f"the draft has vocab_size={vocabulary}, but the model has vocab_size="
                         f"{expected}: a draft must share the model's tokenizer")  # fmt: skip
    require(isinstance(room, int) and room > 0, "max_new_tokens", room, "a whole number of at least 1")


def check_ids(model: Model, ids: Tensor, mask: Tensor | None, name: str = "input_ids") -> tuple[Tensor, Tensor | None]:
    """Token ids [B, N] on the device of the model, and their mask or None; raises ValueError for invalid ones."""
    for each, value in ((name, ids), ("attention_mask", mask)):
        if not isinstance(value, Tensor) and not (value is None and each == "attention_mask"):
            also = ", a text, a list of texts or a conversation" * (each == "input_ids")
            raise ValueError(f"{each}: expected a tensor [B, N]{also}, given a {type(value).__name__}: "
                             f"torch.tensor makes one of numbers")  # fmt: skip
    if ids.ndim != 2 or ids.is_floating_point() or ids.dtype == torch.bool:
        raise ValueError(f"expected integer token ids [B, N], given shape {tuple(ids.shape)} and dtype {ids.dtype}")
    if ids.numel() == 0:
        raise ValueError(f"an empty prompt of shape {tuple(ids.shape)}: expected at least one token, such as bos")
    ids = ids.to(model.device).long()
    keep = None if mask is None else check_mask(mask, ids)
    check_token_ids(ids, keep, model.config.part_of(name).vocab_size)
    return ids, keep


def check_mask(mask: Tensor, ids: Tensor) -> Tensor | None:
    """A boolean mask [B, N], or None if there is no padding."""
    if mask.shape != ids.shape:
        raise ValueError(f"attention_mask has shape {tuple(mask.shape)}, expected {tuple(ids.shape)} like input_ids")
    if mask.is_floating_point():
        raise ValueError(f"attention_mask is {mask.dtype}; expected integers or bools, 1 for real tokens")
    keep = real_tokens(mask.to(ids.device))
    if keep is None:
        return None
    if len(empty := (~keep.any(1)).nonzero()):
        raise ValueError(f"row {int(empty[0])} has only padding: expected at least one token, such as bos")
    return keep


def check_token_ids(ids: Tensor, keep: Tensor | None, vocabulary: int) -> None:
    """Raises ValueError for an id outside of the vocabulary."""
    invalid = (ids < 0) | (ids >= vocabulary)
    invalid = invalid if keep is None else invalid & keep
    if len(places := invalid.nonzero()):
        row, column = places[0].tolist()
        raise ValueError(f"token {int(ids[row, column])} in row {row}, position {column} is out of range: expected 0 "
                         f"to {vocabulary - 1}; use the tokenizer of this model")  # fmt: skip


def check_length(model: Any, length: int, room: int) -> None:
    """A table of positions has a maximum length; with other positions, longer texts only lose quality."""
    limit = model.config.part_of("decoder_input_ids").max_length
    if length + room <= limit:
        return
    message = f"{length} tokens of the prompt plus max_new_tokens={room} exceed max_length={limit} of the model"
    if getattr(model.tokens, "positions", None) is None:
        warnings.warn(f"{message}: quality may be worse than for shorter texts", stacklevel=4)
    elif length >= limit:
        raise ValueError(f"{message}: shorten the prompt to {limit - 1} tokens or less")
    else:
        raise ValueError(f"{message}: set max_new_tokens={limit - length} or less, or shorten the prompt")
