"""Models of several towers for the tests of embedding and searching: one that knows colors, and a tiny real one."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

import zoo
from zoo.preprocessing.image import ImageProcessor
from zoo.preprocessing.multimodal import MultimodalProcessor
from zoo.preprocessing.tokenizer_training import train

COLORS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220), "yellow": (230, 220, 30)}


class Words:
    """A text -> its three color values; an unknown word is gray."""

    def __call__(self, texts: list[str]) -> dict[str, Tensor]:
        known = [[COLORS[w] for w in text.lower().split() if w in COLORS] or [(128, 128, 128)] for text in texts]
        if any(len(text) > 200 for text in texts):
            raise ValueError("a text has more than 200 characters")
        return {"input_ids": torch.tensor([[sum(c) / len(found) for c in zip(*found)] for found in known])}


class Colors(nn.Module):
    """Pictures and texts of one color lie close to each other."""

    family = "colors"
    modalities: tuple[str, ...] = ("image", "text")

    def __init__(self, seed: int = 0, width: int = 16) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(3, width, generator=draw))
        image = ImageProcessor(size=(8, 8), fit="squash", mean=(0.5,), std=(0.5,))
        self.preprocess: Any = lambda images=None, text=None: image(images) if images is not None else Words()(text)
        self.logit_scale = nn.Parameter(torch.tensor(4.0))

    def encode_image(self, pixel_values: Tensor, normalize: bool = True) -> Tensor:
        return nn.functional.normalize(pixel_values.mean((2, 3)) @ self.weight, dim=-1)

    def encode_text(self, input_ids: Tensor, normalize: bool = True) -> Tensor:
        return nn.functional.normalize((input_ids / 127.5 - 1) @ self.weight, dim=-1)


def tiny(seed: int = 0) -> Any:
    """zoo.contrast of two small towers, with a tokenizer."""
    image = {"name": "vit_cifar_tiny", "depth": 1, "width": 32, "heads": 2}
    text = {"name": "bert_tiny", "depth": 1, "width": 32, "heads": 2, "vocab_size": 300, "hidden": 64}
    model = zoo.contrast(image=image, text=text, width=24, seed=seed)
    words = train("wordpiece", ["a red bird", "a green frog", "blue sky over yellow sand"] * 3, 300, max_length=16)
    model.preprocess = MultimodalProcessor(image=ImageProcessor(size=(32, 32)), text=words)
    return model


def draw(folder: Path, count: int = 8, size: int = 24) -> list[Path]:
    """Pictures of one color each, of mixed sizes, in the folder and one below: `red-0.png`, `more/green-1.png` ..."""
    (folder / "more").mkdir(parents=True, exist_ok=True)
    made = []
    for i in range(count):
        name = list(COLORS)[i % len(COLORS)]
        color = tuple(min(255, c + 3 * (i // len(COLORS))) for c in COLORS[name])
        path = folder / ("more" if i % 2 else ".") / f"{name}-{i}.png"
        Image.new("RGB", (size + 3 * i, size + i), color).save(path)
        made.append(path)
    return made
