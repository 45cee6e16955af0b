"""The images of a prompt beside what a `PromptCache` has of the last one."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from zoo.models.bridge.cross import CrossFeatures
from zoo.models.bridge.items import join_features
from zoo.nn.kv_cache import StackState


class ImagesOfPrompt:
    """The images (or audio clips) of one row of ids [1, N] of a bridge.

    batch: the inputs of its encoder. known: the features of images by their digests; others are encoded here.
    features: those of all images of the prompt, by their digests.
    """

    def __init__(self, model: Any, ids: Tensor, batch: Mapping[str, Tensor], known: Mapping[bytes, Any]) -> None:
        self.model, self.ids, self.items = model, ids, model.items(batch)
        self.features: dict[bytes, Any] = {}
        for item in self.items:
            if item.digest not in self.features:
                found = known.get(item.digest)
                self.features[item.digest] = model.features(**item.inputs) if found is None else found

    @property
    def places(self) -> list[int]:
        """Where the tokens of the images are."""
        found: list[int] = (self.ids[0] == self.model.config.feature_token_id).nonzero()[:, 0].tolist()
        return found

    def tokens(self) -> list[tuple[bytes, int]]:
        """The tokens of all images: (digest, number within the image); by cross-attention each has one."""
        sizes = {digest: 1 if isinstance(x, CrossFeatures) else len(x) for digest, x in self.features.items()}
        return [(item.digest, number) for item in self.items for number in range(sizes[item.digest])]

    def keys(self) -> list[Any]:
        """The tokens of the prompt, of images those of `tokens`."""
        keys: list[Any] = self.ids[0].tolist()
        tokens, places = self.tokens(), self.places
        for place, token in zip(places, tokens):
            keys[place] = token
        return keys

    def continues(self, state: StackState, dropped: int) -> bool:
        """Whether the state can read what comes after it. dropped: how many tokens of images it was cropped by.

        By cross-attention, and in Gemma 3, it has to have the same images. With more or fewer images than places it
        cannot: at the start of a text the model refuses them.
        """
        places = self.places
        same = not dropped and all(place < state.length for place in places)
        return len(places) == len(self.tokens()) and (same or not self.model.images_at_start)

    def after(self, length: int) -> Any:
        """The features for the state that has read `length` tokens; None if it has those of all images."""
        whole = [self.features[item.digest] for item in self.items]
        if not whole:
            return None
        if self.model.gated_cross is not None:
            return None if length else join_features(whole)
        features = join_features(whole)[sum(place < length for place in self.places) :]
        return features if len(features) else None
