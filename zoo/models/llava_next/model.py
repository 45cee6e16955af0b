"""LLaVA-NeXT (Liu et al. 2024, https://llava-vl.github.io/blog/2024-01-30-llava-next): LLaVA with images of any
resolution, which are read as a whole and in tiles of the size of the image tower."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from zoo.models.bridge.config import BridgeConfig
from zoo.models.bridge.items import Item
from zoo.models.family import Family
from zoo.models.llama.model import VARIANTS as LLAMA
from zoo.models.llava.model import CLIP_336, VICUNA, Llava, llava
from zoo.models.llava_next.mapping import PINPOINTS, TRANSFORMERS
from zoo.nn.init import Initializer, normal_
from zoo.preprocessing.image import ImageProcessor, pair
from zoo.preprocessing.tiled_image import TiledImageProcessor
from zoo.preprocessing.tiles import best_resolution, unpadded


@dataclass(frozen=True, kw_only=True)
class LlavaNextConfig(BridgeConfig):
    """image_grid_pinpoints: the resolutions (height, width) that an image may be resized to, each of whole tiles. See
    BridgeConfig for the other fields."""

    image_grid_pinpoints: tuple[tuple[int, int], ...] = PINPOINTS

    def __post_init__(self) -> None:
        super().__post_init__()
        height, width = self.tile
        for point in self.image_grid_pinpoints:
            if len(point) != 2 or min(point) < 1 or point[0] % height or point[1] % width:
                raise ValueError(f"image_grid_pinpoints has {point}: expected multiples of the image size "
                                 f"{height} x {width} of the image tower")  # fmt: skip
        if not self.image_grid_pinpoints or not self.drop_prefix or self.by != "projector":
            raise ValueError("LLaVA-NeXT needs image_grid_pinpoints, drop_prefix=True and by='projector'")

    @property
    def tile(self) -> tuple[int, int]:
        """The size of a tile: that of the image tower."""
        image: Any = self.encoder_part.config
        return pair(image.image_size)

    @property
    def tokens_per_item(self) -> None:
        """The number of tokens of an image depends on its size."""
        return None

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """(rows, columns) of the tiles of an image of `size`."""
        height, width = best_resolution(size, self.image_grid_pinpoints)
        return height // self.tile[0], width // self.tile[1]


class LlavaNext(Llava):
    """forward(input_ids [B, N], attention_mask, pixel_values [I, K, C, H, W], image_sizes [I, 2]) -> logits [B, N, V].

    pixel_values: of each image the whole, resized, and then its tiles, row by row; missing ones are padding, or all
    tiles of the batch [T, C, H, W]. image_sizes: (height, width) of the images before they were resized. Features of
    the padding around an image are left out, and `newline` stands after each row of features.
    """

    init_falls_with_width = ("newline",)

    def __init__(self, config: LlavaNextConfig, towers: Any = None) -> None:
        super().__init__(config, towers)
        self.newline = nn.Parameter(torch.empty(self.text.config.width))

    def initialize(self, generator_for: Initializer) -> None:
        normal_(self.newline, len(self.newline) ** -0.5, generator_for("newline"))

    def default_preprocess(self) -> Any:
        found = super().default_preprocess()
        if isinstance(found.image, ImageProcessor):
            tiled = TiledImageProcessor(tile=found.image, resolutions=self.config.image_grid_pinpoints, grid=(1, 1))
            found = replace(found, image=tiled.fitted_to(self.image.config))
        return found

    def encoder_names(self) -> list[str]:
        return [*super().encoder_names(), "image_sizes"]

    def complete_example(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Each image has the first of the resolutions, and is the same in all tiles."""
        size, pixels = self.config.image_grid_pinpoints[0], batch["pixel_values"]
        rows, columns = self.config.grid(size)
        tiles = pixels[:, None].expand(-1, 1 + rows * columns, -1, -1, -1).contiguous()
        sizes = torch.tensor([size] * len(pixels))
        return super().complete_example(batch | {"pixel_values": tiles, "image_sizes": sizes})

    def features(  # type: ignore[override]
        self, pixel_values: Tensor | None = None, image_sizes: Tensor | None = None, **batch: Any
    ) -> Tensor:
        """What takes the places of the image tokens [F, D]: of each image the features of the whole, and then those of
        its tiles as one grid, row by row."""
        if pixel_values is None or image_sizes is None:
            raise ValueError("LLaVA-NeXT takes pixel_values and image_sizes together, as model.preprocess makes them")
        sizes = [(int(height), int(width)) for height, width in image_sizes.tolist()]
        grids = [self.config.grid(size) for size in sizes]
        counts = [1 + rows * columns for rows, columns in grids]
        x = super().features(pixel_values=self.tiles(pixel_values, counts))
        parts = x.view(sum(counts), -1, x.shape[-1]).split(counts)
        return torch.cat([self.packed(*each) for each in zip(parts, sizes, grids)])

    def items(self, batch: Mapping[str, Tensor]) -> list[Item]:
        if batch.keys() != {"pixel_values", "image_sizes"}:
            return super().items(batch)
        sizes = batch["image_sizes"]
        grids = [self.config.grid((int(height), int(width))) for height, width in sizes.tolist()]
        counts = [1 + rows * columns for rows, columns in grids]
        tiles = self.tiles(batch["pixel_values"], counts).split(counts)
        return [Item.of({"pixel_values": x[None], "image_sizes": size[None]}) for x, size in zip(tiles, sizes)]

    def tiles(self, pixels: Tensor, counts: list[int]) -> Tensor:
        """The tiles [T, C, H, W] of a batch, without padding. Raises ValueError for another number of them."""
        if pixels.ndim == 5 and len(pixels) == len(counts) and pixels.shape[1] >= max(counts):
            return torch.cat([tiles[:count] for tiles, count in zip(pixels, counts)])
        if pixels.ndim != 4 or len(pixels) != sum(counts):
            raise ValueError(
                f"pixel_values are {tuple(pixels.shape)}, but images of these image_sizes have {counts} tiles: "
                "expected [I, K, C, H, W] or all tiles [T, C, H, W], as model.preprocess makes them"
            )
        return pixels

    def packed(self, x: Tensor, size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
        """The features [F, D] of one image from those of its tiles x [1 + rows * columns, T, D]."""
        rows, columns = grid
        height, width = self.image.patches.grid
        whole, tiles = x[0], x[1:].view(rows, columns, height, width, -1)
        plane = tiles.transpose(1, 2).reshape(rows * height, columns * width, -1)
        plane = plane[unpadded(size, (rows * height, columns * width))]
        ends = self.newline.to(plane.dtype).expand(len(plane), 1, -1)
        return torch.cat([whole, torch.cat([plane, ends], 1).flatten(0, 1)])


MISTRAL = LLAMA["mistral_7b_v03"] | dict(vocab_size=32064, attention="softmax", pad_token_id=32001)
VARIANTS: dict[str, dict[str, Any]] = {
    "llava_next_nano": llava(
        dict(image_size=32, patch_size=16, width=96, depth=3, heads=3),
        LLAMA["llama_nano"],
        image_token_id=1,
        image_grid_pinpoints=((32, 64), (64, 32), (64, 64)),
    ),
    "llava_next_mistral_7b": llava(CLIP_336, MISTRAL),
    "llava_next_vicuna_7b": llava(CLIP_336, LLAMA["llama2_7b"] | VICUNA),
}

SOURCES = {
    "llava_next_mistral_7b": "hf-hub:llava-hf/llava-v1.6-mistral-7b-hf",
    "llava_next_vicuna_7b": "hf-hub:llava-hf/llava-v1.6-vicuna-7b-hf",
}

FAMILY = Family(
    "llava_next", LlavaNext, LlavaNextConfig, "multimodal", VARIANTS, SOURCES, {"transformers": TRANSFORMERS}
)
