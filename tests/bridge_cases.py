"""Rows with images for the tests of bridges: the first row has one image, the second none, the third two."""

from torch import Tensor

IMAGES = (slice(0, 1), slice(0, 0), slice(1, 3))


def alone(batch: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    """One row without padding, and its images."""
    ids = batch["input_ids"][row][batch["attention_mask"][row].bool()][None]
    pixels = batch["pixel_values"][IMAGES[row]]
    return {"input_ids": ids} | ({"pixel_values": pixels} if len(pixels) else {})
