"""Geometry of images cut into parts: tiles of a model's size (LLaVA-NeXT), crops of the longer side (Gemma 3)."""

import math
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


def pan_and_scan(size: Size, *, smallest: int, most: int, ratio: float) -> list[tuple[slice, slice]]:
    """The (rows, columns) of crops that cut an image of `size` along its longer side; none for one that is not long.

    An image is cut if its longer side is at least `ratio` times its shorter one, into about as many crops as that, at
    least 2 and at most `most`, whose sides have at least `smallest` pixels. "Pan & Scan" of Gemma 3 (Gemma Team 2025).
    """
    short, long = sorted(size)
    if long / short < ratio:
        return []
    number = min(math.floor(long / short + 0.5), long // smallest)
    step = math.ceil(long / min(max(number, 2), most))
    if min(step, short) < smallest:
        return []
    whole, parts = slice(0, short), [slice(start, min(start + step, long)) for start in range(0, long, step)]
    return [(whole, part) if size[1] >= size[0] else (part, whole) for part in parts]
