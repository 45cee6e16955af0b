"""Towers small enough for tests, with dropout: the interface of a contrastive model of the zoo, in double precision."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree

from zoo.nn.losses.contrastive import clip_loss, siglip_loss

INPUTS = {"image": "pixel_values", "text": "input_ids", "audio": "input_values"}


@dataclass(frozen=True)
class Output:
    image_features: Tensor | None
    text_features: Tensor | None
    audio_features: Tensor | None
    logit_scale: Tensor
    logit_bias: Tensor | None

    def pairs(self) -> list[tuple[str, str]]:
        there = [name for name in INPUTS if getattr(self, f"{name}_features") is not None]
        return [(a, b) for i, a in enumerate(there) for b in there[i + 1 :]]


_pytree.register_dataclass(Output)


class Towers(nn.Module):
    """Pictures [B, 6], texts [B, N] of 50 tokens and sounds [B, 5] -> features [B, 8]."""

    def __init__(self, *modalities: str, dropout: float = 0.0, kind: str = "clip") -> None:
        super().__init__()
        self.modalities = modalities or ("image", "text")
        self.inputs = tuple(INPUTS[name] for name in self.modalities)
        towers = {
            "image": nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Dropout(dropout), nn.Linear(16, 8)),
            "text": nn.Sequential(nn.EmbeddingBag(50, 16, mode="sum"), nn.Dropout(dropout), nn.Linear(16, 8)),
            "audio": nn.Sequential(nn.Linear(5, 16), nn.GELU(), nn.Dropout(dropout), nn.Linear(16, 8)),
        }
        self.towers = nn.ModuleDict({name: towers[name] for name in self.modalities})
        self.logit_scale = nn.Parameter(torch.tensor(math.log(10)))
        self.logit_bias = nn.Parameter(torch.tensor(-5.0)) if kind == "siglip" else None
        self.rows: list[int] = []

    def forward(self, **inputs: Tensor) -> Output:
        found = dict.fromkeys(INPUTS) | {
            name: F.normalize(tower(inputs[INPUTS[name]]), dim=1)
            for name, tower in self.towers.items()
            if INPUTS[name] in inputs
        }
        self.rows.append(len(next(iter(inputs.values()))))
        return Output(**{f"{k}_features": x for k, x in found.items()}, logit_scale=self.logit_scale.exp(),
                      logit_bias=self.logit_bias)  # fmt: skip

    def loss(self, output: Output, **options: Any) -> Tensor:
        ((one, other),) = output.pairs()
        a, b = getattr(output, f"{one}_features"), getattr(output, f"{other}_features")
        if output.logit_bias is None:
            return clip_loss(a, b, output.logit_scale, **options)
        return siglip_loss(a, b, output.logit_scale, output.logit_bias, **options)


def towers(*modalities: str, seed: int = 0, **options: Any) -> Towers:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Towers(*modalities, **options).double()


def batch(rows: int = 12, seed: int = 0) -> dict[str, Tensor]:
    """Rows whose picture, text and sound say the same."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 6, generator=g, dtype=torch.float64)
    return {
        "pixel_values": x,
        "input_ids": torch.arange(6) * 8 + ((x + 3) * 4 / 3).long().clamp(0, 7),
        "input_values": x[:, :5] * 2 - 1,
    }


class Batches(torch.utils.data.IterableDataset[dict[str, Tensor]]):
    """Slices of one batch, in order; of all processes, this one's."""

    def __init__(self, data: dict[str, Tensor], size: int, rank: int = 0, world: int = 1) -> None:
        self.data, self.size, self.rank, self.world = data, size, rank, world

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for k, start in enumerate(range(0, len(self.data["pixel_values"]), self.size)):
            if k % self.world == self.rank:
                yield {name: x[start : start + self.size] for name, x in self.data.items()}


def loader(data: dict[str, Tensor], size: int, rank: int = 0, world: int = 1) -> Any:
    return torch.utils.data.DataLoader(Batches(data, size, rank, world), batch_size=None)
