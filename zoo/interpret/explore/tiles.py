"""The positions of an image that a model reads as a whole and in tiles, among the words of a text (LLaVA-NeXT)."""

from typing import Any

import torch

from zoo.interpret.explore.positions import Patches, Positions, TileGrid, prefix_names
from zoo.preprocessing.image import load_image
from zoo.preprocessing.tiled_image import TiledImageProcessor
from zoo.preprocessing.tiles import unpadded

LINE_END = 128  # gray level of the places that stand for the ends of rows


def of_tiles(tower: Any, processor: TiledImageProcessor, image: Any) -> tuple[Positions, list[Patches]]:
    """(positions of the image tower over the whole image, what the decoder reads: the whole, and the tiles as one grid
    without the padding around the image, of which each row has a token for its end).

    tower: the image tower, which reads the whole first.
    """
    pixels = load_image(image, processor.channels, "tensor")
    whole = Patches("image", pixels, processor.grid, name="whole image")  # resized to a tile, it fills all of it
    plane = processor.plane(pixels)
    patch = [size // count for size, count in zip(processor.tile.size, processor.grid)]
    grid = (plane.shape[1] // patch[0], plane.shape[2] // patch[1])
    rows, columns = unpadded((pixels.shape[1], pixels.shape[2]), grid)
    inside = [slice(part.start * size, part.stop * size) for part, size in zip((rows, columns), patch)]
    shown = plane[:, inside[0], inside[1]]
    ends = shown.new_full((len(shown), shown.shape[1], patch[1]), LINE_END)
    tiles = TileGrid(processor.grid, (rows.start, columns.start), grid[1] // processor.grid[1])
    read = Patches("image", torch.cat([shown, ends], 2),
                   (rows.stop - rows.start, columns.stop - columns.start + 1), tiles=tiles)  # fmt: skip
    return Positions((prefix_names(tower.patches), whole)), [whole, read]
