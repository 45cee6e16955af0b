"""Image tokenizers: images become grids of tokens of a codebook, and tokens become images again.

The discrete variational autoencoder of DALL-E (Ramesh et al. 2021, "Zero-Shot Text-to-Image Generation", section 2.1),
whose encoder gives a distribution over the codes that is sampled with the Gumbel-softmax relaxation (Jang et al. 2017,
Maddison et al. 2017); and VQ-VAE (van den Oord et al. 2017), whose codes are the nearest vectors of a codebook.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree

from zoo.models.base import Model
from zoo.models.config import Config
from zoo.models.dvae.mapping import MAPPINGS
from zoo.models.dvae.networks import DECODERS, ENCODERS
from zoo.models.dvae.vector_quantizer import VectorQuantizer
from zoo.models.family import Family
from zoo.nn.frontends.image import warn_if_unnormalized
from zoo.nn.frontends.inputs import check_input_dtype, check_not_empty
from zoo.nn.losses.reconstruction import LAPLACE_MEAN, LAPLACE_STD, kl_to_uniform, reconstruction_loss
from zoo.preprocessing.image import ImageProcessor, pair

Size = int | tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class DiscreteVAEConfig(Config):
    """head: "decoder", or None for the encoder alone, which tokenizes. image_size: one number or (rows, columns).
    vocab_size: number of codes; code_width: size of their vectors (None: the last of `widths`).
    widths: channels at each resolution, from the highest to the lowest. resample: "conv" halves the resolution for each
    of the widths, "pool" between two of them; see `zoo.models.dvae.networks`. depth: number of residual blocks, at the
    lowest resolution ("conv") or at each ("pool").
    quantizer: "gumbel" or "vq". temperature: of the Gumbel-softmax in training; straight_through: the forward pass of
    training takes one code for each token instead of a mixture. ema_decay: of the codebook of "vq", 0: it is learned by
    its gradient.
    loss: of the reconstruction, see `reconstruction_loss`; "laplace" has pixels that are mapped to 0.1 to 0.9."""

    may_be_zero = ("depth",)
    head: str | None = "decoder"
    image_size: Size = 64
    in_chans: int = 3
    vocab_size: int = 512
    code_width: int | None = None
    widths: tuple[int, ...] = (32, 64, 128)
    depth: int = 2
    resample: Literal["conv", "pool"] = "conv"
    quantizer: Literal["gumbel", "vq"] = "gumbel"
    temperature: float = 1.0
    straight_through: bool = False
    ema_decay: float = 0.99
    loss: Literal["mse", "l1", "smooth_l1", "laplace"] = "mse"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head not in (None, "decoder"):
            raise ValueError(f"head={self.head!r}: a discrete VAE has head='decoder' and None (the encoder alone)")
        if min(self.widths, default=0) < 1 or (self.code_width is not None and self.code_width < 1):
            raise ValueError(
                f"widths={self.widths}, code_width={self.code_width}: expected at least one width, of at least 1"
            )
        if self.resample == "pool" and any(width % 4 for width in self.widths):
            raise ValueError(f"widths={self.widths}: resample='pool' has bottlenecks of a quarter: use multiples of 4")
        if not self.temperature > 0:
            raise ValueError(f"temperature={self.temperature}: expected more than 0")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay={self.ema_decay}: expected at least 0 and less than 1")
        step = self.patch_size
        if any(side % step for side in pair(self.image_size)):
            nearest = tuple(max(step, side // step * step) for side in pair(self.image_size))
            raise ValueError(
                f"image_size={self.image_size} is not a multiple of {step}, the pixels of a token with "
                f"{len(self.widths)} widths and resample={self.resample!r}; use {nearest}"
            )

    @property
    def width(self) -> int:
        """Number of channels at the lowest resolution."""
        return self.widths[-1]

    @property
    def patch_size(self) -> int:
        """Height and width in pixels of the area of one token: the factor of downsampling."""
        return 2 ** (len(self.widths) - (self.resample == "pool"))

    @property
    def grid(self) -> tuple[int, int]:
        """Number of tokens of an image: (rows, columns)."""
        height, width = pair(self.image_size)
        return height // self.patch_size, width // self.patch_size

    @property
    def resolved_code_width(self) -> int:
        """`code_width`, or its default."""
        return self.code_width or self.widths[-1]


@dataclass(frozen=True)
class DiscreteVAEOutput:
    """Output of a discrete VAE for B images of N tokens.

    pixel_values: the reconstruction, [B, C, H, W]. ids: the tokens, int64 [B, N], row by row.
    reconstruction: mean loss over the values of each image, [B].
    kl: divergence of the distributions of the tokens from the uniform one, in nats, summed over the tokens, [B]; None
        for vector quantization.
    commitment: mean squared distance of the vectors of the encoder, which are to come nearer, to their codes, [B];
        codebook: the same for the codes, which are to come nearer, None for a codebook of moving averages. Both are
        None for the Gumbel-softmax.
    vectors: of the encoder, [B, D, h, w], for `DiscreteVAE.code_statistics`; in training with moving averages only.
    """

    pixel_values: Tensor
    ids: Tensor
    reconstruction: Tensor
    kl: Tensor | None = None
    commitment: Tensor | None = None
    codebook: Tensor | None = None
    vectors: Tensor | None = None


_pytree.register_dataclass(DiscreteVAEOutput)  # so that FSDP and torch.compile find the tensors in the output


class GumbelDecoder(nn.Module):
    """A decoder with the embeddings of the codes, which a vector quantizer has itself."""

    def __init__(self, config: DiscreteVAEConfig, outputs: int) -> None:
        super().__init__()
        c, width = config, config.resolved_code_width
        self.codebook = nn.Embedding(c.vocab_size, width) if c.quantizer == "gumbel" else None
        self.layers = DECODERS[c.resample](width, c.widths, c.depth, outputs)

    def forward(self, codes: Tensor) -> Tensor:
        return self.layers(codes)


class DiscreteVAE(Model):
    """forward(pixel_values [B, C, H, W]) -> `DiscreteVAEOutput`: the reconstruction, the tokens and the loss terms.

    In training mode the tokens of a Gumbel-softmax are sampled with torch's generator, at the `temperature` given to
    `forward`, or that of the config; in evaluation the most probable ones are taken. With head=None forward returns
    what `encode` does.

        ids = model.tokenize(model.preprocess(images)["pixel_values"])      # [B, N], N = rows * columns of model.grid
        images = model.preprocess.to_images(model.decode(ids))              # uint8 [B, C, H, W]
    """

    inputs = ("pixel_values",)

    def __init__(self, config: DiscreteVAEConfig) -> None:
        super().__init__(config)
        c = config
        vq = c.quantizer == "vq"
        outputs = c.resolved_code_width if vq else c.vocab_size
        self.encoder = ENCODERS[c.resample](c.in_chans, c.widths, c.depth, outputs)
        self.quantizer = VectorQuantizer(c.vocab_size, outputs, c.ema_decay) if vq else None
        self.head = self.make_head()
        self.range_checked = False  # the range of the pixels is checked once

    def make_head(self) -> nn.Module | None:
        c = self.config
        if c.head is None:
            return None
        return GumbelDecoder(c, c.in_chans * (2 if c.loss == "laplace" else 1))

    @property
    def num_features(self) -> int:
        return self.config.resolved_code_width

    @property
    def grid(self) -> tuple[int, int]:
        """Number of tokens of an image: (rows, columns)."""
        return self.config.grid

    def default_preprocess(self) -> ImageProcessor:
        c = self.config
        mean, std = (LAPLACE_MEAN, LAPLACE_STD) if c.loss == "laplace" else (0.5, 0.5)
        return ImageProcessor(size=pair(c.image_size), channels=c.in_chans, mean=(mean,), std=(std,))

    def set_checkpointing(self, enabled: bool = True) -> None:
        if enabled:
            raise ValueError("a discrete VAE has no transformer blocks to recompute: use gradient_checkpointing=false")

    # --- tokens -------------------------------------------------------------------------------------------------------

    def tokenize(self, pixel_values: Tensor) -> Tensor:
        """Images [B, C, H, W] -> ids [B, N], row by row; `.unflatten(1, model.grid)` has them as a grid."""
        return self.nearest(self.encode(pixel_values)).flatten(1)

    def decode(self, ids: Tensor) -> Tensor:
        """ids [B, N], or as a grid [B, rows, columns] -> images [B, C, H, W], normalized as `pixel_values` are.

        `model.preprocess.to_images` makes pixels of them. Raises ValueError for another number of tokens than that of
        `grid`, ids that are not in the codebook, and a model without its decoder.
        """
        return self.to_pixels(self.decoder(self.embed(self.check_ids(ids))))

    def embed(self, ids: Tensor) -> Tensor:
        """ids [B, rows, columns] -> codes [B, D, rows, columns]."""
        return F.embedding(ids, self.codebook).movedim(-1, 1)

    @property
    def codebook(self) -> Tensor:
        """The vectors of the codes, [vocab_size, code_width]. Raises ValueError if the model has none."""
        if self.quantizer is not None:
            return self.quantizer.weight
        embedding = self.decoder.codebook
        assert embedding is not None
        return embedding.weight

    @property
    def decoder(self) -> GumbelDecoder:
        """The decoder. Raises ValueError if the model has none."""
        if not isinstance(self.head, GumbelDecoder):
            raise ValueError(
                "this model has no decoder (head=None), so its tokens cannot become images: load a model that has one, "
                "such as a folder of recipes/image_tokenizer.py"
            )
        return self.head

    def nearest(self, x: Tensor) -> Tensor:
        """The output of `encode` -> ids [B, rows, columns] of the most probable or the nearest codes."""
        return x.argmax(1) if self.quantizer is None else self.quantizer(x)

    def to_pixels(self, output: Tensor) -> Tensor:
        """The output of the decoder -> [B, C, H, W], of the logit-Laplace distribution the median of each value."""
        return output.chunk(2, 1)[0].sigmoid() if self.config.loss == "laplace" else output

    # --- forward ------------------------------------------------------------------------------------------------------

    def encode(self, pixel_values: Tensor) -> Tensor:
        """Images [B, C, H, W] -> logits of the codes [B, vocab_size, rows, columns]; for vector quantization vectors
        [B, code_width, rows, columns]."""
        return self.encoder(self.check_pixels(pixel_values))

    def forward(self, pixel_values: Tensor | None = None, temperature: float | None = None, **unknown: Any) -> Any:
        pixel_values = self.check_inputs(unknown, pixel_values)
        x = self.encode(pixel_values)
        if self.head is None:
            return x
        if self.quantizer is not None:
            return self.quantized(x, pixel_values)
        ids = x.argmax(1)
        output = self.decoder(self.sample(x, temperature) if self.training else self.embed(ids))
        return DiscreteVAEOutput(
            self.to_pixels(output),
            ids.flatten(1),
            reconstruction_loss(self.config.loss, output, pixel_values),
            kl=kl_to_uniform(x),
        )

    def sample(self, logits: Tensor, temperature: float | None = None) -> Tensor:
        """Logits [B, K, h, w] -> codes [B, D, h, w], mixed with weights of a Gumbel-softmax sample."""
        c = self.config
        weights = F.gumbel_softmax(logits, c.temperature if temperature is None else temperature, dim=1,
                                   hard=c.straight_through)  # fmt: skip
        return torch.einsum("bkhw,kd->bdhw", weights, self.codebook)

    def quantized(self, x: Tensor, pixel_values: Tensor) -> DiscreteVAEOutput:
        """The output for vectors x [B, D, h, w] of the encoder; their gradient is that of the codes, straight through.

        The terms are those of van den Oord et al. 2017, equation 3.
        """
        assert self.quantizer is not None
        ids = self.quantizer(x)
        codes = self.embed(ids)
        output = self.decoder(x + (codes - x).detach())
        learned = not self.quantizer.ema_decay
        return DiscreteVAEOutput(
            self.to_pixels(output),
            ids.flatten(1),
            reconstruction_loss(self.config.loss, output, pixel_values),
            commitment=reconstruction_loss("mse", x, codes.detach()),
            codebook=reconstruction_loss("mse", codes, x.detach()) if learned else None,
            vectors=x.detach() if self.training and not learned else None,
        )

    # --- checks -------------------------------------------------------------------------------------------------------

    def check_pixels(self, pixel_values: Tensor) -> Tensor:
        """Floats [B, C, H, W] of the model's size. Raises ValueError for others; warns once of unnormalized ones."""
        c, size = self.config, pair(self.config.image_size)
        if not isinstance(pixel_values, Tensor) or pixel_values.ndim != 4 or pixel_values.shape[1] != c.in_chans:
            found = tuple(pixel_values.shape) if isinstance(pixel_values, Tensor) else type(pixel_values).__name__
            raise ValueError(
                f"expected pixel_values [B, {c.in_chans}, {size[0]}, {size[1]}], got {found}; model.preprocess(images) "
                "makes them, and in_chans= of create_model or load changes the number of channels"
            )
        check_not_empty(pixel_values, "pixel_values")
        if pixel_values.shape[2:] != size:
            raise ValueError(
                f"the images are {pixel_values.shape[2]} x {pixel_values.shape[3]}, but the model expects {size[0]} x "
                f"{size[1]}; resize them (model.preprocess does) or pass image_size= to create_model or load, a "
                f"multiple of {c.patch_size}"
            )
        weight = next(self.encoder.parameters())
        if not self.range_checked and not torch.compiler.is_compiling():
            self.range_checked = True
            if c.loss != "laplace":  # whose pixels are all positive
                warn_if_unnormalized(pixel_values)
        if not pixel_values.is_floating_point():
            return pixel_values.to(weight.dtype)
        check_input_dtype("pixel_values", pixel_values, weight)
        return pixel_values

    def check_ids(self, ids: Tensor) -> Tensor:
        """ids as a grid [B, rows, columns]. Raises ValueError for ids that the model cannot have made."""
        rows, columns = self.grid
        shapes = f"[B, {rows * columns}] or [B, {rows}, {columns}]"
        if not isinstance(ids, Tensor) or ids.is_floating_point() or ids.dtype == torch.bool:
            found = f"a tensor of {ids.dtype}" if isinstance(ids, Tensor) else type(ids).__name__
            raise ValueError(f"ids: expected whole numbers {shapes}, got {found}; model.tokenize makes them")
        if ids.shape[1:] not in ((rows * columns,), (rows, columns)):
            raise ValueError(
                f"ids of shape {tuple(ids.shape)}: expected {shapes}, the tokens of images of {self.config.image_size} "
                "pixels; were they made by another tokenizer?"
            )
        if not torch.compiler.is_compiling() and ids.numel() and not ids.is_meta:
            low, high = (int(x) for x in torch.aminmax(ids))
            if low < 0 or high >= self.config.vocab_size:
                raise ValueError(
                    f"ids from {low} to {high}: the codebook has {self.config.vocab_size} codes, 0 to "
                    f"{self.config.vocab_size - 1}; were they made by another tokenizer, or are there text tokens?"
                )
        return ids.long().view(len(ids), rows, columns)


TINY = dict(image_size=32, widths=(64, 96), depth=2, vocab_size=256)
DALLE = dict(image_size=256, resample="pool", widths=(256, 512, 1024, 2048), depth=2, vocab_size=8192, code_width=128,
             loss="laplace")  # fmt: skip

VARIANTS: dict[str, dict[str, Any]] = {
    "dvae_tiny": TINY,
    "dvae_small": {},
    "vqvae_tiny": TINY | dict(quantizer="vq", code_width=16, ema_decay=0.9),
    "vqvae_small": dict(quantizer="vq", code_width=32, ema_decay=0.9),
    "dvae_dalle": DALLE,
    "dvae_flava": DALLE | dict(image_size=112, head=None),
}

SOURCES = {"dvae_flava": "hf-hub:facebook/flava-image-codebook"}

FAMILY = Family("dvae", DiscreteVAE, DiscreteVAEConfig, "vision", VARIANTS, SOURCES, MAPPINGS)
