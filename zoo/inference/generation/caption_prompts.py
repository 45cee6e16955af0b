"""Images that `zoo.generate` describes with an encoder-decoder that reads images, and the texts that captions begin
with."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from zoo.inference.generation.text_prompts import TextPrompts, encode_prompts
from zoo.models.encoder_decoder import EncoderDecoder
from zoo.preprocessing.modality import MODALITIES, of_model


def reads_images(model: Any) -> bool:
    """Whether a model is an encoder-decoder that writes texts about images."""
    return isinstance(model, EncoderDecoder) and MODALITIES["image"] in of_model(model)


def encode_images(
    model: Any, images: Any, prompts: Any, mask: Tensor | None, tokenizer: Any
) -> tuple[TextPrompts, dict[str, Any], Tensor]:
    """(the captions to write, input_ids and attention_mask of their prompts, pixel_values) for one image or a list.

    prompts: None, a text for all images, or a list of one text each. Raises ValueError for other ones.
    """
    pixel_values = pixels_of(model, images)
    rows = len(pixel_values)
    several = isinstance(images, list | tuple) or getattr(images, "ndim", 0) == 4
    if prompts is None:
        if mask is not None:
            raise ValueError("attention_mask belongs to a tensor of input_ids: omit it")
        places = torch.ones(rows, 1, dtype=torch.long)
        return (
            TextPrompts(places, places, [""] * rows, not several, is_source=True),
            {"input_ids": None, "attention_mask": None},
            pixel_values,
        )
    texts = [prompts] * rows if isinstance(prompts, str) else prompts
    found = None if isinstance(texts, Tensor | Mapping) else encode_prompts(model, texts, mask, tokenizer)
    if found is None or len(found.ids) != rows:
        given = f"{len(texts)} texts" if isinstance(texts, list | tuple) else f"a {type(prompts).__name__}"
        raise ValueError(
            f"images= has {rows} images, and the prompts are {given}: expected a text, or a list of one text for each "
            "image; tensors of input_ids go with pixel_values="
        )
    words = found.mask * (found.ids[..., None] != torch.tensor(ends_of(model))).all(-1)
    return (
        TextPrompts(found.ids, words, found.texts, not several),
        {"input_ids": found.ids, "attention_mask": found.mask},
        pixel_values,
    )


def ends_of(model: Any) -> list[int]:
    """The tokens at the end of a prompt that a caption takes the place of: padding and end tokens."""
    ends = model.config.eos_token_id
    found = (model.config.pad_token_id, *([ends] if isinstance(ends, int | None) else ends))
    return [token for token in found if token is not None]


def pixels_of(model: Any, images: Any) -> Tensor:
    """The pixel_values [B, C, H, W] of one image or a list. Raises ValueError without a processor for them."""
    process = getattr(model.preprocess, "image", None)
    if process is None:
        raise ValueError(
            "images= needs the image processor of the model, and model.preprocess has none: pass pixel_values="
        )
    pixels: Tensor = process(images)["pixel_values"]
    return pixels.to(model.device, model.dtype)
