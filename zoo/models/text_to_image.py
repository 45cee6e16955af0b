"""Base classes of models that make the tokens of an image for a text: one stack over the tokens of both.

The image tokens are those of an image tokenizer (a discrete VAE), which may be a part of the model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from zoo.models.base import Model
from zoo.models.config import Config, to_tuples
from zoo.models.registry import family
from zoo.models.text import TextModel, check_shapes
from zoo.models.tracing import trace_error
from zoo.nn.block_config import BlockConfig
from zoo.nn.core import check_positive
from zoo.nn.frontends.text_and_image import TextAndImageEmbedding
from zoo.nn.grid_attention import on_grid
from zoo.nn.kv_cache import StackState
from zoo.nn.padding import places_real_first
from zoo.nn.stack import Stack

HEAD = "image_tokens"


@dataclass(frozen=True, kw_only=True)
class TextToImageConfig(Config):
    """Base config of text-to-image token models.

    text_vocab_size: ids of the text tokenizer. text_length: tokens of a text; shorter texts are padded to it, at each
        position by a token of its own (Ramesh et al. 2021).
    image_vocab_size: codes of the image tokenizer. image_grid: rows and columns of image tokens.
    attention: the kinds "axial_row", "axial_column" and "conv_like" get the grid and the length of the text from here.
    pad_token_id: padding of texts without an attention_mask. bos_token_id: the token before a text (DALL-E).
    tie_word_embeddings: the output layers have the weights of the embeddings.
    text_dropout: the share of texts that training replaces by the empty text; guidance needs such a model.
    image_tokenizer: {"family": ..., "config": {...}} of the tokenizer that is a part of the model, None for none.
    """

    head: str | None = HEAD
    text_vocab_size: int = 16384
    text_length: int = 256
    image_vocab_size: int = 8192
    image_grid: tuple[int, int] = (32, 32)
    width: int = 512
    depth: int = 8
    heads: int = 8
    kv_heads: int | None = None
    head_dim: int | None = None
    mlp_dim: int | None = None
    act: str = "gelu"
    gated_mlp: bool = False
    norm: Literal["layer", "rms"] = "layer"
    norm_eps: float = 1e-5
    qkv_bias: bool | None = None
    layer_scale: float | None = None
    dropout: float = 0.0
    attention_dropout: float = 0.0
    drop_path: float = 0.0
    attention: Any = "softmax"
    mixer: Any = None
    pad_token_id: int | None = 0
    bos_token_id: int = 0
    tie_word_embeddings: bool = False
    text_dropout: float = 0.0
    image_tokenizer: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(
            text_vocab_size=self.text_vocab_size, text_length=self.text_length, depth=self.depth,
            image_vocab_size=self.image_vocab_size, **{"rows of image_grid": self.image_grid[0],
                                                       "columns of image_grid": self.image_grid[1]},
        )  # fmt: skip
        if self.head not in (HEAD, None):
            raise ValueError(f"head={self.head!r}: {type(self).__name__} has the heads {HEAD!r}, None")
        if not 0 <= self.text_dropout < 1:
            raise ValueError(f"text_dropout={self.text_dropout}: expected a share of at least 0 and below 1")
        for name in ("pad_token_id", "bos_token_id"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < self.text_vocab_size:
                raise ValueError(f"{name}={value}: expected 0 to {self.text_vocab_size - 1}, an id of the text")
        if self.image_tokenizer is not None:
            object.__setattr__(self, "image_tokenizer", to_tuples(self.image_tokenizer))
            self.check_image_tokenizer(tokenizer_config(self.image_tokenizer))

    def check_image_tokenizer(self, tokenizer: Any) -> None:
        """Raise ValueError for an image tokenizer, by its config, with another codebook than that of this model."""
        if tokenizer.vocab_size != self.image_vocab_size:
            raise ValueError(
                f"the image tokenizer has {tokenizer.vocab_size} codes, and the model image_vocab_size="
                f"{self.image_vocab_size}: use the tokenizer with which the model was trained, or create the model "
                f"with image_vocab_size={tokenizer.vocab_size}"
            )
        grid = getattr(tokenizer, "grid", None)
        if grid is not None and tuple(grid) != self.image_grid:
            raise ValueError(
                f"the image tokenizer makes {grid[0]} x {grid[1]} tokens, and the model has image_grid="
                f"{self.image_grid}: set image_grid={tuple(grid)}, or the image_size of the tokenizer"
            )

    # What code for text models reads.

    @property
    def vocab_size(self) -> int:
        """The ids that the text tokenizer may give."""
        return self.text_vocab_size

    @property
    def max_length(self) -> int:
        """The most tokens of a text."""
        return self.text_length

    @property
    def text_tokens(self) -> int:
        """The text vocabulary with the padding tokens of all positions: the id of the first image token."""
        return self.text_vocab_size + self.text_length

    @property
    def image_length(self) -> int:
        """The number of tokens of an image."""
        return self.image_grid[0] * self.image_grid[1]


def tokenizer_config(values: Any) -> Any:
    """The config of an image tokenizer. Raises ValueError for values that do not describe one."""
    if not isinstance(values, Mapping) or set(values) != {"family", "config"}:
        raise ValueError(
            f"image_tokenizer={values!r:.200}: expected {{'family': NAME, 'config': {{...}}}}; "
            "model.set_image_tokenizer(TOKENIZER) writes it"
        )
    return family(values["family"]).config.from_dict(values["config"])


class TextToImageModel(TextModel):
    """Base class of text-to-image token models: forward(input_ids [B, N], attention_mask [B, N], image_ids [B, n]).

    input_ids: a text of at most `text_length` tokens, with padding at any place. image_ids: codes of an image in
    row-major order, also [B, rows, columns]. `zoo.generate_images` makes images.
    """

    inputs: tuple[str, ...] = ("input_ids", "attention_mask", "image_ids")
    causal: ClassVar[bool]
    start: ClassVar[int]  # tokens before the text
    special_image_tokens: ClassVar[int] = 0  # ids behind the codes of the image tokenizer

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        c = config
        before = self.start + c.text_length
        image_tokens = c.image_vocab_size + self.special_image_tokens
        self.tokens: Any = TextAndImageEmbedding(c.text_tokens, image_tokens, before, c.image_grid, c.width, c.dropout)
        spec = BlockConfig.of(c, causal=self.causal, attention=on_grid(c.attention, c.image_grid[1], before))
        self.blocks: Stack = spec.stack(c.depth)
        self.head = self.make_head()
        self.image_tokenizer: Model | None = None
        if c.image_tokenizer is not None:
            found = family(c.image_tokenizer["family"])
            self.hold_image_tokenizer(found.make_model(tokenizer_config(c.image_tokenizer)))
        self.ids_checked = False

    # --- tokens -----------------------------------------------------------------------------------------------------

    def text_ids(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Texts [B, N] -> [B, text_length]: the real tokens first, then the padding token of each position."""
        c, tokens = self.config, input_ids.shape[1]
        if tokens > c.text_length:
            raise ValueError(
                f"the text has {tokens} tokens, expected at most text_length={c.text_length}: shorten it, or use "
                "model.preprocess(..., truncate='cut')"
            )
        self.check_ids("input_ids", input_ids, c.text_vocab_size)
        ids = input_ids.long()
        if attention_mask is not None:
            real = attention_mask.bool()
        elif c.pad_token_id is not None:
            real = ids != c.pad_token_id
        else:
            real = torch.ones_like(ids, dtype=torch.bool)
        places, missing = places_real_first(real), (0, c.text_length - tokens)
        ids, real = (nn.functional.pad(torch.zeros_like(x).scatter(1, places, x), missing) for x in (ids, real))
        padding = torch.arange(c.text_vocab_size, c.text_tokens, device=ids.device)
        return torch.where(real, ids, padding)

    def flat_image_ids(self, image_ids: Tensor) -> Tensor:
        """Image tokens [B, n] of ids [B, n] or [B, rows, columns]. Raises ValueError for others than the model's."""
        c = self.config
        if image_ids.ndim == 3 and tuple(image_ids.shape[1:]) == c.image_grid:
            image_ids = image_ids.flatten(1)
        if image_ids.ndim != 2 or image_ids.shape[1] > c.image_length or image_ids.is_floating_point():
            raise ValueError(
                f"image_ids: expected integers [B, n] of at most n = {c.image_length} tokens, or [B, "
                f"{c.image_grid[0]}, {c.image_grid[1]}], got {tuple(image_ids.shape)} of {image_ids.dtype}"
            )
        self.check_ids("image_ids", image_ids, c.image_vocab_size + self.special_image_tokens)
        return image_ids.long()

    def check_ids(self, name: str, ids: Tensor, count: int) -> None:
        """Raise ValueError for an id out of range: in every batch on a CPU, in the first one elsewhere."""
        if torch.compiler.is_compiling() or ids.is_meta or not ids.numel():
            return
        if ids.device.type != "cpu":
            if self.ids_checked:
                return
            self.ids_checked = name == "image_ids"
        low, high = (int(x) for x in ids.aminmax())
        if low < 0 or high >= count:
            what = "text tokenizer" if name == "input_ids" else "image tokenizer (a codebook of another size?)"
            raise ValueError(
                f"{name} has ids from {low} to {high}, expected 0 to {count - 1}: use the {what} of this model"
            )

    def joint_tokens(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, image_ids: Tensor | None = None
    ) -> Tensor:
        """The ids [B, N] that the blocks read: those of the text and of the image behind it, none of them padding."""
        raise NotImplementedError

    def encode(  # type: ignore[override]
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        image_ids: Tensor | None = None,
        *,
        state: StackState | None = None,
        **options: Any,
    ) -> Any:
        """Hidden states [B, N, D] of the tokens of text and image; with a `state` the ids continue `joint_tokens`.

        options: see `TextModel.encode`.
        """
        if state is None:
            check_shapes(input_ids, attention_mask, 0)
            input_ids, attention_mask = self.joint_tokens(input_ids, attention_mask, image_ids), None
        return super().encode(input_ids, attention_mask, state=state, **options)

    def complete_example(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(0)
        shape = len(batch["input_ids"]), self.config.image_length
        return batch | {"image_ids": torch.randint(self.config.image_vocab_size, shape, generator=generator)}

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_ids: Tensor | None = None,
        **unknown: Any,
    ) -> Any:
        if type(unknown) is not dict:  # torch.fx
            raise trace_error(self)
        if unknown or input_ids is None:
            input_ids = self.check_inputs(unknown, input_ids)
        x = self.encode(input_ids, attention_mask, image_ids=image_ids)
        return x if self.head is None else self.predictions(x)

    def predictions(self, x: Tensor) -> Any:
        """What `forward` returns for hidden states [B, N, D]."""
        raise NotImplementedError

    # --- the image tokenizer ------------------------------------------------------------------------------------------

    def set_image_tokenizer(self, tokenizer: Model) -> Self:
        """Make an image tokenizer a part of the model, which is saved with it and not trained. Returns the model.

        Raises ValueError for one with another number of codes or of tokens.
        """
        self.config.check_image_tokenizer(tokenizer.config)
        described = {"family": tokenizer.family, "config": tokenizer.config.to_dict()}
        self.config = self.config.replace(image_tokenizer=described)
        self.hold_image_tokenizer(tokenizer)
        return self

    def hold_image_tokenizer(self, tokenizer: Model) -> None:
        tokenizer.requires_grad_(False)
        if tokenizer.preprocess is None:
            tokenizer.preprocess = tokenizer.default_preprocess()
        self.image_tokenizer = tokenizer.eval()

    def train(self, mode: bool = True) -> Self:
        """As in torch, but for the image tokenizer, which is never trained."""
        super().train(mode)
        if self.image_tokenizer is not None:
            self.image_tokenizer.eval()
        return self
