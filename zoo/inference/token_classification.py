"""From the scores of tokens to entities: the words of a text, their tags, and the entities that adjacent words form."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor

from zoo.preprocessing.tags import split_tag
from zoo.preprocessing.text_windows import owned_tokens

if TYPE_CHECKING:
    from tokenizers import Encoding

Aggregation = Literal["first", "simple"]


class Entity(NamedTuple):
    """An entity in a text: `text` is the text from character `start` to `end`."""

    text: str
    label: str
    start: int
    end: int
    probability: float


@dataclass(frozen=True)
class _Piece:
    """A word or token with its tag."""

    tag: str
    start: int
    end: int
    probability: float


def entities_of(
    text: str,
    windows: Sequence["Encoding"],
    probabilities: Sequence[Tensor],
    labels: Sequence[str],
    aggregation_strategy: Aggregation = "first",
) -> list[Entity]:
    """The entities of a text, in its order; as the pipeline of transformers gives them with this strategy.

    Args:
        text: The text.
        windows: Its windows, from `encode_windows`. The tags of a token are taken from the window that sees it with
            the most context.
        probabilities: Of each window, [N, C].
        labels: The names of the C classes. Those without a prefix such as B- are classes of words.
        aggregation_strategy: "first": the tag of a word is that of its first token, so that no entity ends within a
            word. "simple": every token has its own tag.
    """
    pieces: list[_Piece] = []
    last_word: int | None = None
    for window, owned, rows in zip(windows, owned_tokens(windows), probabilities):
        best, classes = rows.max(-1)
        values, indices = best.tolist(), classes.tolist()
        for i in owned:
            start, end = window.offsets[i]
            word = window.word_ids[i] if aggregation_strategy == "first" else None
            if word is not None and word == last_word:
                before = pieces[-1]
                pieces[-1] = _Piece(before.tag, before.start, max(end, before.end), before.probability)
            else:
                pieces.append(_Piece(labels[indices[i]], start, end, values[i]))
            last_word = word
    return [_entity(text, group) for group in _groups(pieces)]


def _groups(pieces: Sequence[_Piece]) -> list[list[_Piece]]:
    """Adjacent pieces of the same type, without those tagged O. B- and S- begin an entity, E- and S- end it."""
    groups: list[list[_Piece]] = []
    before = ("", "")
    for piece in pieces:
        prefix, kind = split_tag(piece.tag)
        if kind:
            if kind == before[1] and prefix not in ("B", "S") and before[0] not in ("E", "S"):
                groups[-1].append(piece)
            else:
                groups.append([piece])
        before = prefix, kind
    return groups


def _entity(text: str, group: Sequence[_Piece]) -> Entity:
    start, end = group[0].start, group[-1].end
    found = text[start:end]
    start, end = start + len(found) - len(found.lstrip()), end - (len(found) - len(found.rstrip()))
    probability = float(torch.tensor([piece.probability for piece in group], dtype=torch.float64).mean())
    return Entity(text[start:end], split_tag(group[0].tag)[1], start, end, probability)
