"""From the scores of a model of proteins or alignments to contact maps, and to the most probable contacts."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoo.inference.probabilities import NOT_FINITE, Prediction, run
from zoo.models.base import Model
from zoo.models.esm.contacts import residues_of
from zoo.preprocessing.alignment import letters_of

MIN_SEPARATION = 6  # nearer residues are in contact along the chain


class Contact(NamedTuple):
    """A contact of two residues: their letters and numbers ("K5-A20"), its probability, and the numbers, from 1."""

    contact: str
    probability: float
    first: int
    second: int


class ContactMap(NamedTuple):
    """The contacts of one protein. probabilities: float32 [N, N], symmetric. residues: its N residues, a letter each;
    of a protein also "<mask>"."""

    probabilities: Tensor
    residues: tuple[str, ...]


def predicts_contacts(model: Model) -> bool:
    """Whether `zoo.predict` gives contacts: a model of proteins or alignments with head="contacts"."""
    return model.config.head == "contacts"


def contact_maps(model: Model, inputs: Any) -> list[ContactMap]:
    """The contact map of each protein, by a model with head="contacts".

    inputs: one or a list of what `model.preprocess` takes: an alignment, a sequence, or the path of a file; a FASTA
    file stands for its records. Raises ValueError for a model with another head, for an input that cannot be read, and
    for scores that are not finite.
    """
    if not predicts_contacts(model):
        raise ValueError(f"the model has head={model.config.head!r}: a contact map needs head='contacts'")
    found: list[ContactMap] = []
    for item in inputs if isinstance(inputs, list) else [inputs]:
        if isinstance(item, tuple):
            raise ValueError(f"given a tuple of {len(item)} inputs: expected one protein, or a list of them")
        batch = model.preprocess(item)
        for one in maps_of_batch(model, run(model, batch), batch):
            if isinstance(one, ValueError):
                raise one
            found.append(one)
    return found


def maps_of_batch(model: Model, scores: Tensor, batch: dict[str, Tensor]) -> list[ContactMap | ValueError]:
    """The contact map of each row of a batch, or an error for scores that are not finite.

    scores: logits [B, N, N] of residues, those of each row before its padding.
    """
    found: list[ContactMap | ValueError] = []
    for own, residues in zip(scores, residues_of_batch(model, batch), strict=True):
        own = own[: len(residues), : len(residues)]
        fine = bool(own.isfinite().all())
        found.append(ContactMap((own / model.temperature).sigmoid(), residues) if fine else ValueError(NOT_FINITE))
    return found


def residues_of_batch(model: Model, batch: dict[str, Tensor]) -> list[tuple[str, ...]]:
    """The residues of each row of a batch; of an alignment those of its query."""
    if "msa" in batch:
        keep = batch.get("attention_mask", torch.ones_like(batch["msa"][:, 0])).bool()
        return [tuple(letters_of(query[None, real])[0]) for query, real in zip(batch["msa"][:, 0], keep)]
    ids, token = batch["input_ids"], model.preprocess.backend.id_to_token
    keep = residues_of(batch.get("attention_mask", torch.ones_like(ids)))
    return [tuple(token(i) for i in row[real].tolist()) for row, real in zip(ids, keep)]


def contacts_of_batch(
    model: Model, scores: Tensor, batch: dict[str, Tensor], top_k: int
) -> list[Prediction | Exception]:
    """The `top_k` most probable contacts of each row of a batch; see `maps_of_batch` and `most_probable`."""
    return [
        one if isinstance(one, ValueError) else list(most_probable(*one, top_k))
        for one in maps_of_batch(model, scores, batch)
    ]


def most_probable(probabilities: Tensor, residues: Sequence[str], top_k: int) -> list[Contact]:
    """The `top_k` most probable contacts of residues at least 6 places apart, best first; none in a shorter protein.

    probabilities: [N, N]. residues: N letters.
    """
    first, second = torch.triu_indices(len(residues), len(residues), MIN_SEPARATION)
    values = probabilities[first, second]
    found = []
    for at in values.argsort(descending=True, stable=True)[:top_k].tolist():
        i, j = int(first[at]), int(second[at])
        found.append(Contact(f"{residues[i]}{i + 1}-{residues[j]}{j + 1}", float(values[at]), i + 1, j + 1))
    return found
