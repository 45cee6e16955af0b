"""What a model has read of a text, so that the next prompt that begins with the same tokens is not read again."""

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from zoo.inference.generation.prompt_images import ImagesOfPrompt
from zoo.inference.optimized_model import Optimized
from zoo.inference.optimized_weights import SourceWeights
from zoo.models.base import Model
from zoo.models.bridge.model import Bridge
from zoo.nn.kv_cache import StackState


@dataclass(eq=False)
class CachedText:
    """The tokens of a state in their order. Those of an interrupted call may be more than the state has counted.

    A token of an image is (the digest of the image, which one of its tokens). features: of the images of the text, by
    their digests. pending: the tokens of the prompt that the state has not read yet.
    """

    state: StackState
    weights: SourceWeights
    addresses: list[int]
    tokens: list[Any] = field(default_factory=list)
    features: dict[bytes, Any] = field(default_factory=dict)
    pending: list[Any] = field(default_factory=list)

    @property
    def image_tokens(self) -> int:
        """How many of the tokens are of images."""
        return sum(isinstance(token, tuple) for token in self.tokens)

    def is_of(self, model: Model) -> bool:
        """Whether the model has the weights that it had."""
        return not self.weights.changed() and self.addresses == addresses(model)

    def add(self, tokens: Sequence[int]) -> None:
        """The state is about to read further tokens; those that it was cropped to since count."""
        new = self.pending[: len(tokens)] or tokens
        self.pending = self.pending[len(tokens) :]
        self.tokens = [*self.tokens[: self.state.length], *new]

    def crop(self, ids: Sequence[Any]) -> bool:
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

    The images of a prompt belong to its tokens: another image at the same place is another text. An image that the last
    text had is not encoded again, also where its tokens are read again. A model with gated cross-attention reads a text
    from its start if there are new images.
    """

    def __init__(self) -> None:
        self.texts: weakref.WeakKeyDictionary[Model, CachedText] = weakref.WeakKeyDictionary()

    def take(self, model: Any, ids: Tensor, capacity: int, images: Mapping[str, Tensor] | None = None) -> CachedText:
        """A text whose state has read the first tokens of ids [1, N], as many as it can.

        images: the inputs of the encoder of a bridge. The state gets the features of those that are to be read.
        """
        if isinstance(model, Optimized):
            model.check_weights()  # which a call does that begins a text
        text = self.texts.pop(model, None)
        text = text if text is not None and text.is_of(model) else None
        found = None
        if isinstance(model, Bridge):
            found = ImagesOfPrompt(model, ids, images or {}, text.features if text else {})
        keys: list[Any] = ids[0].tolist() if found is None else found.keys()
        images_before = 0 if text is None else text.image_tokens
        if (
            text is None
            or not text.crop(keys)
            or not (found is None or found.continues(text.state, images_before - text.image_tokens))
        ):
            text = CachedText(model.new_state(1, capacity), SourceWeights(model), addresses(model))
        text.pending = keys[text.state.length :]
        text.features = {}
        if found is not None:
            text.features = found.features
            text.state.features = found.after(text.state.length)
        self.texts[model] = text
        return text


def addresses(model: Any) -> list[int]:
    """Where the tensors of a model are: `model.half()` changes that, and does not count as a write to a parameter."""
    return [tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())]
