"""The positions of models that read the tokens of a text and of an image in one stack: DALL-E and MaskGIT."""

from typing import Any

import torch
from torch import Tensor

from zoo.inference.generation.images import generate_images, pixels_of
from zoo.interpret.explore.positions import Patches, Positions, Tokens
from zoo.interpret.token_texts import token_texts

GRAY = 160  # of the place of an image that cannot be shown


def with_image_tokens(model: Any, batch: dict[str, Tensor], image: Any) -> tuple[dict[str, Tensor], Positions]:
    """The batch of one text with the tokens of an image, and the positions of both.

    image: an image, or its tokens as integers [rows, columns]; None: the one that the model makes of the text, with
    seed=0. Without an image tokenizer the page has a gray area under the tokens.

    Raises: ValueError for an image that is not given as tokens, if the model has no image tokenizer.
    """
    c, tokenizer = model.config, model.image_tokenizer
    if image is None:
        ids = generate_images(model, batch, seed=0).tokens[0, 0]
    elif isinstance(image, Tensor) and image.ndim == 2 and not image.is_floating_point():
        ids = image
    elif tokenizer is None:
        raise ValueError(
            "the model has no image tokenizer that reads an image: set one, model.set_image_tokenizer(...), give the "
            "tokens of the image [rows, columns], or the text alone"
        )
    else:
        with torch.no_grad():
            read = {name: x.to(tokenizer.device) for name, x in tokenizer.preprocess(image).items()}
            ids = tokenizer.tokenize(**read).view(c.image_grid)
    batch = {**batch, "image_ids": ids.cpu()[None]}
    joint = model.joint_tokens(batch["input_ids"], batch.get("attention_mask"), batch["image_ids"])[0].tolist()
    before = model.start + c.text_length
    if tokenizer is None:
        pixels = torch.full((1, *c.image_grid), GRAY, dtype=torch.uint8)
    elif image is None or image is ids:
        pixels = pixels_of(tokenizer, ids[None, None])[0, 0].cpu()
    else:
        pixels = tokenizer.preprocess.pixels(image)
    read_tokens = len(joint) - before  # DALL-E does not read the last one
    patches = Patches("image", pixels, c.image_grid, count=read_tokens if read_tokens < c.image_length else None)
    return batch, Positions((Tokens(names_of(model, joint[:before])), patches))


def names_of(model: Any, ids: list[int]) -> tuple[str, ...]:
    """What the tokens before the image are called; padding has ids behind those of the tokenizer."""
    start, size = model.start, model.config.text_vocab_size
    texts = ("[PAD]" if number >= size else token_texts(model.preprocess, [number])[0] for number in ids[start:])
    return ("[START]",) * start + tuple(texts)
