"""What a model has read of a text, so that the next prompt that begins with the same tokens is not read again."""

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from zoo.inference.optimized_model import Optimized
from zoo.inference.optimized_weights import SourceWeights
from zoo.models.base import Model
from zoo.nn.kv_cache import StackState


@dataclass(eq=False)
class CachedText:
    """The tokens of a state in their order. Those of an interrupted call may be more than the state has counted."""

    state: StackState
    weights: SourceWeights
    addresses: list[int]
    tokens: list[int] = field(default_factory=list)

    def is_of(self, model: Model) -> bool:
        """Whether the model has the weights that it had."""
        return not self.weights.changed() and self.addresses == addresses(model)

    def add(self, tokens: Sequence[int]) -> None:
        """The state is about to read further tokens; those that it was cropped to since count."""
        self.tokens = [*self.tokens[: self.state.length], *tokens]

    def crop(self, ids: Sequence[int]) -> bool:
        """Crop to the tokens that `ids` begins with, except its last one; False if nothing is left that can be used."""
        common = 0
        for known, token in zip(self.tokens[: self.state.length], ids[:-1], strict=False):
            if known != token:
                break
            common += 1
        if not self.state.can_crop(common):  # a sum over all tokens, or the last tokens of a window
            return 0 < common == len(self.tokens) == self.state.length
        self.state.crop(common)
        self.tokens = self.tokens[:common]
        return common > 0


class PromptCache:
    """Keys and values of the last text that `zoo.generate(..., cache=)` read, for one row without padding.

    The next prompt is read from the first token on that differs. Linear attention keeps sums over all tokens, from
    which none can be removed: it continues a text that begins with all of the last one, and reads others again, as
    every model does whose weights have changed. Attention to a window has dropped the tokens before it, and reads a
    prompt again that differs earlier than a few tokens before the end.
    """

    def __init__(self) -> None:
        self.texts: weakref.WeakKeyDictionary[Model, CachedText] = weakref.WeakKeyDictionary()

    def take(self, model: Model, ids: Tensor, capacity: int) -> CachedText:
        """A text whose state has read the first tokens of ids [1, N], as many as it can."""
        if isinstance(model, Optimized):
            model.check_weights()  # which a call does that begins a text
        text = self.texts.pop(model, None)
        if text is None or not text.is_of(model) or not text.crop(ids[0].tolist()):
            text = CachedText(model.new_state(1, capacity), SourceWeights(model), addresses(model))
        self.texts[model] = text
        return text


def addresses(model: Any) -> list[int]:
    """Where the tensors of a model are: `model.half()` changes that, and does not count as a write to a parameter."""
    return [tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())]
