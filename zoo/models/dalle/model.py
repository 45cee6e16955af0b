"""DALL-E (Ramesh et al. 2021): one causal stack over the tokens of a text and of its image."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree

from zoo.models.dalle.mapping import DALLE_PYTORCH
from zoo.models.family import Family
from zoo.models.text_to_image import TextToImageConfig, TextToImageModel
from zoo.nn.context import Context
from zoo.nn.masks import CAUSAL


@dataclass(frozen=True, kw_only=True)
class DalleConfig(TextToImageConfig):
    """Config of DALL-E; see TextToImageConfig.

    shared_vocabulary: text and image tokens are one vocabulary, of which each position may predict any token. Without
    it (the default, DALL-E) text tokens are predicted in the text and image tokens in the image, each by a layer of
    its own.
    """

    shared_vocabulary: bool = False


@dataclass(frozen=True)
class TextAndImageLogits:
    """Output of DALL-E.

    text [B, text_length, V]: scores of the text tokens, of the text vocabulary with its padding tokens. image [B, n,
    V]: scores of the image tokens, the first of which follows the text. With a shared vocabulary V is the sum of both.
    """

    text: Tensor
    image: Tensor


_pytree.register_dataclass(TextAndImageLogits)  # so that FSDP and torch.compile find the tensors in the output


class ImageTokenHead(nn.Module):
    """Scores of the next image token [..., image_vocab_size] of hidden states [..., D]; `text` has those of text."""

    def __init__(self, config: DalleConfig) -> None:
        super().__init__()
        self.text = nn.Linear(config.width, config.text_tokens)
        self.image = nn.Linear(config.width, config.image_vocab_size)
        self.shared = config.shared_vocabulary

    def forward(self, x: Tensor) -> Tensor:
        return self.image(x)

    def both(self, x: Tensor, text_length: int) -> TextAndImageLogits:
        """Scores of all tokens of hidden states [B, N, D] of a text, from its start token on, and an image."""
        text, image = x[:, :text_length], x[:, text_length:]
        if self.shared:
            joint = [torch.cat([self.text(part), self.image(part)], -1) for part in (text, image)]
            return TextAndImageLogits(joint[0], joint[1])
        return TextAndImageLogits(self.text(text), self.image(image))


class Dalle(TextToImageModel):
    """forward(input_ids [B, N], attention_mask [B, N], image_ids [B, n]) -> TextAndImageLogits.

    The stack reads a start token, the text, and the image tokens but the last: position t predicts what follows it.
    Without image_ids, or with fewer than those of an image, the scores are those up to the next image token. `decode`
    continues the ids of `joint_tokens` and gives the scores of the next image token.
    """

    causal, start = True, 1
    has_loss = True

    def make_head(self) -> nn.Module | None:
        if self.config.head is None:
            return None
        head = ImageTokenHead(self.config)
        if self.config.tie_word_embeddings:
            head.text.weight, head.image.weight = self.tokens.word.weight, self.tokens.image.weight
        return head

    def context(self, positions: Tensor) -> Context:
        return Context(mask=CAUSAL)

    def joint_tokens(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, image_ids: Tensor | None = None
    ) -> Tensor:
        text = F.pad(self.text_ids(input_ids, attention_mask), (1, 0), value=self.config.bos_token_id)
        if image_ids is None:
            return text
        image = self.flat_image_ids(image_ids)[:, : self.config.image_length - 1]
        return torch.cat([text, image + self.config.text_tokens], 1)

    def predictions(self, x: Tensor) -> TextAndImageLogits:
        assert isinstance(self.head, ImageTokenHead)
        return self.head.both(x, self.config.text_length)

    def losses(
        self, output: TextAndImageLogits, input_ids: Tensor, attention_mask: Tensor | None, image_ids: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Cross-entropies of each text token [B, text_length] and of each image token [B, n]."""
        text, image = self.text_ids(input_ids, attention_mask), self.flat_image_ids(image_ids)
        if self.config.shared_vocabulary:
            image = image + self.config.text_tokens
        scores = output.image[:, : image.shape[1]]
        return cross_entropy(output.text, text), cross_entropy(scores, image)

    def loss(
        self,
        output: TextAndImageLogits,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        image_ids: Tensor | None = None,
        image_weight: float = 7.0,
    ) -> Tensor:
        """(CE of the text + image_weight * CE of the image) / (1 + image_weight), each a mean over its tokens
        (Ramesh et al. 2021, section 2.2)."""
        if image_ids is None:
            raise ValueError("the loss needs image_ids, the tokens of the images: model.image_tokenizer makes them")
        text, image = self.losses(output, input_ids, attention_mask, image_ids)
        return (text.mean() + image_weight * image.mean()) / (1 + image_weight)


def cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    """Losses [B, N] of scores [B, N, V], in float32 at least."""
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    return F.cross_entropy(scores.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)


SMALL = ("axial_row", "axial_column", "axial_row", "conv_like")

VARIANTS: dict[str, dict[str, Any]] = {
    "dalle_nano": dict(
        text_vocab_size=256, text_length=32, image_vocab_size=256, image_grid=(8, 8), width=192, depth=6, heads=6
    ),
    "dalle_small": dict(
        text_vocab_size=16384, text_length=64, image_vocab_size=8192, image_grid=(16, 16), width=512, depth=8, heads=8,
        attention=SMALL,
    ),
}  # fmt: skip

FAMILY = Family("dalle", Dalle, DalleConfig, "multimodal", VARIANTS, mappings={"dalle_pytorch": DALLE_PYTORCH})
