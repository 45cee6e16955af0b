"""Roles of heads over the patches of images: near patches, the border, objects in boxes."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy
import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.interpret.plot import load_image
from zoo.interpret.roles.batches import PositionBins, RoleBatch, Target, grid_offsets, split_rows
from zoo.nn.frontends.image import PatchEmbedding

COVERED = 0.5  # part of a patch that an object covers, for it to be one of the object's patches
NO_BOXES = (
    "the images have no boxes: give pairs (image, boxes), with (left, top, right, bottom) of each object in pixels"
)


def split_boxes(data: Sequence[Any]) -> tuple[list[Any], list[Tensor]]:
    """(images, boxes [K, 4] of each) of a list of images or of pairs (image, boxes); empty boxes are left out.

    Raises: ValueError for boxes of another shape or with a right or lower edge before the other one.
    """
    images, boxes = [], []
    for index, item in enumerate(data):
        pair = isinstance(item, tuple) and len(item) == 2
        images.append(item[0] if pair else item)
        try:
            own = torch.as_tensor(numpy.asarray(item[1] if pair else []), dtype=torch.float32)
        except (TypeError, ValueError):
            own = torch.zeros(1)
        own = own.reshape(0, 4) if own.numel() == 0 else own
        if own.ndim != 2 or own.shape[1] != 4 or bool((own[:, 2:] < own[:, :2]).any()):
            raise ValueError(
                f"the boxes of image {index} are {item[1]!r:.80}: expected (left, top, right, bottom) in pixels, [K, "
                "4], with left <= right and top <= bottom"
            )
        boxes.append(own[(own[:, 2:] > own[:, :2]).all(1)])
    return images, boxes


def image_batches(
    patches: PatchEmbedding, processor: Any, images: Sequence[Any], boxes: Sequence[Tensor]
) -> Iterator[RoleBatch]:
    """Batches of images for a model with these patches."""
    grid, prefix = patches.grid, patches.prefix
    tokens = prefix + grid[0] * grid[1]
    positions = {"encoder": PositionBins(grid_offsets(grid, prefix), torch.arange(tokens) >= prefix)}
    fixed = patch_targets(grid, prefix)
    for indices in split_rows([tokens] * len(images)):
        pixels = torch.cat([processor(images[i])["pixel_values"] for i in indices])
        objects = [object_patches(processor, images[i], boxes[i], grid) for i in indices]
        targets = fixed | object_targets(objects, prefix, tokens)
        yield RoleBatch({"pixel_values": pixels}, {"encoder": targets}, positions if len(images) > 1 else {})


def patch_targets(grid: tuple[int, int], prefix: int) -> dict[str, Target]:
    """The targets that are the same in all images; queries are the patches."""
    rows, columns = grid
    tokens = prefix + rows * columns
    patch = torch.arange(rows * columns)
    row, column = patch // columns, patch % columns
    step = torch.maximum((row[:, None] - row).abs(), (column[:, None] - column).abs())
    border = (row == 0) | (row == rows - 1) | (column == 0) | (column == columns - 1)
    queries = (torch.arange(tokens) >= prefix)[None]

    def over(weights: Tensor) -> Tensor:
        """Weights of patches [.., P] for all tokens [1, .., N]."""
        return F.pad(weights.float(), (prefix, 0, prefix, 0) if weights.ndim == 2 else (prefix, 0))[None]

    found = {"same": Target(over(step == 0), queries), "local": Target(over(step == 1), queries)}
    if not bool(border.all()):
        found["border"] = Target(over(border)[:, None], queries)
    if prefix:
        found["first"] = Target((torch.arange(tokens) == 0)[None, None], queries)
    return found


def object_targets(objects: Sequence[Tensor], prefix: int, tokens: int) -> dict[str, Target]:
    """The targets of images with boxes. objects: bool [K, P] of each image, the patches of its objects."""
    inside = torch.zeros(len(objects), tokens)
    same, within = torch.zeros(len(objects), tokens, tokens), torch.zeros(len(objects), tokens, dtype=torch.bool)
    for i, masks in enumerate(objects):
        if not len(masks):
            continue
        inside[i, prefix:] = masks.any(0).float()
        alone = masks & (masks.sum(0) == 1)  # patches of several objects belong to none of them
        if len(alone) > 1 and bool(alone.any(1).all()):
            own = alone.T.float() @ alone.float()
            same[i, prefix:, prefix:] = 2 * own - alone.any(0).float()
            same[i].fill_diagonal_(0)
            within[i, prefix:] = alone.any(0)
    has_object = (inside > 0).any(1, keepdim=True)
    real = torch.arange(tokens) >= prefix
    return {
        "object": Target(inside[:, None], real & has_object & (inside == 0)),
        "same_object": Target(same, within),
    }


def object_patches(processor: Any, image: Any, boxes: Tensor, grid: tuple[int, int]) -> Tensor:
    """The patches of each object, bool [K, P]: those that its box covers by half, or else the one that it covers most.

    A white box goes through the preprocessing of the image, so that it is resized and cropped alike. Objects outside of
    the crop have no patches and are left out.
    """
    if not len(boxes):
        return torch.zeros(0, grid[0] * grid[1], dtype=torch.bool)
    height, width = load_image(image).shape[-2:]
    found = []
    for left, top, right, bottom in boxes.round().int().tolist():
        canvas = torch.zeros(processor.channels, height, width, dtype=torch.uint8)
        rows, columns = slice(max(top, 0), max(bottom, top + 1, 0)), slice(max(left, 0), max(right, left + 1, 0))
        canvas[:, rows, columns] = 255
        white = processor.pixels(canvas)[0].float() / 255
        covered = F.adaptive_avg_pool2d(white[None, None], grid).flatten()
        patches = covered >= COVERED
        if bool((covered > 0).any()):
            found.append(patches if bool(patches.any()) else covered == covered.max())
    return torch.stack(found) if found else torch.zeros(0, grid[0] * grid[1], dtype=torch.bool)
