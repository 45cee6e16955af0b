"""The role of alignment in the cross-attention of translation models, on pairs whose alignment the caller knows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from zoo.interpret.roles.batches import RoleBatch, Target, split_rows
from zoo.interpret.roles.token_roles import count_tokens, token_targets
from zoo.interpret.roles.token_rows import TokenRow, encode_texts, text_inputs

Links = frozenset[tuple[int, int]]
NO_LINKS = (
    "no pair has an alignment: give (source, target, alignment), such as '0-0 1-2' with the numbers of a source "
    "word and of the target word that translates it"
)


@dataclass(frozen=True)
class AlignedPair:
    """A source text, its translation, and links (number of a source word, number of a target word) or None."""

    source: str
    target: str
    links: Links | None = None


def read_pair(item: Any, index: int) -> AlignedPair:
    """A pair (source, target) or (source, target, alignment); words are counted from 0 and separated by spaces.

    Raises: ValueError for another object, and for links to words that do not exist.
    """
    texts = isinstance(item, tuple | list) and len(item) in (2, 3) and all(isinstance(t, str) for t in item[:2])
    if not texts:
        raise ValueError(
            f"pair {index} is {item!r:.80}: expected (source, target) or (source, target, alignment), such as "
            "('the dog', 'der Hund', '0-0 1-1')"
        )
    if len(item) == 2 or item[2] is None:
        return AlignedPair(*item[:2])
    try:
        parts = item[2].split() if isinstance(item[2], str) else item[2]
        numbers = [tuple(map(int, part.split("-") if isinstance(part, str) else part)) for part in parts]
        links = frozenset((i, j) for i, j in numbers)
    except (TypeError, ValueError):
        raise ValueError(
            f"the alignment of pair {index} is {item[2]!r:.80}: expected links such as '0-0 1-2' or [(0, 0), (1, 2)]"
        ) from None
    sizes = len(item[0].split()), len(item[1].split())
    for link in links:
        if not all(0 <= word < size for word, size in zip(link, sizes, strict=True)):
            raise ValueError(
                f"the alignment of pair {index} has the link {link[0]}-{link[1]}, but the source has {sizes[0]} words "
                f"and the target {sizes[1]}, counted from 0 and separated by spaces"
            )
    return AlignedPair(item[0], item[1], links)


def pair_batches(model: Any, processor: Any, pairs: Sequence[AlignedPair]) -> Iterator[RoleBatch]:
    """Batches of pairs with the roles of tokens on both sides, and of alignment between them."""
    targets = processor.for_targets()
    sources = encode_texts(processor, [pair.source for pair in pairs])
    labels = encode_texts(targets, [pair.target for pair in pairs])
    start = model.config.decoder_start_token_id
    read = [row.shifted(start) for row in labels]
    counts, target_counts = count_tokens(sources), count_tokens(read)
    for indices in split_rows([max(len(own), len(written)) for own, written in zip(sources, read, strict=True)]):
        own, written = [sources[i] for i in indices], [read[i] for i in indices]
        inputs = text_inputs(own, processor) | text_inputs(written, targets, "decoder_")
        length, steps = inputs["input_ids"].shape[1], inputs["decoder_input_ids"].shape[1]
        found = {
            "encoder": token_targets(own, length, counts),
            "decoder": token_targets(written, steps, target_counts),
        }
        aligned = [links_of_tokens(pairs[i], sources[i], labels[i]) for i in indices]
        weights = torch.zeros(len(indices), steps, length)
        for row, links in enumerate(aligned):
            for label, tokens in links.items():
                weights[row, label, tokens] = 1
        queries = (weights > 0).any(2)
        if bool(queries.any()):
            found["cross"] = {"alignment": Target(weights, queries)}
        yield RoleBatch(inputs, found)


def links_of_tokens(pair: AlignedPair, source: TokenRow, label: TokenRow) -> dict[int, list[int]]:
    """{number of a label: the source tokens that it is aligned to}; the row of a map with this number predicts it."""
    if pair.links is None or source.spans is None or label.spans is None:
        return {}
    source_words, target_words = tokens_of_words(source), tokens_of_words(label)
    found: dict[int, list[int]] = {}
    for i, j in sorted(pair.links):
        if i < len(source_words) and j < len(target_words):
            for token in target_words[j]:
                found.setdefault(token, []).extend(source_words[i])
    return {token: keys for token, keys in found.items() if keys}


def tokens_of_words(row: TokenRow) -> list[list[int]]:
    """The tokens of each word, without the punctuation at a word ("slept." is aligned for "slept" alone)."""
    marks = row.is_punctuation()
    words = [row.within(*word) for word in row.words()]
    return [[token for token in tokens if not marks[token]] or tokens for tokens in words]
