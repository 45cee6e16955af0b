"""`zoo.deciding_sentences`: the sentences of a long text that decide its classification, and the test of it.

    result = zoo.deciding_sentences(model, report)
    print(result)

Each sentence is scored twice: by what the probability loses when the sentence is removed, and by attribution, summed
over its tokens. Then the sentences with the highest scores are removed together, and as many random ones.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from zoo.inference.probabilities import activated, label_names, require_model, run
from zoo.interpret.attribution import attribute, check_method
from zoo.interpret.hooks import unwrap
from zoo.interpret.scored_inputs import tokenizer_of
from zoo.models.base import Model
from zoo.preprocessing.sentences import split_sentences
from zoo.preprocessing.text import TextProcessor, encode_batch
from zoo.preprocessing.text_windows import encode_windows, owned_tokens

RANDOM = "random"
MARKED = 5  # sentences that are printed


class Sentence(NamedTuple):
    """A sentence with its place in characters. removal: what the probability loses without it; attribution: the sum of
    the scores of its tokens, None if it was not computed."""

    text: str
    start: int
    end: int
    removal: float
    attribution: float | None


class Deletion(NamedTuple):
    """The probability after the `removed` highest sentences of an `order` are removed; of random ones mean and standard
    deviation."""

    order: str
    removed: int
    probability: float
    spread: float | None = None


@dataclass(frozen=True, eq=False)
class DecidingSentences:
    """The sentences of a text, in its order, and the deletion test.

    label: the class. probability: of the whole text, the mean over its windows. windows: their number. method: of the
    attribution. test: probabilities without the sentences of highest `removal`, of highest `attribution`, and random.
    """

    label: str
    probability: float
    windows: int
    method: str | None
    sentences: list[Sentence]
    test: list[Deletion] = field(repr=False)

    def ranked(self, by: str = "removal") -> list[Sentence]:
        """The sentences, the most decisive first, by "removal" or "attribution"."""
        if by not in ("removal", "attribution") or (by == "attribution" and self.method is None):
            known = "removal" + (" or attribution" if self.method else "")
            raise ValueError(f"by={by!r}: the sentences are scored by {known}")
        return sorted(self.sentences, key=lambda sentence: -getattr(sentence, by))

    def __str__(self) -> str:
        read = f"{len(self.sentences)} sentences, " + (f"{self.windows} windows" if self.windows > 1 else "one window")
        lines = [f"{self.label}: probability {self.probability:.3f} ({read})"]
        for sentence in self.ranked()[:MARKED]:
            more = "" if sentence.attribution is None else f", attribution {sentence.attribution:+.3f}"
            shown = " ".join(sentence.text.split())
            shown = shown if len(shown) <= 90 else shown[:87] + "..."
            lines.append(f"{sentence.removal:+.3f} without it{more}: {shown}")
        for one in self.test:
            spread = "" if one.spread is None else f" ± {one.spread:.3f}"
            what = "1 sentence" if one.removed == 1 else f"{one.removed} sentences"
            lines.append(f"without {what} by {one.order}: {one.probability:.3f}{spread}")
        return "\n".join(lines)


def deciding_sentences(
    model: Any,
    text: str,
    target: Any = None,
    *,
    method: str | None = "integrated_gradients",
    split: Callable[[str], Sequence[str]] | None = None,
    top: Sequence[int] = (1, 2, 3),
    random_orders: int = 10,
    seed: int = 0,
    batch_size: int = 16,
) -> DecidingSentences:
    """The sentences of a text that decide to which class it belongs.

    A text with more tokens than `model.preprocess.max_length` is read in overlapping windows, and its probability is
    the mean of theirs, as `zoo.predict` reads long recordings. (Of such a text, `zoo.predict` classifies the first
    window, or refuses it.)

    Args:
        model: A classifier of texts, with its tokenizer.
        text: The text, of any length.
        target: The class, by its name or number. None: the most probable one.
        method: Of the attribution, see `zoo.attribute`; None: none, which needs no gradients.
        split: Splits a text into sentences, such as `nltk.sent_tokenize`. Default: by the rules of
            `zoo.preprocessing.sentences.split_sentences`.
        top: How many sentences are removed in the test; more than there are are left out.
        random_orders: Random choices of as many sentences in the test.
        seed: Of the random choices.
        batch_size: Windows that are computed at once.

    Raises: ValueError for a model that does not classify texts, a text with fewer than two sentences, and a class that
        the model does not have.
    """
    require_model(model)
    reader = Reader(cast(Model, unwrap(model)), batch_size)
    counts = (("random_orders", random_orders), ("batch_size", batch_size), *(("top", count) for count in top))
    for name, value in counts:
        if type(value) is not int or value < 1:
            raise ValueError(f"{name}={value!r}: expected a whole number of at least 1")
    if method is not None:
        check_method(method)
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"text={text!r:.60}: expected a text with at least two sentences")
    spans = split_sentences(text) if split is None else places_of(text, split(text))
    if len(spans) < 2:
        many = "1 sentence" if spans else "no sentences"
        raise ValueError(f"the text has {many}: expected at least two, of which some decide")
    whole = reader.probabilities([text])[0]
    number = reader.number_of(target, whole)
    alone = reader.probabilities([without(text, spans, [i]) for i in range(len(spans))])[:, number]
    removal = [float(whole[number] - p) for p in alone]
    scores = None if method is None else reader.attribution(text, spans, number, method)
    orders = {"removal": removal} | ({} if scores is None else {"attribution": scores})
    test = reader.deletions(text, spans, number, orders, top, (random_orders, seed))
    sentences = [Sentence(text[a:b], a, b, removal[i], None if scores is None else scores[i])
                 for i, (a, b) in enumerate(spans)]  # fmt: skip
    label = label_names(reader.model, len(whole))[number]
    return DecidingSentences(label, float(whole[number]), len(reader.windows([text])[0]), method, sentences, test)


def places_of(text: str, sentences: Sequence[str]) -> list[tuple[int, int]]:
    """(start, end) of sentences of a text. Raises ValueError for one that is not in it, in this order."""
    spans, start = [], 0
    for sentence in sentences:
        found = text.find(sentence, start)
        if found < 0 or not sentence.strip():
            raise ValueError(f"split gave {sentence!r:.60}, which is not in the text after the sentences before it")
        start = found + len(sentence)
        spans.append((found, start))
    return spans


def without(text: str, spans: Sequence[tuple[int, int]], removed: Sequence[int]) -> str:
    """The text without some sentences and the space after them."""
    kept, start = [], 0
    for i in sorted(removed):
        end = spans[i + 1][0] if i + 1 < len(spans) else len(text)
        kept.append(text[start : spans[i][0]])
        start = end
    return "".join([*kept, text[start:]]).strip()


@dataclass(frozen=True, eq=False)
class Reader:
    """Reads texts of any length with a classifier, in windows.

    Raises: ValueError for a model that does not classify texts.
    """

    model: Model
    batch_size: int

    def __post_init__(self) -> None:
        head = self.model.config.head
        if head != "classify" or tokenizer_of(self.model) is None or "input_ids" not in self.model.inputs:
            raise ValueError(f"the model has head={head!r} and {type(self.model.preprocess).__name__}: expected a "
                             "classifier of texts (head='classify') with its tokenizer")  # fmt: skip

    @property
    def processor(self) -> TextProcessor:
        found = tokenizer_of(self.model)
        assert found is not None
        return found

    def windows(self, texts: Sequence[str]) -> list[list[Any]]:
        """The windows of each text: the text itself, if it is not too long."""
        short = encode_batch(self.processor.backend, texts)
        fits = self.processor.clean is None and all(len(one) <= self.processor.max_length for one in short)
        return [[one] for one in short] if fits else encode_windows(self.processor, texts)

    def probabilities(self, texts: Sequence[str]) -> Tensor:
        """Probabilities [B, C] of the classes of texts, the mean over the windows of each."""
        windows = self.windows(texts)
        places = [(i, k) for i, own in enumerate(windows) for k in range(len(own))]
        places.sort(key=lambda place: len(windows[place[0]][place[1]]))
        found: dict[tuple[int, int], Tensor] = {}
        for some in chunks(places, self.batch_size):
            batch = self.processor._pad([windows[i][k] for i, k in some])
            found.update(zip(some, activated(self.model, run(self.model, batch))))
        return torch.stack([torch.stack([found[i, k] for k in range(len(own))]).mean(0)
                            for i, own in enumerate(windows)])  # fmt: skip

    def number_of(self, target: Any, probabilities: Tensor) -> int:
        """The number of a class. Raises ValueError for one that the model does not have."""
        if target is None:
            return int(probabilities.argmax())
        names = label_names(self.model, len(probabilities))
        if isinstance(target, str) and target in names:
            return names.index(target)
        if type(target) is int and 0 <= target < len(names):
            return target
        raise ValueError(f"target={target!r} is not a class of the model: expected one of {', '.join(names[:8])}, or a "
                         f"number from 0 to {len(names) - 1}")  # fmt: skip

    def deletions(
        self,
        text: str,
        spans: Sequence[tuple[int, int]],
        number: int,
        orders: Mapping[str, Sequence[float]],
        top: Sequence[int],
        chance: tuple[int, int],
    ) -> list[Deletion]:
        """The probabilities of a class without the highest sentences of each order, and without random ones.

        chance: (random choices, their seed).
        """
        counts = sorted({count for count in top if count < len(spans)})
        found = []
        for name, values in orders.items():
            order = sorted(range(len(spans)), key=lambda i: -values[i])
            texts = [without(text, spans, order[:count]) for count in counts]
            probabilities = self.probabilities(texts)[:, number].tolist() if counts else []
            found += [Deletion(name, count, p) for count, p in zip(counts, probabilities)]
        generator = torch.Generator().manual_seed(chance[1])
        for count in counts:
            chosen = [torch.randperm(len(spans), generator=generator)[:count].tolist() for _ in range(chance[0])]
            p = self.probabilities([without(text, spans, some) for some in chosen])[:, number]
            found.append(Deletion(RANDOM, count, float(p.mean()), float(p.std(correction=min(1, len(p) - 1)))))
        return found

    def attribution(self, text: str, spans: Sequence[tuple[int, int]], number: int, method: str) -> list[float]:
        """The sum of the scores of the tokens of each sentence, the mean over the windows of the text; a token that two
        windows read counts in the one that sees more around it."""
        (windows,) = self.windows([text])
        found = attribute(self.model, self.processor._pad(windows), number, method, batch_size=self.batch_size)
        sums = [0.0] * len(spans)
        for window, owned, scores in zip(windows, owned_tokens(windows), found.scores["text"]):
            shift = len(scores) - len(window) if self.processor.padding == "left" else 0
            for i in owned:
                middle = sum(window.offsets[i]) / 2
                place = next((s for s, (a, b) in enumerate(spans) if a <= middle <= b), None)
                if place is not None:
                    sums[place] += float(scores[shift + i]) / len(windows)
        return sums


def chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Consecutive parts of at most `size` items."""
    return (items[start : start + size] for start in range(0, len(items), size))
