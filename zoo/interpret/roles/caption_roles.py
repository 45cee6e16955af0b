"""Roles of heads in models that describe images (BLIP, CoCa): of their image encoder, and of the texts about images."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.interpret.roles.batches import RoleBatch, split_rows
from zoo.interpret.roles.image_roles import image_batches
from zoo.interpret.roles.token_roles import count_tokens, token_targets
from zoo.interpret.roles.token_rows import TokenRow, encode_texts, text_inputs
from zoo.models.coca.model import CoCa

NO_CAPTIONS = "the images have no captions: give pairs (image, caption)"


def is_captioned(item: Any) -> bool:
    """Whether an item is a pair (image, caption)."""
    return isinstance(item, tuple) and len(item) == 2 and isinstance(item[1], str)


def caption_batches(
    model: Any, processor: Any, images: Sequence[Any], captions: Sequence[str | None], boxes: Sequence[Tensor]
) -> Iterator[RoleBatch]:
    """Batches of images for the encoder, and of images with captions for the layers that read texts."""
    yield from image_batches(model.encoder.tokens, processor.image, images, boxes)
    captioned = [(image, caption) for image, caption in zip(images, captions) if caption is not None]
    rows = [read_by(model, row) for row in encode_texts(processor.text, [caption for _, caption in captioned])]
    counts = count_tokens(rows)
    for indices in split_rows([len(row) for row in rows]):
        chosen = [rows[i] for i in indices]
        texts = text_inputs(chosen, processor.text)
        length = texts["input_ids"].shape[1]
        targets = {"decoder": token_targets(chosen, length, counts)}
        if isinstance(model, CoCa):  # its text tower reads a token of padding and the class token behind the texts
            longest = min(length + 1, model.config.max_length) + 1
            targets["text"] = token_targets(chosen, longest, counts)
        pixels = torch.cat([processor.image(captioned[i][0])["pixel_values"] for i in indices])
        own = {name: x for name, x in texts.items() if name in model.inputs}
        yield RoleBatch({"pixel_values": pixels, **own}, targets)


def read_by(model: Any, row: TokenRow) -> TokenRow:
    """What the decoder reads of a caption: of BLIP its start token and the words."""
    if isinstance(model, CoCa):
        return row
    words = [i for i, special in enumerate(row.special) if not special]
    spans = None if row.spans is None else [(0, 0), *(row.spans[i] for i in words)]
    ids = [model.config.decoder_start_token_id, *(row.ids[i] for i in words)]
    return TokenRow(ids, [True] + [False] * len(words), row.text, spans)
