"""BLIP (Li et al. 2022): captions of images by a ViT and a BERT decoder that attends to it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo.models.blip.mapping import BLIP
from zoo.models.config import Config
from zoo.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig, GenerationStart, Side
from zoo.models.family import Family
from zoo.models.tracing import trace_error
from zoo.nn.frontends.image import PatchEmbedding, Stem
from zoo.nn.frontends.inputs import check_not_empty
from zoo.nn.frontends.text import TextEmbedding
from zoo.nn.grid_attention import on_grid
from zoo.nn.heads import MaskedLMHead
from zoo.nn.padding import real_tokens
from zoo.preprocessing.image import ImageProcessor, pair
from zoo.preprocessing.image_settings import clip_colors
from zoo.preprocessing.multimodal import MultimodalProcessor


@dataclass(frozen=True, kw_only=True)
class BlipConfig(EncoderDecoderConfig):
    """Config of BLIP; see EncoderDecoderConfig.

    image_size, patch_size: in pixels, one number or (rows, columns). stem: "patch", or "conv", small convolutions that
    learn from few images; see PatchEmbedding. width, depth, heads, mlp_dim and norm_eps are those of the image encoder;
    decoder_width (None: width) and the like those of the text decoder. max_length: of the captions, in tokens.
    eos_token_id: the token that ends a caption, [SEP].
    """

    vocab_size: int = 30524
    max_length: int = 512
    image_size: int | tuple[int, int] = 384
    patch_size: int | tuple[int, int] = 16
    in_chans: int = 3
    stem: Stem = "patch"
    width: int = 768
    depth: int = 12
    heads: int = 12
    decoder_width: int | None = None
    decoder_norm_eps: float = 1e-12
    bos_token_id: int | None = 30522
    eos_token_id: int | tuple[int, ...] | None = 102
    pad_token_id: int | None = 0
    decoder_start_token_id: int | None = 30522

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.decoder_depth == 0:
            raise ValueError("decoder_depth=0: BLIP has a decoder; model.encode(...) gives the encoder's states")
        if self.decoder_width is not None and self.decoder_width < 1:
            raise ValueError(f"decoder_width={self.decoder_width}: expected at least 1")

    @property
    def parts(self) -> dict[str, Config]:
        """What the processors of images and of texts are for; both find their fields here."""
        return {"image": self, "text": self}


class Blip(EncoderDecoder):
    """forward(pixel_values [B, C, H, W], input_ids [B, N], attention_mask [B, N]) -> logits [B, N, V].

    input_ids are the tokens of the captions, each of which attends to those before it and to its image; the names are
    those of transformers' BlipProcessor. `encode` returns the states of the images.
    """

    inputs = ("pixel_values", "input_ids", "attention_mask")
    decoder_prefix = ""
    generation_options = ("pixel_values",)

    def make_side(self, name: str) -> Side:
        c = self.config
        if name == "encoder":
            size, patch = pair(c.image_size), pair(c.patch_size)
            patches = PatchEmbedding(size, patch, c.in_chans, c.width, stem=c.stem, antialias=False)
            kind = on_grid(c.side(name)["attention"], patches.grid[1], patches.prefix)
            return Side(patches, self.make_blocks(name, attention=kind))
        width = c.decoder_width or c.width
        norm = nn.LayerNorm(width, c.decoder_norm_eps)
        tokens = TextEmbedding(c.vocab_size, width, max_length=c.max_length, norm=norm, dropout=c.dropout)
        options = dict(width=width, norm_eps=c.decoder_norm_eps, order="post")
        return Side(tokens, self.make_blocks(name, memory_width=c.width, **options))

    def make_head(self) -> nn.Module | None:
        c = self.config
        width = c.decoder_width or c.width
        if c.head is None:
            return None
        word = self.tokens.word if c.tie_word_embeddings else None
        return MaskedLMHead(width, c.vocab_size, nn.LayerNorm(width, c.decoder_norm_eps), act=c.act, tied=word)

    def share_embeddings(self) -> None:
        """Nothing: only the decoder reads tokens of a vocabulary."""

    @property
    def num_features(self) -> int:
        width: int = self.config.decoder_width or self.config.width
        return width

    def default_preprocess(self) -> MultimodalProcessor:
        c = self.config
        colors: Any = clip_colors(c.in_chans)
        return MultimodalProcessor(
            image=ImageProcessor(size=pair(c.image_size), channels=c.in_chans, fit="squash", **colors)
        )

    def encode(  # type: ignore[override]
        self,
        pixel_values: Tensor,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        layers: Sequence[int] | None = None,
    ) -> Any:
        """The states of the images [B, 1 + rows * columns, D] after the final norm; see `EncoderDecoder.encode`."""
        check_not_empty(pixel_values, "pixel_values")
        return self.encoder.blocks(self.encoder.tokens(pixel_values), layers=layers)

    def forward(  # type: ignore[override]
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **unknown: Any,
    ) -> Any:
        if type(unknown) is not dict:  # torch.fx
            raise trace_error(self)
        if unknown or pixel_values is None:
            pixel_values = self.check_inputs(unknown, pixel_values)
        x = self.run_decoder(input_ids, attention_mask, self.encode(pixel_values), None)
        return x if self.head is None else self.head(x)

    def generation_start(
        self,
        batch: Mapping[str, Any],
        decoder_input_ids: Tensor | None = None,
        *,
        pixel_values: Tensor | None = None,
        **options: Any,
    ) -> tuple[dict[str, Any], GenerationStart]:
        """What `zoo.generate` begins with: (the images, the first tokens of the captions).

        A caption begins with the start token, or with the prompt input_ids [B, N] as BlipProcessor makes it, "[CLS] a
        photo of [SEP]": as in transformers the start token replaces [CLS], and [SEP] is left out.
        """
        if options:
            known = "pixel_values (or images=), input_ids and attention_mask"
            raise TypeError(f"generate: Blip takes {known}; it has no option {next(iter(options))!r}")
        if pixel_values is None:
            raise self.input_error({})
        encoded = {"pixel_values": pixel_values.to(self.device)}
        if decoder_input_ids is not None:
            return encoded, GenerationStart(decoder_input_ids)
        if (ids := batch["input_ids"]) is not None:
            return encoded, self.prompt_start(ids, batch.get("attention_mask"), len(pixel_values))
        return encoded, GenerationStart(torch.full((len(pixel_values), 1), self.config.decoder_start_token_id))

    def prompt_start(self, ids: Tensor, mask: Tensor | None, images: int) -> GenerationStart:
        """The first tokens of captions that begin with prompts [B, N], one for each image."""
        if ids.ndim != 2 or len(ids) != images:
            raise ValueError(
                f"input_ids are {tuple(ids.shape)} and there are {images} images: expected one prompt for each image"
            )
        keep = None if mask is None else real_tokens(mask)
        keep = torch.ones_like(ids, dtype=torch.bool) if keep is None else keep
        place = torch.arange(ids.shape[1], device=ids.device)
        first, last = keep.long().argmax(1, keepdim=True), (place * keep).amax(1, keepdim=True)
        end = self.config.eos_token_id
        if end is not None and not bool(torch.isin(ids.gather(1, last), ids.new_tensor(end)).all()):
            raise ValueError(
                f"input_ids: expected prompts that end with the token {end}, as model.preprocess(text=...) makes them; "
                "pass decoder_input_ids= for the first tokens of the captions without it"
            )
        ids, keep = ids.scatter(1, first, self.config.decoder_start_token_id), keep & (place != last)
        if not keep[:, -1].any():
            ids, keep = ids[:, :-1], keep[:, :-1]
        return GenerationStart(ids, mask=None if keep.all() else keep)


NANO: dict[str, Any] = dict(
    vocab_size=512, max_length=64, image_size=32, patch_size=4, width=128, depth=2, heads=4,
    bos_token_id=2, decoder_start_token_id=2, eos_token_id=3,
)  # fmt: skip
LARGE: dict[str, Any] = dict(
    width=1024, depth=24, heads=16, decoder_width=768, decoder_depth=12, decoder_heads=12, decoder_mlp_dim=3072
)  # fmt: skip

VARIANTS: dict[str, dict[str, Any]] = {
    "blip_nano": NANO,
    "blip_image_captioning_base": {},
    "blip_image_captioning_large": LARGE,
}

SOURCES = {name: f"hf-hub:Salesforce/{name.replace('_', '-')}" for name in VARIANTS if name != "blip_nano"}

FAMILY = Family("blip", Blip, BlipConfig, "multimodal", VARIANTS, SOURCES, {"transformers": BLIP})
