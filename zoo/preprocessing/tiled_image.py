"""Images of any resolution as tiles of a model's size (LLaVA-NeXT)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from zoo.preprocessing.image import ImageProcessor, as_image_list, load_image, pair
from zoo.preprocessing.tiles import Size, best_resolution, unpadded
from zoo.utils.errors import check_keys


@dataclass(frozen=True, kw_only=True)
class TiledImageProcessor:
    """Images -> {"pixel_values": [I, K, C, H, W], "image_sizes": [I, 2]}, the sizes (height, width) before resizing.

    An image is the whole, resized to a tile, and then the tiles of the best of the `resolutions`: it is resized to fit
    into it and padded with black around. Images of fewer tiles than others have zeros behind them.

    tile: the processor of a tile. grid: the (rows, columns) of features of a tile.
    """

    tile: ImageProcessor
    resolutions: tuple[Size, ...]
    grid: Size

    @property
    def channels(self) -> int:
        return self.tile.channels

    def __call__(self, images: Any) -> dict[str, Tensor]:
        """images: one or a list, as `ImageProcessor` takes them."""
        tiles, sizes = [], []
        for image in as_image_list(images):  # of which one at a time is in memory in its own resolution
            whole = load_image(image, self.channels, "tensor")
            tiles.append(self.tiles(whole))
            sizes.append(tuple(whole.shape[1:]))
        most = max(map(len, tiles))
        pixels = torch.stack([torch.cat([x, x.new_zeros(most - len(x), *x.shape[1:])]) for x in tiles])
        return {"pixel_values": pixels, "image_sizes": torch.tensor(sizes)}

    def tiles(self, image: Tensor) -> Tensor:
        """The whole and the tiles of one image: uint8 [C, H, W] -> float [1 + rows * columns, C, h, w]."""
        from torchvision.transforms.v2 import InterpolationMode
        from torchvision.transforms.v2.functional import resize

        mode, (height, width) = InterpolationMode(self.tile.interpolation), self.tile.size
        cut = self.plane(image).unfold(1, height, height).unfold(2, width, width).flatten(1, 2).transpose(0, 1)
        whole = resize(image, [height, width], mode, antialias=True)
        return self.tile.normalize(torch.cat([whole[None], cut]))

    def plane(self, image: Tensor) -> Tensor:
        """An image uint8 [C, H, W] resized to fit into its best resolution and padded to it, to be cut."""
        from torchvision.transforms.v2 import InterpolationMode
        from torchvision.transforms.v2.functional import pad, resize

        size = (image.shape[1], image.shape[2])
        target = best_resolution(size, self.resolutions)
        inner = fitting(size, target)
        left, top = (target[1] - inner[1]) // 2, (target[0] - inner[0]) // 2
        fit = resize(image, list(inner), InterpolationMode(self.tile.interpolation), antialias=True)
        return pad(fit, [left, top, target[1] - inner[1] - left, target[0] - inner[0] - top])

    def numbers_of_tokens(self, image_sizes: Tensor) -> list[int]:
        """How many tokens images of these sizes [I, 2] have: the features of the whole and of the tiles without
        padding, and one after each row of these."""
        numbers = []
        for size in map(tuple, image_sizes.tolist()):
            target = best_resolution(size, self.resolutions)
            rows, columns = (t // edge * n for t, edge, n in zip(target, self.tile.size, self.grid))
            high, wide = unpadded(size, (rows, columns))
            inside = (high.stop - high.start) * (wide.stop - wide.start + 1)
            numbers.append(self.grid[0] * self.grid[1] + inside)
        return numbers

    def fitted_to(self, config: Any) -> "TiledImageProcessor":
        """A copy adapted to an image tower with this config."""
        size, patch = pair(config.image_size), pair(config.patch_size)
        grid = (size[0] // patch[0], size[1] // patch[1])
        return replace(self, tile=self.tile.fitted_to(config), grid=grid)

    # --- files ----------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types."""
        resolutions = [list(each) for each in self.resolutions]
        return {"kind": "tiles", "tile": self.tile.to_dict(), "resolutions": resolutions, "grid": list(self.grid)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], files: Mapping[str, str] | None = None) -> "TiledImageProcessor":
        """The inverse of `to_dict`. An unknown or missing key raises LoadError."""
        values = {name: value for name, value in values.items() if name != "kind"}
        check_keys("preprocess", values, ["tile", "resolutions", "grid"])
        resolutions = tuple((int(h), int(w)) for h, w in values["resolutions"])
        rows, columns = values["grid"]
        return cls(tile=ImageProcessor.from_dict(values["tile"]), resolutions=resolutions, grid=(rows, columns))

    def files(self) -> dict[str, str]:
        """{name: contents} of files saved beside config.json: none."""
        return {}

    def check(self, config: Any) -> None:
        """No check: images are checked when they are preprocessed."""

    def transformers_files(self) -> dict[str, Any]:
        """{name: contents} of the files that transformers reads."""
        values = self.tile.to_transformers() | {
            "image_processor_type": "LlavaNextImageProcessor",
            "size": {"shortest_edge": self.tile.size[0]},
            "crop_size": {"height": self.tile.size[0], "width": self.tile.size[1]},
            "do_center_crop": True,
            "do_pad": True,
            "image_grid_pinpoints": [list(each) for each in self.resolutions],
        }
        return {"preprocessor_config.json": values}


def fitting(size: Sequence[int], target: Size) -> Size:
    """The largest (height, width) of the proportions of `size` within `target`."""
    high, wide = target[0] / size[0], target[1] / size[1]
    if wide < high:
        return min(math.ceil(size[0] * wide), target[0]), target[1]
    return target[0], min(math.ceil(size[1] * high), target[1])
