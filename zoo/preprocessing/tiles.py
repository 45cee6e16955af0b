"""Geometry of images cut into tiles of a model's size (LLaVA-NeXT): which grid fits, and what of it is padding."""

from collections.abc import Sequence

Size = tuple[int, int]  # (height, width)


def best_resolution(size: Size, resolutions: Sequence[Size]) -> Size:
    """The resolution that keeps most pixels of an image of `size`, and among these the smallest one."""
    found, most, least = resolutions[0], 0, 0
    for height, width in resolutions:
        scale = min(width / size[1], height / size[0])
        kept = min(int(size[1] * scale) * int(size[0] * scale), size[0] * size[1])
        wasted = height * width - kept
        if kept > most or (kept == most and wasted < least):
            found, most, least = (height, width), kept, wasted
    return found


def unpadded(size: Size, grid: Size) -> tuple[slice, slice]:
    """The rows and columns of a grid of features that show the image, which was padded to the shape of the grid."""
    height, width = size
    rows, columns = grid
    if width / height > columns / rows:
        padding = (rows - int(round(height * (columns / width), 7))) // 2
        return slice(padding, rows - padding), slice(0, columns)
    padding = (columns - int(round(width * (rows / height), 7))) // 2
    return slice(0, rows), slice(padding, columns - padding)
