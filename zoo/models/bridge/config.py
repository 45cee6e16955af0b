"""Config of a bridge: an encoder of images or audio, a decoder of texts, and what joins them."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from zoo.models.bridge.connector_config import ConnectorConfig
from zoo.models.config import Config
from zoo.models.tower_config import Part
from zoo.nn.mlp import activation
from zoo.preprocessing.image import pair

ENCODERS = ("image", "audio")


@dataclass(frozen=True, kw_only=True)
class BridgeConfig(ConnectorConfig):
    """Config of a text decoder that reads the features of an encoder of images or of audio.

    image or audio: the encoder (with head=None). text: the decoder (with head="lm").
    by: "projector", features take the places of the image tokens among the embedded tokens (LLaVA); "resampler", the
    same with as many tokens for each image as a perceiver resampler makes of its features; "cross", gated
    cross-attention between the blocks of the decoder (Flamingo), with one image token for each image. The fields of the
    last two are those of `ConnectorConfig`.
    projector: "linear", or "mlp" for linear, act, linear. projector_norm: a norm before it ("layer", "rms" or None).
    projector_bias, projector_act: of its linear layers, and the function between them.
    feature_layer: what the encoder's features are: -1, its output after the final norm; other numbers, the output of
    this block (-2: the second last one, LLaVA). Several are joined along the width. drop_prefix: leave out the prefix
    tokens, such as the class token. image_token_id, audio_token_id: the token whose places the features take.
    """

    no_classifier: ClassVar[str] = "a bridge has no classifier; zoo.generate writes its answers"

    head: str | None = "lm"
    image: Part | None = None
    text: Part | None = None
    audio: Part | None = None
    by: Literal["projector", "resampler", "cross"] = "projector"
    projector: Literal["linear", "mlp"] = "mlp"
    projector_norm: Literal["layer", "rms"] | None = None
    projector_bias: bool = True
    projector_act: str = "gelu"
    feature_layer: int | tuple[int, ...] = -2
    drop_prefix: bool = True
    image_token_id: int | None = None
    audio_token_id: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        activation(self.projector_act)
        given = [name for name in ENCODERS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"a bridge has one encoder, image or audio, given {' and '.join(given) or 'none'}")
        if self.text is None:
            raise ValueError("a bridge has a text decoder: text is missing")
        for name, tower, head in ((given[0], self.encoder_part, None), ("text", self.text, "lm")):
            if tower.config.head != head:
                raise ValueError(f"the {name} tower has head={tower.config.head!r}, expected head={head!r}")
        if self.head != "lm":
            raise ValueError(f"head={self.head!r}: a bridge has head='lm', that of its text tower")
        depth = getattr(self.encoder_part.config, "depth", 0)
        for layer in self.feature_layers:
            if not -depth <= layer < depth:
                raise ValueError(f"feature_layer={layer}: the {given[0]} tower has the blocks 0 to {depth - 1}")
        self.check_token(given[0])
        self.check_unused(self.by)
        self.check_resampler(self.by)

    def check_token(self, encoder: str) -> None:
        """Raise ValueError for a token of features that the vocabulary does not have, or of another encoder."""
        for name in ENCODERS:
            field, value = f"{name}_token_id", getattr(self, f"{name}_token_id")
            size = self.text.config.vocab_size  # type: ignore[union-attr]
            if name != encoder and value is not None:
                raise ValueError(f"{field}={value}: the bridge has no {name} tower, set {encoder}_token_id")
            if name == encoder and self.by == "cross" and value is None:
                continue  # the batch says which images each token sees
            if name == encoder and (value is None or not 0 <= value < size):
                raise ValueError(
                    f"{field}={value}: expected the token that marks features, 0 to {size - 1}, the vocabulary of the "
                    "text tower"
                )

    @property
    def encoder(self) -> str:
        """The modality of the encoder: "image" or "audio"."""
        return "image" if self.image is not None else "audio"

    @property
    def encoder_part(self) -> Part:
        """The encoder."""
        part: Part = getattr(self, self.encoder)
        return part

    @property
    def feature_token_id(self) -> int | None:
        """The token whose places the features take; None by cross-attention if a batch says which images each token
        sees."""
        token: int | None = getattr(self, f"{self.encoder}_token_id")
        return token

    @property
    def tokens_per_item(self) -> int | None:
        """The number of tokens of an image (or clip) in the ids; None if it depends on the item."""
        if self.by != "projector":
            return 1 if self.by == "cross" else self.resampler_tokens
        c: Any = self.encoder_part.config
        if hasattr(c, "image_size"):
            size, step, prefix = pair(c.image_size), pair(c.patch_size), bool(c.distilled) + c.registers
        elif hasattr(c, "mel_bins") and hasattr(c, "stride"):
            size, step, prefix = (c.mel_bins, c.max_length), pair(c.stride), bool(c.distilled)
        elif hasattr(c, "mel_bins") and hasattr(c, "frames"):
            return int(c.frames // 2)
        else:
            return None
        patch = pair(c.patch_size)
        rows, columns = ((side - edge) // stride + 1 for side, edge, stride in zip(size, patch, step))
        return int(rows * columns + (0 if self.drop_prefix else prefix + c.class_token))

    @property
    def convolutions(self) -> tuple[tuple[int, int], ...] | None:
        """(kernel, stride) of each convolution over the samples of a clip, if they determine its number of tokens."""
        c: Any = self.encoder_part.config
        if self.by != "projector" or not hasattr(c, "conv_kernels"):
            return None
        return tuple(zip(c.conv_kernels, c.conv_strides, strict=True))

    @property
    def feature_layers(self) -> tuple[int, ...]:
        """`feature_layer` as a tuple."""
        return self.feature_layer if isinstance(self.feature_layer, tuple) else (self.feature_layer,)

    def uses_attention(self, name: str = "attention") -> bool:
        if name == "cross_attention":
            return self.by == "cross"
        if name == "resampler_attention":
            return self.by != "projector" and self.resampler_tokens is not None
        return super().uses_attention(name)

    def part_of(self, name: str) -> Config:
        """The config of the tower that takes the input `name`; the text tower generates."""
        found = super().part_of(name)
        return self.parts["text"] if found is self and name == "decoder_input_ids" else found

    def own_foreign_names(self) -> dict[str, Any]:
        return {
            "image_token_index": "image_token_id",
            "vision_feature_layer": "feature_layer",
            "projector_hidden_act": "projector_act",
            "multimodal_projector_bias": "projector_bias",
        }
