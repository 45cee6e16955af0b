"""`zoo.zero_shot`: zero-shot classification from class names, for models with a text tower.

Each name is put into several prompts; the mean of their embeddings is the class (prompt ensembling, Radford et al.
2021, https://arxiv.org/abs/2103.00020, section 3.1.4). An image or audio clip gets the class nearest to it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from zoo.inference.probabilities import Prediction
from zoo.nn.losses.temperature import MAX_SCALE, temperature
from zoo.preprocessing.modality import MODALITIES, item_modality
from zoo.retrieval.encode import Encoder, fingerprint
from zoo.utils.errors import LoadError
from zoo.utils.files import write_atomic
from zoo.utils.lines import read_lines

LIBRARY = "attention-zoo classifier"


@dataclass(frozen=True)
class ZeroShot:
    """A zero-shot classifier: `classifier.predict(image)`.

    weights: float32 [C, D], a unit vector per label; kind: the modality that is classified, "image" or "audio"; scale,
    bias: of the model, from cosine similarities to logits.
    """

    model: Any
    labels: list[str]
    weights: Tensor
    templates: tuple[str, ...]
    kind: str = "image"
    scale: float = MAX_SCALE
    bias: float | None = None

    def cosines(self, x: Any) -> Tensor:
        """Cosine similarities float32 [B, C] of an item, or of a list of items, with the classes."""
        items = list(x) if isinstance(x, list) else [x]
        for item in items:
            if (kind := item_modality(item)) != self.kind:
                raise ValueError(f"{item!r} is a {kind}: this classifier is for {MODALITIES[self.kind].plural}")
            if isinstance(item, str | Path) and not Path(item).is_file():
                raise ValueError(f"there is no file {item}")
        return Encoder(self.model).vectors(self.kind, items) @ self.weights.T

    def predict(self, x: Any, top_k: int = 5, each: bool = False) -> Any:
        """The `top_k` most probable labels, [(label, probability), ...], best first; for a list, a list.

        each: independent probabilities per label, for models with SigLIP's loss; they need not sum to 1.
        """
        if top_k < 1:
            raise ValueError(f"top_k={top_k}: expected at least 1")
        if each and self.bias is None:
            raise ValueError(
                "each=True needs a model with SigLIP's loss: the probabilities of this one sum to 1 over the labels"
            )
        if isinstance(x, list) and not x:
            return []
        logits = self.scale * self.cosines(x)
        shares = (logits + self.bias).sigmoid() if each and self.bias is not None else logits.softmax(-1)
        found = shares.topk(min(top_k, len(self.labels)))
        rows = zip(found.values.tolist(), found.indices.tolist())
        answers: list[Prediction] = [[(self.labels[i], p) for p, i in zip(*row)] for row in rows]
        return answers if isinstance(x, list) else answers[0]

    def save(self, file: str | Path) -> Path:
        """Write weights, labels and templates, and the model's fingerprint, as safetensors; returns the path."""
        from safetensors.torch import save_file

        metadata = {
            "library": LIBRARY, "fingerprint": fingerprint(self.model), "labels": json.dumps(self.labels),
            "templates": json.dumps(self.templates), "kind": self.kind,
        }  # fmt: skip
        file = Path(file)
        write_atomic(file, lambda part: save_file({"weights": self.weights.contiguous()}, part, metadata))
        return file

    def __repr__(self) -> str:
        return f"ZeroShot({len(self.labels)} labels of {MODALITIES[self.kind].plural}, {len(self.templates)} templates)"


def zero_shot(
    model: Any,
    labels: Sequence[str] | str | Path,
    templates: Sequence[str] | str | Path | None = None,
    *,
    kind: str | None = None,
) -> ZeroShot:
    """A zero-shot classifier of images or audio clips from class names.

        zoo.zero_shot(model, ["cat", "dog"]).predict("image.png")         [("dog", 0.97), ("cat", 0.03)]

    labels: class names, or a file that `ZeroShot.save` wrote (with the model that it was made with).
    templates: prompts with {} in place of the name, a single one, or a text file with one per line; default: those of
    the modality (`Modality.templates`). kind: "image" or "audio", for a model that takes both.
    """
    encoder = Encoder(model)
    if isinstance(labels, str | Path):
        return read(encoder, Path(labels), templates)
    encoder.need("text", "classifying by names")
    items = [each for each in encoder.modalities if each != "text"]
    if kind is not None:
        encoder.need(kind)
    elif not items:
        raise ValueError("the model has a text tower alone: there is nothing to classify")
    kind = kind or items[0]
    if kind not in MODALITIES or not MODALITIES[kind].templates:
        known = [name for name, record in MODALITIES.items() if record.templates]
        raise ValueError(f"kind={kind!r}: expected {' or '.join(map(repr, known))}")
    names = checked_labels(labels)
    sentences = checked_templates(MODALITIES[kind].templates if templates is None else templates)
    prompts = [sentence.replace("{}", name) for name in names for sentence in sentences]
    rows = encoder.vectors("text", prompts).unflatten(0, (len(names), len(sentences)))
    return ZeroShot(model, names, F.normalize(rows.mean(1), dim=-1), sentences, kind, *temperature(model))


def checked_labels(labels: Sequence[str]) -> list[str]:
    names = [str(label).strip() for label in labels]
    if not names or not all(names):
        raise ValueError("labels: expected the names of the classes, " + ("one is empty" if names else "given none"))
    if twice := [name for i, name in enumerate(names) if name in names[:i]]:
        raise ValueError(f"labels: {twice[0]!r} is there twice")
    return names


def checked_templates(templates: Sequence[str] | str | Path) -> tuple[str, ...]:
    """Sentences, or the lines of a file, or a single sentence."""
    if isinstance(templates, Path) or (isinstance(templates, str) and "{}" not in templates):
        if not Path(templates).is_file():
            raise ValueError(f"{templates}: no file of templates, and no sentence with {{}} where the name goes")
        templates = [line.strip() for line in read_lines(templates) if line.strip()]
    sentences = (templates,) if isinstance(templates, str) else tuple(templates)
    if not sentences:
        raise ValueError("templates: expected at least one sentence with {} where the name goes")
    if odd := [sentence for sentence in sentences if "{}" not in sentence]:
        raise ValueError(f"the template {odd[0]!r} has no {{}} where the name goes")
    return sentences


def read(encoder: Encoder, file: Path, templates: Any) -> ZeroShot:
    """A classifier that was saved. Raises LoadError, or ValueError where it is another model's."""
    from safetensors import SafetensorError, safe_open

    if templates is not None:
        raise ValueError(f"{file} has templates of its own: give labels to use others")
    if not file.is_file():
        raise LoadError(f"there is no classifier {file}; labels are given as a list, and ZeroShot.save writes a file")
    try:
        with safe_open(file, "pt") as handle:
            metadata, weights = handle.metadata() or {}, handle.get_tensor("weights")
    except (SafetensorError, OSError) as error:
        raise LoadError(f"{file} is damaged, or no classifier: {error}") from None
    if metadata.get("library") != LIBRARY:
        raise LoadError(f"{file} is not a classifier written by ZeroShot.save")
    labels = json.loads(metadata["labels"])
    if metadata["fingerprint"] != (mark := fingerprint(encoder.model)):
        raise ValueError(
            f"{file} was made with another model: its fingerprint is {metadata['fingerprint'][:12]}..., the "
            f"model's is {mark[:12]}... Use that model, or build the classifier again from its {len(labels)} labels"
        )
    sentences = tuple(json.loads(metadata["templates"]))
    return ZeroShot(encoder.model, labels, weights, sentences, metadata["kind"], *temperature(encoder.model))
