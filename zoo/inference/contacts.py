"""From the scores of a model of alignments to the most probable contacts of a protein."""

from typing import NamedTuple

import torch
from torch import Tensor

from zoo.models.base import Model
from zoo.preprocessing.alignment import letters_of

MIN_SEPARATION = 6  # nearer residues are in contact along the chain


class Contact(NamedTuple):
    """A contact of two residues: their letters and numbers ("K5-A20"), its probability, and the numbers, from 1."""

    contact: str
    probability: float
    first: int
    second: int


def predicts_contacts(model: Model) -> bool:
    """Whether `zoo.predict` gives contacts: a model of alignments with head="contacts"."""
    return model.config.head == "contacts" and "msa" in model.inputs


def contacts_of(scores: Tensor, query: Tensor, top_k: int, temperature: float = 1.0) -> list[Contact]:
    """The `top_k` most probable contacts of residues at least 6 places apart, best first; none in a shorter protein.

    Args:
        scores: Logits [N, N].
        query: Residues int64 [N], see `AlignmentProcessor`.
        top_k: Number of contacts.
        temperature: What logits are divided by.
    """
    first, second = torch.triu_indices(scores.shape[0], scores.shape[1], MIN_SEPARATION)
    probabilities = (scores[first, second] / temperature).sigmoid()
    letters = letters_of(query[None])[0]
    found = []
    for at in probabilities.argsort(descending=True, stable=True)[:top_k].tolist():
        i, j = int(first[at]), int(second[at])
        name = f"{letters[i]}{i + 1}-{letters[j]}{j + 1}"
        found.append(Contact(name, float(probabilities[at]), i + 1, j + 1))
    return found
