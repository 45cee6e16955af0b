"""What changes the scores of the next token before it is chosen: n-grams, a least length, a caller's functions."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.inference.generation.sampling import require

if TYPE_CHECKING:
    from zoo.inference.generation.prompt import Prompt

LogitsProcessor = Callable[[Tensor, Tensor], Tensor]  # (tokens so far [rows, T], scores [rows, V]) -> scores [rows, V]


class LogitsProcessors:
    """The processors of one call, in the order of transformers. False if there are none.

    prompt: the tokens of each prompt [B, N], with padding on the left. num_padding: padding tokens of each [B].
    no_repeat_ngram_size: tokens that would repeat an n-gram of the row get -inf, padding aside (0: off).
    min_new_tokens: the tokens in `end_ids` get -inf before so many new ones. custom: those that a caller passes.
    own: those of the model's family, which come before them.
    A model may force its first new token and, at max_new_tokens, the last unless there are no end tokens
    (forced_bos_token_id and forced_eos_token_id of its config, as BART has them).
    """

    def __init__(
        self,
        prompt: "Prompt",
        fill: int,
        no_repeat_ngram_size: int,
        min_new_tokens: int,
        end_ids: tuple[int, ...],
        custom: LogitsProcessor | Sequence[LogitsProcessor],
        own: Sequence[LogitsProcessor] = (),
    ) -> None:
        for name, count in (("no_repeat_ngram_size", no_repeat_ngram_size), ("min_new_tokens", min_new_tokens)):
            require(isinstance(count, int) and count >= 0, name, count, "a whole number, 0 for none")
        require(
            min_new_tokens <= prompt.room, "min_new_tokens", min_new_tokens, f"at most max_new_tokens={prompt.room}"
        )
        # A LogitsProcessorList of transformers is a list that can be called: its processors are called one by one.
        given: Any = custom if isinstance(custom, list | tuple) else [custom]
        if odd := [one for one in given if not callable(one)]:
            raise ValueError(f"logits_processor has a {type(odd[0]).__name__}, expected a list of functions "
                             "(input_ids [rows, T], scores [rows, V]) -> scores")  # fmt: skip
        self.no_repeat_ngram_size, self.custom, self.own = no_repeat_ngram_size, tuple(given), tuple(own)
        size = prompt.model.config.part_of("decoder_input_ids").vocab_size
        end_ids = tuple(i for i in end_ids if i < size)  # of a config that was cut down
        self.min_new_tokens = min_new_tokens if end_ids else 0
        self.end_ids = torch.tensor(end_ids, dtype=torch.long, device=prompt.ids.device)
        config = prompt.model.config
        places = {0: "forced_bos_token_id"} | ({prompt.room - 1: "forced_eos_token_id"} if end_ids else {})
        forced = {step: getattr(config, name, None) for step, name in places.items()}
        self.forced: dict[int, int] = {step: token for step, token in forced.items() if token is not None}
        self.forced_names = [name for step, name in places.items() if step in self.forced]
        if self:
            self.prompt, self.num_padding = prompt.padded_left(fill)

    def __bool__(self) -> bool:
        return bool(self.no_repeat_ngram_size or self.min_new_tokens or self.forced or self.own or self.custom)

    def names(self) -> list[str]:
        """The options that are in use, and what the config of the model asks for."""
        found = [name for name in ("no_repeat_ngram_size", "min_new_tokens") if getattr(self, name)]
        found += [f"{name} of the model's config" for name in self.forced_names]
        found += [f"{name_of(processor)} of the model" for processor in self.own]
        return found + ["logits_processor"] * bool(self.custom)

    def __call__(self, new: Tensor, scores: Tensor) -> Tensor:
        """new: the tokens after the prompts so far [rows, T]; scores [rows, V], each prompt with equally many rows."""
        copies = len(scores) // len(self.prompt)
        ids = torch.cat([self.prompt.repeat_interleave(copies, 0), new], 1)
        scores = scores.float()
        if self.no_repeat_ngram_size:
            repeated = repeated_ngrams(ids, self.no_repeat_ngram_size, self.num_padding.repeat_interleave(copies))
            scores = scores.masked_fill(tokens_mask(ids, repeated, scores.shape[1]), -torch.inf)
        if new.shape[1] < self.min_new_tokens:
            scores = scores.index_fill(1, self.end_ids, -torch.inf)
        if (token := self.forced.get(new.shape[1])) is not None:
            scores = torch.full_like(scores, -torch.inf).index_fill(1, self.end_ids.new_tensor([token]), 0.0)
        for processor in (*self.own, *self.custom):
            result = processor(ids, scores)
            if not isinstance(result, Tensor) or result.shape != scores.shape:
                found = list(result.shape) if isinstance(result, Tensor) else type(result).__name__
                raise ValueError(f"the logits processor {name_of(processor)} returned {found}, expected scores "
                                 f"{list(scores.shape)}, as it was given")  # fmt: skip
            if result.isnan().any():
                raise ValueError(f"the logits processor {name_of(processor)} returned scores that are NaN")
            scores = result
        return scores

    def dead_end(self, row: int, length: int) -> ValueError:
        """The error for a row without a token that may follow."""
        return ValueError(f"{' and '.join(self.names())} left no token that may follow {length} new ones in row {row}: "
                          "each score is -inf or not finite; allow at least one, such as the end token")  # fmt: skip


def repeated_ngrams(ids: Tensor, size: int, num_padding: Tensor) -> Tensor:
    """Whether the first size - 1 tokens of each n-gram are the last ones of the row: ids [rows, T] -> [rows, T], at the
    place of the last token of the n-gram."""
    length = ids.shape[1]
    repeated = torch.zeros_like(ids, dtype=torch.bool)
    if length >= size:
        starts = torch.arange(length - size + 1, device=ids.device)
        same = ids.unfold(1, size, 1)[..., :-1] == ids[:, None, length - size + 1 :]
        repeated[:, size - 1 :] = same.all(-1) & (starts >= num_padding[:, None])
    return repeated


def tokens_mask(ids: Tensor, chosen: Tensor, vocabulary: int) -> Tensor:
    """The tokens ids[chosen] of each row as a mask [rows, V]."""
    counts = ids.new_zeros(len(ids), vocabulary).scatter_add_(1, ids, chosen.long())
    return counts > 0


def name_of(processor: Any) -> str:
    return getattr(processor, "__name__", type(processor).__name__)
