"""Bridges: an encoder of images or audio joined to a decoder of texts.

By a projector (LLaVA, Liu et al. 2023): the features of the encoder take the places of image tokens among the embedded
tokens, and the decoder reads them like words. `zoo.bridge` makes such a model of any two towers.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zoo.models.base import Model
from zoo.models.bridge.config import BridgeConfig
from zoo.models.bridge.connectors import make_connector
from zoo.models.bridge.cross import (
    GatedCrossBlocks,
    cross_inputs,
    cross_of_state,
    example_without_markers,
    new_cross_state,
    read_images,
)
from zoo.models.bridge.features import check_places, put_features, real_features
from zoo.models.bridge.items import Item, split_items
from zoo.models.eval_mode import eval_mode
from zoo.models.family import Family
from zoo.models.llama.model import VARIANTS as LLAMA
from zoo.models.llama.model import LlamaConfig
from zoo.models.text import TextDecoder
from zoo.models.tower_config import TOWERS, Part
from zoo.models.towers import TowersModel, build_tower
from zoo.models.tracing import trace_error
from zoo.models.vit.model import VARIANTS as VIT
from zoo.models.vit.model import ViTConfig
from zoo.nn.kv_cache import StackState
from zoo.nn.lengths import AnyLengths
from zoo.nn.masks import Mask
from zoo.preprocessing.bridge import BridgeProcessor
from zoo.preprocessing.modality import MODALITIES


class Bridge(TowersModel):
    """forward(input_ids [B, N], attention_mask, pixel_values [I, C, H, W]) -> logits of the next token [B, N, V].

    The images of all rows are one batch, in the order of the image tokens; a row may have any number of them, or none.
    The ids have one image token (`config.feature_token_id`) for each feature of an image, as `model.preprocess` writes
    them. An audio tower takes its own inputs instead of pixel_values. Attributes: `image` or `audio`, the encoder;
    `connector`; `text`, the decoder.
    """

    connector: nn.Module
    text: Any
    processor_class: ClassVar[type[BridgeProcessor]] = BridgeProcessor
    images_at_start: bool = False  # whether all images of a text have to be read with its first tokens
    places_checked: bool = False  # whether those of a batch on a GPU were

    def __init__(self, config: BridgeConfig, towers: Mapping[str, Model] | None = None) -> None:
        """towers: existing models to use, with the configs in `config`; others are created."""
        super().__init__(config)
        for name in TOWERS:
            part = config.towers.get(name)
            setattr(self, name, part and ((towers or {}).get(name) or build_tower(name, part)))
        if not isinstance(self.text, TextDecoder):
            raise ValueError(
                f"the text tower is a {type(self.text).__name__}, expected a decoder such as llama or gpt2"
            )
        self.connector = self.make_connector()
        self.gated_cross = self.make_cross() if config.by == "cross" else None
        self.images_at_start = self.images_at_start or self.gated_cross is not None
        documents = ["document_ids"] if self.gated_cross is None else []
        self.inputs = ("input_ids", "attention_mask", *documents, "lengths", *self.encoder_names())
        own = (MODALITIES[config.encoder].argument, *self.processor_class.image_options)
        self.generation_options = ("text", *own, *self.encoder_names())

    def make_connector(self) -> nn.Module:
        """What turns features of the encoder into tokens of the decoder."""
        c = self.config
        width = c.encoder_part.config.width * len(c.feature_layers)
        return make_connector(c, width, self.text.config.width)

    def make_cross(self) -> GatedCrossBlocks:
        """Gated cross-attention between the blocks of the decoder, to what the connector makes of the features."""
        c = self.config
        return GatedCrossBlocks(c, self.text, c.encoder_part.config.width * len(c.feature_layers))

    @property
    def encoder(self) -> Any:
        """The encoder: the attribute `image` or `audio`."""
        return self.tower(self.config.encoder)

    @property
    def num_features(self) -> int:
        """Width of the hidden states of the text tower."""
        width: int = self.text.num_features
        return width

    @property
    def tokens(self) -> Any:
        """The front end of the text tower."""
        return self.text.tokens

    def default_preprocess(self) -> Any:
        """The processors of the towers; the text tower's needs files, so that a newly created model has none."""
        encoder, text = self.encoder, self.text.preprocess
        part = encoder.preprocess or self.encoder_preprocess()
        return self.processor_class.of_model(self.config, **{self.config.encoder: part, "text": text})

    def encoder_preprocess(self) -> Any:
        """The processor of a newly created encoder."""
        return self.encoder.default_preprocess()

    def make_head(self) -> None:
        return None

    def reset_head(self, num_classes: int, seed: int = 0) -> None:
        raise ValueError(self.config.no_classifier)

    # --- features -------------------------------------------------------------------------------------------------

    def encoder_features(self, **batch: Any) -> tuple[Tensor, Tensor | None]:
        """(the encoder's features [I, T, W] that the connector reads; how many of each are real [I], None for all).

        batch: inputs of the encoder, under its own names.
        """
        c, tower = self.config, self.encoder
        layers = [layer for layer in c.feature_layers if layer != -1]
        found = tower.encode(**batch, layers=layers) if layers else (tower.encode(**batch), [])
        outputs = iter(found[1])
        parts = [found[0] if layer == -1 else next(outputs) for layer in c.feature_layers]
        x = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
        counts = None
        if (mask := batch.get("attention_mask")) is not None:
            counts = tower.frames(mask.sum(1)) if hasattr(tower, "frames") else mask.sum(1)
        return (x[:, prefix_tokens(tower) :] if c.drop_prefix else x), counts

    def features(self, image_attention_mask: Tensor | None = None, **batch: Any) -> Any:
        """What takes the places of the image tokens [F, D]: the features of all images, one after the other. By
        cross-attention: `CrossFeatures`.

        batch: inputs of the encoder, under their names among the inputs of this model. image_attention_mask [B, N, I]:
        which images each token sees, by cross-attention.
        """
        own = {theirs: name for name, theirs in self.tower_inputs(self.config.encoder).items()}
        given = {own[name]: value for name, value in batch.items()}
        if self.gated_cross is not None:
            return read_images(self, given, image_attention_mask)
        x, counts = self.encoder_features(**given)
        if self.config.by == "resampler":
            return self.connector(x, None if counts is None else real_features(x, counts)).flatten(0, 1)
        x = self.connector(x)
        if counts is None:
            return x.flatten(0, 1)
        return x[real_features(x, counts)]

    def embed_words(self, input_ids: Tensor, features: Tensor | None) -> Tensor | None:
        """The embedded tokens [B, N, D] with features [F, D] in the places of the image tokens; None without features.

        Raises ValueError unless there are as many image tokens as features.
        """
        where, encoder = input_ids == self.config.feature_token_id, self.config.encoder
        token = f"{self.config.feature_token_id} ({encoder}_token_id)"
        check_places(where, features, token, MODALITIES[encoder].plural, trust=self.places_checked)
        self.places_checked = self.places_checked or where.is_cuda
        return None if features is None else put_features(self.text.tokens.embed_words(input_ids), where, features)

    def complete_example(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The batch of `example_batch` with image tokens before each text, one image for each."""
        if self.gated_cross is not None and "pixel_values" in batch:
            return example_without_markers(batch)
        ids, token = batch["input_ids"], self.config.feature_token_id
        count = self.config.tokens_per_item or 0
        if self.device.type != "meta":
            count = self.count_features(batch) // len(ids)
        places = ids.new_full((len(ids), count), token)
        other = (token + 1) % self.text.config.vocab_size
        return batch | {"input_ids": torch.cat([places, ids.masked_fill(ids == token, other)], 1)}

    def count_features(self, batch: Mapping[str, Any]) -> int:
        """F, the number of features of all images of a batch."""
        with eval_mode(self), torch.no_grad():
            placed = {name: x.to(self.device) for name, x in self.encoder_inputs(batch).items()}
            placed = {name: x.to(self.dtype) if x.is_floating_point() else x for name, x in placed.items()}
            return len(self.features(**placed))

    def encoder_inputs(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs of the encoder among those of a batch."""
        return {name: batch[name] for name in self.encoder_names() if batch.get(name) is not None}

    def items(self, batch: Mapping[str, Tensor]) -> list[Item]:
        """The images or clips of one text apart, from the inputs of the encoder. Raises ValueError for inputs that
        belong to the tokens of one prompt."""
        record = MODALITIES[self.config.encoder]
        known = (*record.main_inputs, record.inputs.get("attention_mask"))
        if other := [name for name in batch if name not in known]:
            raise ValueError(f"{other[0]} belongs to the tokens of one prompt, and cache= continues another one: omit "
                             f"{other[0]}= or cache=")  # fmt: skip
        return [Item.of(inputs) for inputs in split_items(batch)] if batch else []

    def encoder_names(self) -> list[str]:
        """The names of the inputs that are not of the text tower."""
        more = [] if self.gated_cross is None else ["image_attention_mask"]
        return [*self.tower_inputs(self.config.encoder).values(), *more]

    def words_and_mask(
        self, input_ids: Tensor, attention_mask: Tensor | None, features: Any
    ) -> tuple[Tensor | None, Mask | None]:
        """(see `embed_words`; the mask of the decoder, None for that of its family, which hides later tokens).

        features: what `features` returns for the batch, or None.
        """
        return self.embed_words(input_ids, features), None

    # --- forward --------------------------------------------------------------------------------------------------

    def encode(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        document_ids: Tensor | None = None,
        lengths: AnyLengths | None = None,
        *,
        layers: Sequence[int] | None = None,
        **encoder: Any,
    ) -> Any:
        """Hidden states of the text tower [B, N, D]; `layers=`: of its blocks, see `Model.encode`."""
        given = self.encoder_inputs(encoder)
        features = self.features(**given) if given else None
        if self.gated_cross is not None:
            cross, _ = cross_inputs(self, input_ids, attention_mask, features)
            return self.text.encode(input_ids, attention_mask, lengths=lengths, layers=layers, cross=cross)
        words, mask = self.words_and_mask(input_ids, attention_mask, features)
        return self.text.encode(
            input_ids,
            attention_mask,
            document_ids=document_ids,
            lengths=lengths,
            layers=layers,
            words=words,
            mask=mask,
        )

    def forward(self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, **batch: Any) -> Tensor:
        if type(batch) is not dict:
            raise trace_error(self)
        if input_ids is None or any(name not in self.inputs for name in batch):
            input_ids = self.check_inputs(batch, input_ids)
            batch = {name: value for name, value in batch.items() if name in self.inputs}
        x = self.encode(input_ids, attention_mask, **batch)
        logits: Tensor = self.text.head(x)
        return logits

    # --- decoding -------------------------------------------------------------------------------------------------

    @property
    def decoder(self) -> Model:
        """The model that reads the tokens after a prompt, whose images have been read with it."""
        decoder: Model = self.text if self.gated_cross is None else self
        return decoder

    def start_decoding(self, batch: Mapping[str, Any], rows: int, capacity: int) -> StackState:
        """A cache for decoding `rows` texts of up to `capacity` tokens; the images of the batch are encoded here."""
        return self.new_state(rows, capacity, features=self.features(**batch) if batch else None)

    def new_state(self, batch: int, capacity: int | None = None, features: Tensor | None = None) -> StackState:
        """An empty cache for decoding `batch` rows, see `TextModel.new_state`.

        features [F, D]: of the images that the next tokens have (`model.features(pixel_values=...)`).
        """
        state: StackState = self.text.new_state(batch, capacity)
        if self.gated_cross is not None:
            state = new_cross_state(self, state, batch)
        state.features = features
        return state

    def decode(
        self, input_ids: Tensor, state: StackState, attention_mask: Tensor | None = None, *, every: bool = False
    ) -> Tensor:
        """As `TextModel.decode`; features of the state take the places of the image tokens among these ids."""
        if self.gated_cross is not None:
            cross = cross_of_state(self, input_ids, attention_mask, state)
            scores: Tensor = self.text.decode(input_ids, state, attention_mask, every=every, cross=cross)
            return scores
        features, state.features = state.features, None
        words = mask = None
        if features is not None or not state.length:
            words, mask = self.words_and_mask(input_ids, attention_mask, features)
        mask = None if state.length else mask
        logits: Tensor = self.text.decode(input_ids, state, attention_mask, every=every, words=words, mask=mask)
        return logits


def prefix_tokens(tower: Any) -> int:
    """The number of tokens of an encoder before those of its patches."""
    prefix: int = getattr(getattr(tower, "patches", None), "prefix", 0)
    return prefix


NANO: dict[str, Any] = {
    "image": Part(family="vit", config=ViTConfig(**VIT["vit_cifar_tiny"] | {"num_classes": 0, "head": None})),
    "text": Part(family="llama", config=LlamaConfig(**LLAMA["llama_nano"])),
    "image_token_id": 1,
}

FAMILY = Family("bridge", Bridge, BridgeConfig, "multimodal", {"bridge_nano": NANO})
