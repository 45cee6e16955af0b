"""The config and the output of CoCa."""

from dataclasses import dataclass

from torch import Tensor
from torch.utils import _pytree

from zoo.models.config import Config
from zoo.models.contrast.model import ContrastiveOutput
from zoo.models.encoder_decoder import EncoderDecoderConfig


@dataclass(frozen=True, kw_only=True)
class CoCaConfig(EncoderDecoderConfig):
    """Config of CoCa; see EncoderDecoderConfig.

    width, depth, heads, mlp_dim: of the image encoder; decoder_width (None: width), decoder_heads and decoder_mlp_dim:
    of the text tower, which has text_depth layers, and of the decoder. projection_dim: of the shared space, and of the
    pooled image. pooler_queries: number of queries that pool the image (None: its tokens are not pooled). max_length:
    of the texts; the class token of the text tower has the position behind it. eos_token_id: what ends a caption.
    """

    vocab_size: int = 49408
    max_length: int = 76
    image_size: int | tuple[int, int] = 224
    patch_size: int | tuple[int, int] = 32
    in_chans: int = 3
    width: int = 768
    depth: int = 12
    heads: int = 12
    decoder_width: int | None = 512
    decoder_heads: int | None = 8
    text_depth: int = 12
    decoder_depth: int | None = 12
    projection_dim: int = 512
    pooler_queries: int | None = 256
    pooler_heads: int = 8
    tie_word_embeddings: bool = False
    bos_token_id: int | None = 49406
    eos_token_id: int | tuple[int, ...] | None = (49407, 0)
    pad_token_id: int | None = 0
    decoder_start_token_id: int | None = 49406

    def __post_init__(self) -> None:
        super().__post_init__()
        self.allow_heads("lm")
        if self.decoder_depth == 0 or self.text_depth < 1:
            raise ValueError(f"text_depth={self.text_depth}, decoder_depth={self.decoder_depth}: expected at least 1")
        sizes = {name: getattr(self, name) for name in ("decoder_width", "projection_dim", "pooler_heads")}
        for name, size in sizes.items():
            if size is not None and size < 1:
                raise ValueError(f"{name}={size}: expected at least 1")
        if self.pooler_queries is not None and self.pooler_queries < 2:
            raise ValueError(
                f"pooler_queries={self.pooler_queries}: expected at least 2, one for the embedding of the image and "
                "the others for the decoder"
            )

    @property
    def parts(self) -> dict[str, Config]:
        """What the processors of images and of texts are for; both find their fields here."""
        return {"image": self, "text": self}


@dataclass(frozen=True)
class CoCaOutput(ContrastiveOutput):
    """Output of CoCa: features as of a contrastive model, and captions.

    caption_logits: scores of the next token [B, N, V] for images with texts, else None; unspecified at padding.
    labels: the token ids [B, N], with which `CoCa.loss` compares them. audio_features and logit_bias are None.
    """

    caption_logits: Tensor | None = None
    labels: Tensor | None = None


_pytree.register_dataclass(CoCaOutput)  # as ContrastiveOutput
