"""MaskGIT (Chang et al. 2022): a bidirectional stack that fills in masked image tokens, several at a time, here for a
text that stands before them and does not see them, so that all steps share its keys and values."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from zoo.models.family import Family
from zoo.models.text_to_image import TextToImageConfig, TextToImageModel
from zoo.nn.context import Context
from zoo.nn.index_functions import Index
from zoo.nn.kv_cache import KVCache, StackState
from zoo.nn.masks import Mask
from zoo.nn.recurrent_core import RecurrentCore


@dataclass(frozen=True, kw_only=True)
class MaskGITConfig(TextToImageConfig):
    """Config of MaskGIT; see TextToImageConfig.

    text_sees_image: the text attends to the image, too, and each step of decoding computes the text again. None: only
        with kinds of attention that have no scores, such as "linear", and mixers, as these cannot hide the image.
    """

    text_sees_image: bool | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`. In files saved before `text_sees_image` existed, the text saw the image."""
        return super().from_dict({"text_sees_image": True, **values})

    @property
    def mask_token_id(self) -> int:
        """The image id of a token that is not known."""
        return self.image_vocab_size


@dataclass(frozen=True)
class TextBeforeImage(Mask):
    """The first `length` tokens, a text, attend to each other; all others attend to all tokens."""

    length: int

    def __call__(self, b: Index, h: Index, q: Index, k: Index) -> Tensor:
        return (k < self.length) | (q >= self.length)

    def hides_nothing(self, queries: int, keys: int) -> bool:
        return keys <= self.length or queries <= keys - self.length  # the queries are the last positions


class MaskedImageTokenHead(nn.Module):
    """A dense layer, GELU and norm as in BERT's, then scores of each image token [B, n, image_vocab_size]."""

    def __init__(self, config: MaskGITConfig, tied: nn.Parameter | None) -> None:
        super().__init__()
        self.dense, self.norm = nn.Linear(config.width, config.width), nn.LayerNorm(config.width, config.norm_eps)
        rows = config.image_vocab_size + (tied is not None)
        self.proj = nn.Linear(config.width, rows)
        if tied is not None:
            self.proj.weight = tied
        self.codes = config.image_vocab_size

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self.norm(nn.functional.gelu(self.dense(x))))[..., : self.codes]


class MaskGIT(TextToImageModel):
    """forward(input_ids [B, N], attention_mask [B, N], image_ids [B, image tokens]) -> [B, image tokens, V].

    image_ids: codes, and `config.mask_token_id` for tokens that are not known; without them none is. Returned are the
    scores of the code at each place.
    """

    causal, start, special_image_tokens = False, 0, 1

    def __init__(self, config: MaskGITConfig) -> None:
        super().__init__(config)
        cores = [getattr(block.mixer, "core", None) for block in self.blocks]
        no_scores = any(core is None or isinstance(core, RecurrentCore) for core in cores)
        if no_scores and config.text_sees_image is False:
            given = f"attention={config.attention!r}" if config.mixer is None else f"mixer={config.mixer!r}"
            raise ValueError(
                f"text_sees_image=False, but {given} has layers without attention scores, which cannot hide the image "
                "from the text: leave it out, or choose attention with scores, such as 'softmax', in all layers"
            )
        sees = no_scores if config.text_sees_image is None else config.text_sees_image
        self.mask = None if sees else TextBeforeImage(config.text_length)

    def context(self, positions: Tensor) -> Context:
        return Context(mask=self.mask)

    def make_head(self) -> nn.Module | None:
        if self.config.head is None:
            return None
        return MaskedImageTokenHead(self.config, self.tokens.image.weight if self.config.tie_word_embeddings else None)

    def joint_tokens(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, image_ids: Tensor | None = None
    ) -> Tensor:
        c, text = self.config, self.text_ids(input_ids, attention_mask)
        if image_ids is None:
            image = text.new_full((len(text), c.image_length), c.mask_token_id)
        else:
            image = self.flat_image_ids(image_ids)
        if image.shape[1] != c.image_length:
            raise ValueError(
                f"image_ids has {image.shape[1]} tokens, expected all {c.image_length} of an image, with "
                f"mask_token_id={c.mask_token_id} for those that are not known"
            )
        return torch.cat([text, image + c.text_tokens], 1)

    def predictions(self, x: Tensor) -> Tensor:
        assert self.head is not None
        return self.head(x[:, self.config.text_length :])

    def read_text(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> StackState | None:
        """The keys and values of texts, which `scores_at` may use for any images. None where the text sees the image,
        and for kinds of attention that keep something else."""
        c, text = self.config, self.text_ids(input_ids, attention_mask)
        state = None if self.mask is None else self.new_state(len(text), c.text_length + c.image_length)
        if state is None or not all(type(layer.mixer) is KVCache for layer in state):
            return None
        self.encode(text, state=state)
        return state

    def scores_at(self, places: Tensor, image_ids: Tensor, text: StackState | None = None, **batch: Any) -> Tensor:
        """The scores [B, M, V] of `forward` at places [B, M] of the image, without those of the others.

        text: what `read_text` returns for the texts; else they are in the batch.
        """
        assert self.head is not None
        c = self.config
        if text is None:
            x = self.encode(**batch, image_ids=image_ids)[:, c.text_length :]
        else:
            text.crop(c.text_length)
            x = self.encode(self.flat_image_ids(image_ids) + c.text_tokens, state=text)
        return self.head(x.gather(1, places[..., None].expand(-1, -1, x.shape[2])))

    def complete_example(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Every other token is masked."""
        batch = super().complete_example(batch)
        image = batch["image_ids"]
        masked = torch.arange(image.shape[1]) % 2 == 0
        return batch | {"image_ids": torch.where(masked, self.config.mask_token_id, image)}


VARIANTS: dict[str, dict[str, Any]] = {
    "maskgit_nano": dict(
        text_vocab_size=256, text_length=32, image_vocab_size=256, image_grid=(8, 8), width=192, depth=6, heads=6
    ),
    "maskgit_small": dict(
        text_vocab_size=16384, text_length=64, image_vocab_size=8192, image_grid=(16, 16), width=512, depth=8, heads=8
    ),
}

FAMILY = Family("maskgit", MaskGIT, MaskGITConfig, "multimodal", VARIANTS)
