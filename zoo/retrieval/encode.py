"""Encode images, texts and audio clips into one embedding space, and the fingerprint of a model's embeddings."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.models.eval_mode import eval_mode
from zoo.nn.lengths import place
from zoo.preprocessing.modality import MODALITIES, of_model
from zoo.utils import renamed


class Encoder:
    """The towers of a model by modality: "image", "text", "audio".

    model: anything with `encode_image`, `encode_text` or `encode_audio` and a matching `preprocess`, or a model of one
    tower with head="pool". Raises ValueError for a model without pooled features.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.modalities = tuple(
            kind for kind in getattr(model, "modalities", MODALITIES) if hasattr(model, f"encode_{kind}")
        )
        self.single = not self.modalities
        if self.single:
            if getattr(getattr(model, "config", None), "head", None) != "pool":
                raise ValueError(
                    f"{type(model).__name__} has no embeddings to compare: expected a model of several towers "
                    "(zoo.contrast, CLIP, SigLIP), or the features that the head of this one reads, "
                    "zoo.load(FOLDER, head='pool'); zoo.save keeps them so, for zoo embed"
                )
            self.modalities = tuple(record.name for record in of_model(model))
        if getattr(model, "preprocess", None) is None:
            raise ValueError("the model has no preprocessing: set model.preprocess, as zoo.predict needs it, too")

    @property
    def string_modality(self) -> str:
        """The modality of strings that are no paths: "text", or of a model that reads no texts "protein"."""
        return next((kind for kind in self.modalities if MODALITIES[kind].strings), "text")

    def need(self, kind: str, what: str = "") -> None:
        """Raise ValueError unless there is a tower for `kind`."""
        if kind not in self.modalities:
            prefix = f"{what}: " if what else ""
            raise ValueError(f"{prefix}the model has no {kind} tower; it has {', '.join(self.modalities)}")

    def prepare(self, kind: str, items: Sequence[Any]) -> dict[str, Tensor]:
        """The batch for `encode`, from items of one modality: images or audio clips (or their paths), or texts."""
        values: Any = list(items)
        if self.single:
            return dict(self.model.preprocess(values))
        return dict(self.model.preprocess(**{MODALITIES[kind].argument: values}))

    @torch.no_grad()
    def encode(self, kind: str, batch: Mapping[str, Tensor]) -> Tensor:
        """A prepared batch -> float32 [B, D] on the CPU, each row of length 1."""
        like = next(self.model.parameters()) if isinstance(self.model, nn.Module) else torch.empty(0)
        placed = place(batch, getattr(self.model, "inputs", ()), like)
        call: Callable[..., Tensor] = self.model if self.single else getattr(self.model, f"encode_{kind}")
        if isinstance(self.model, nn.Module):
            with eval_mode(self.model):
                rows = call(**placed)
        else:
            rows = call(**placed)
        return F.normalize(rows.float().cpu(), dim=-1)

    def vectors(self, kind: str, items: Sequence[Any], batch_size: int = 64) -> Tensor:
        """float32 [N, D], each row of length 1, of items of one modality."""
        self.need(kind)
        starts = range(0, len(items), batch_size)
        return torch.cat([self.encode(kind, self.prepare(kind, items[i : i + batch_size])) for i in starts])


def fingerprint(model: Any) -> str:
    """32 hexadecimal digits that change with any weight, with the config and with the preprocessing of a model.

    Vectors of two models with one fingerprint can be compared. An optimized model has that of the model that it was
    made from, with its own precision.
    """
    precision = getattr(model, "dtype_", None)
    if hasattr(model, "source_"):
        model = model.source_()
        if model is None:
            raise ValueError("the model that this one was optimized from is gone: keep it, its weights are what counts")
    description = {
        "family": getattr(model, "family", type(model).__name__),
        "config": renamed.in_format_1(_description(getattr(model, "config", None))),
        "preprocess": renamed.in_format_1(_description(getattr(model, "preprocess", None))),
        "files": model.preprocess.files() if hasattr(getattr(model, "preprocess", None), "files") else {},
        "precision": str(precision),
    }
    digest = hashlib.blake2b(json.dumps(description, sort_keys=True, default=str).encode(), digest_size=16)
    state = model.state_dict() if isinstance(model, nn.Module) else {}
    with ThreadPoolExecutor(4) as pool:  # hashing lets other threads run
        for part in pool.map(_digest, sorted(state.items())):
            digest.update(part)
    return digest.hexdigest()


def _description(value: Any) -> Any:
    return value.to_dict() if hasattr(value, "to_dict") else repr(type(value))


def _digest(named: tuple[str, Tensor]) -> bytes:
    name, tensor = named
    plain = tensor.detach().cpu().contiguous()
    digest = hashlib.blake2b(f"{name} {plain.dtype} {list(plain.shape)}".encode(), digest_size=16)
    digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.digest()
