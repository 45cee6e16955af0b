"""Data module of images with texts that are to be written about them, tokenized in memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from zoo.data.augment_config import AugmentSettings
from zoo.data.config import no_augment
from zoo.data.datamodule import PreparedDataModule
from zoo.data.image_text.dataset import CAPTION, ImageText, ImageTexts
from zoo.data.keyed_batches import Keys
from zoo.data.pairs.datamodule import ImageBatch
from zoo.data.pairs.sides import mentions_sides
from zoo.data.splits import Splits
from zoo.nn.losses.cross_entropy import IGNORED
from zoo.preprocessing.image import ImageProcessor
from zoo.preprocessing.text import TextProcessor
from zoo.utils.keyed_random import KeyedRandom


@dataclass(frozen=True)
class TokenLayout:
    """How a model reads a prompt and writes a text.

    Attributes:
        prefix: Tokens before the prompt: the image tokens of a decoder, or the start token of an encoder-decoder.
        end: The token after the text.
        pad: The token of padding.
        max_length: Maximum number of tokens of all of it.
    """

    prefix: tuple[int, ...]
    end: int
    pad: int
    max_length: int

    def ids(self, prompt: Sequence[int], target: Sequence[int]) -> list[int]:
        """The tokens of a prompt with its text. Raises: ValueError if there are too many."""
        found = [*self.prefix, *prompt, *target, self.end]
        if len(found) > self.max_length:
            raise ValueError(f"a prompt of {len(prompt)} and a text of {len(target)} tokens, with {len(self.prefix)} "
                             f"tokens before them and one behind, are {len(found)} tokens: expected at most "
                             f"max_length={self.max_length}")  # fmt: skip
        return found


class ImageTextRows(Dataset[Any]):
    """Dataset of images with a text each: in training one of the texts of an image, in evaluation an item for each.

    Batches: `pixel_values` uint8 [B, 3, H, W]; `input_ids`, `attention_mask` [B, N]; `labels` [B, N], the token of the
    text that follows each position, and -100 for the prompt and for padding; `lengths` and `prompt_lengths`, the number
    of tokens of each row and of its prompt (lists: they stay on the host); `types` [B], the types of the questions as
    numbers, -1 for others; `index` [B], of images in training and of items in evaluation, `epoch`. Padding is on the
    right.

    Args:
        data: The images with their texts.
        tokenizer: Of prompts and texts; special tokens that it adds are left out.
        layout: How the model reads them.
        types: Names of the types of questions.
        seed: Samples the text of an image by (seed, epoch, index); None takes all texts, or of alternatives the first.
        caption_epochs: Number of epochs, from the first on, in which each image is read with its caption (the text of
            type "caption"), if it has one. A caption describes more of an image than an answer.
        introductory_epochs: Number of epochs, from the first on, that read the introductory images alone.
        introductory_until: Number of epochs that read introductory images at all; later ones read the others. None for
            all epochs.
    """

    def __init__(self, data: ImageTexts, tokenizer: TextProcessor, layout: TokenLayout, *, types: Sequence[str] = (),
                 seed: int | None = None, caption_epochs: int = 0, introductory_epochs: int = 0,
                 introductory_until: int | None = None) -> None:  # fmt: skip
        self.data, self.layout, self.seed, self.caption_epochs = data, layout, seed, caption_epochs
        kept = [row[:1] if data.alternatives and seed is None else row for row in data.texts]
        self.count = torch.tensor([len(row) for row in kept])
        self.first = self.count.cumsum(0) - self.count
        self.texts: list[ImageText] = [text for row in kept for text in row]
        self.image_of = torch.arange(len(data)).repeat_interleave(self.count)
        self.types = torch.tensor([types.index(text.type) if text.type in types else -1 for text in self.texts])
        captions = [next((i for i, text in enumerate(row) if text.type == CAPTION), -1) for row in kept]
        self.caption = torch.tensor(captions)
        marked = torch.zeros(len(data), dtype=torch.bool) if data.introductory is None else data.introductory
        self.introductory, self.others = marked.nonzero()[:, 0], (~marked).nonzero()[:, 0]
        self.introductory_epochs = introductory_epochs if len(self.introductory) else 0
        self.introductory_until = introductory_until if len(self.others) else None
        encoded = encode_all(self.texts, tokenizer)
        rows = [layout.ids(*pair) for pair in encoded]
        self.prompt_lengths = torch.tensor([len(layout.prefix) + len(prompt) for prompt, _ in encoded])
        self.lengths = torch.tensor([len(row) for row in rows])
        self.starts = self.lengths.cumsum(0) - self.lengths
        self.ids = torch.tensor([token for row in rows for token in row], dtype=torch.int32)

    def __len__(self) -> int:
        return len(self.texts if self.seed is None else self.count)

    def text_rows(self, keys: Keys) -> Tensor:
        """The text of each item of a batch, int64 [B]."""
        rows = torch.tensor(list(keys))
        if self.seed is None:
            return rows
        if keys.epoch < self.introductory_epochs:
            rows = self.introductory[rows % len(self.introductory)]
        elif self.introductory_until is not None and keys.epoch >= self.introductory_until:
            rows = self.others[rows % len(self.others)]
        chosen = KeyedRandom(self.seed, keys.epoch, rows).integers("text", self.count[rows])
        if keys.epoch < self.caption_epochs:
            captions = self.caption[rows]
            chosen = torch.where(captions < 0, chosen, captions)
        return self.first[rows] + chosen

    def __getitems__(self, keys: Keys) -> dict[str, Any]:
        rows = self.text_rows(keys)
        lengths, prompts = self.lengths[rows, None] - 1, self.prompt_lengths[rows, None]
        positions = torch.arange(int(lengths.max()))
        real = positions < lengths
        places = (self.starts[rows, None] + positions).clamp(max=len(self.ids) - 2)
        return {
            "pixel_values": self.data.images[self.image_of[rows]],
            "input_ids": self.ids[places].long().masked_fill(~real, self.layout.pad),
            "labels": self.ids[places + 1].long().masked_fill(~real | (positions < prompts - 1), IGNORED),
            "attention_mask": real.long(),
            "lengths": lengths[:, 0].tolist(),
            "prompt_lengths": prompts[:, 0].tolist(),
            "types": self.types[rows],
            "index": torch.tensor(list(keys)) if self.seed is None else self.image_of[rows],
            "epoch": keys.epoch,
        }


class ImageTextDataModule(PreparedDataModule):
    """Data module of images with texts about them; see `ImageTextRows` for its batches, whose images are augmented and
    normalized after their transfer to the device.

    Args:
        splits: Dataset splits from `load_visual_questions` or `load_captions`.
        tokenizer: The tokenizer of the model.
        image: The image processor of the model.
        layout: How the model reads prompts and texts.
        batch_size: Images per optimizer step, summed over all devices and accumulation steps.
        augment: Augmentation of the training images. Default: none.
        seed: Seed of the order, of the sampled texts and of the augmentation.
        caption_epochs, introductory_epochs, introductory_until: See `ImageTextRows`.
        options: Options of `KeyedDataModule`.

    Raises: ValueError for a prompt and a text with too many tokens.
    """

    kept = ("input_ids", "labels", "attention_mask", "lengths", "prompt_lengths", "types", "index", "epoch")

    def __init__(self, splits: Splits[ImageTexts], tokenizer: TextProcessor, image: ImageProcessor,
                 layout: TokenLayout, batch_size: int = 64, *, augment: AugmentSettings | None = None, seed: int = 0,
                 caption_epochs: int = 0, introductory_epochs: int = 0, introductory_until: int | None = None,
                 **options: Any) -> None:  # fmt: skip
        self.types = splits.test.types

        def rows(part: ImageTexts, training: bool) -> ImageTextRows:
            return ImageTextRows(part, tokenizer, layout, types=self.types, seed=seed if training else None,
                                 caption_epochs=caption_epochs, introductory_epochs=introductory_epochs,
                                 introductory_until=introductory_until)  # fmt: skip

        super().__init__(splits, batch_size, dataset=rows, seed=seed, **options)
        texts = [[part for text in row for part in (text.prompt, text.target)] for row in splits.train.texts]
        mirrors = torch.tensor([not any(map(mentions_sides, row)) for row in texts])
        self.prepare = ImageBatch(augment or no_augment(), image, mirrors)


def encode_all(texts: Sequence[ImageText], tokenizer: TextProcessor) -> list[tuple[list[int], list[int]]]:
    """(tokens of the prompt, tokens of the text) of each, without the special tokens that the tokenizer adds. A text
    behind a prompt begins with a space.
    """
    pairs = [(text.prompt, f" {text.target}" if text.prompt else text.target) for text in texts]
    unique = list(dict.fromkeys(part for pair in pairs for part in pair))
    encoded = tokenizer.backend.encode_batch(unique, add_special_tokens=False)
    known = {part: encoding.ids for part, encoding in zip(unique, encoded, strict=True)}
    return [(known[prompt], known[target]) for prompt, target in pairs]
