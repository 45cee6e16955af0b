"""The roles of agreement and coreference, on generated sentences whose structure is known (see `templates.py`)."""

from collections.abc import Sequence
from typing import Any

import torch

from zoo.interpret.roles.batches import RoleBatch, Target, split_rows
from zoo.interpret.roles.templates import LANGUAGES, Sentence, agreement, coreference
from zoo.interpret.roles.token_rows import TokenRow, text_inputs, try_encode

MIN_SENTENCES = 16
SOURCES = {"agreement": agreement, "coreference": coreference}
Encoded = tuple[Sentence, TokenRow]


def sentence_batches(processor: Any, causal: bool) -> tuple[list[RoleBatch], dict[str, str]]:
    """(batches of all languages, {role: why it is left out}).

    causal: whether tokens see no later ones. The reason then is the query of coreference: at the pronoun it is not yet
    known what that refers to.
    """
    batches: list[RoleBatch] = []
    left_out: dict[str, str] = {}
    for role, source in SOURCES.items():
        query = "verb" if role == "agreement" else "reason" if causal else "pronoun"
        for language in LANGUAGES:
            name = f"{role}_{language}"
            sentences = list(source(language))
            found = encode_pairs(processor, sentences)
            if len(found) < MIN_SENTENCES:
                left_out[name] = (
                    f"{len(found)} of {len(sentences)} sentences such as {sentences[0].text!r} fit the vocabulary and "
                    f"the {processor.max_length} tokens of the model: expected at least {MIN_SENTENCES}"
                )
                continue
            for indices in split_rows([len(row) for _, row in found]):
                batches.append(sentence_batch([found[i] for i in indices], processor, name, query))
    return batches, left_out


def encode_pairs(processor: Any, sentences: Sequence[Sentence]) -> list[Encoded]:
    """The sentences with their tokens, without pairs of which one is too long, has unknown characters or words, or two
    parts in one token."""
    rows: dict[str, TokenRow] = {}
    for sentence, row in zip(sentences, try_encode(processor, [s.text for s in sentences]), strict=True):
        if isinstance(row, TokenRow) and row.spans is not None and is_known(processor, sentence, row):
            rows[sentence.text] = row
    pairs = zip(sentences[::2], sentences[1::2], strict=True)
    both = [pair for pair in pairs if all(sentence.text in rows for sentence in pair)]
    return [(sentence, rows[sentence.text]) for pair in both for sentence in pair]


def is_known(processor: Any, sentence: Sentence, row: TokenRow) -> bool:
    """Whether the tokens cover the text, none is unknown, and the parts of the sentence have tokens of their own."""
    assert row.spans is not None
    covered = {i for a, b in row.spans for i in range(a, b)}
    if any(i not in covered for i, character in enumerate(sentence.text) if not character.isspace()):
        return False
    if (unknown := processor.id("unk")) is not None and unknown in row.ids:
        return False
    parts = [row.within(*place) for place in (sentence.target, sentence.other, *sentence.queries.values())]
    tokens = [i for part in parts for i in part]
    return all(parts) and len(set(tokens)) == len(tokens)


def sentence_batch(found: Sequence[Encoded], processor: Any, name: str, query: str) -> RoleBatch:
    """A batch of sentences: the last token of the query's word looks at the tokens of the target, not of the other."""
    inputs = text_inputs([row for _, row in found], processor)
    shape = inputs["input_ids"].shape
    weights, queries = torch.zeros(shape), torch.zeros(shape, dtype=torch.bool)
    for i, (sentence, row) in enumerate(found):
        weights[i, row.within(*sentence.target)] = 1
        weights[i, row.within(*sentence.other)] = -1
        queries[i, row.within(*sentence.queries[query])[-1]] = True
    return RoleBatch(inputs, {"encoder": {name: Target(weights[:, None], queries)}})
