"""Long texts in overlapping windows of a model's length, so that every token is seen by the model."""

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from zoo.preprocessing.text import Text, TextProcessor, encode_batch
from zoo.preprocessing.tokenizer_file import parse_tokenizer

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer


def encode_windows(
    processor: TextProcessor, texts: Sequence[Text], stride: int | None = None, names: Sequence[str] = ()
) -> list[list["Encoding"]]:
    """The windows of each text, in at most `processor.max_length` tokens each, with special tokens around each.

    Of a pair (question, context) the context is split, and every window begins with the whole question.

    Args:
        processor: The tokenizer.
        texts: Texts, or pairs of texts.
        stride: Tokens that a window has in common with the one before it. Default: a quarter of `max_length`.
        names: Of the texts in messages. Default: "text 0", "text 1", ...

    Raises: ValueError for a stride or a question that leaves no room, and for a processor that cleans its texts, in
    which the places of characters are lost.
    """
    if processor.clean is not None:
        raise ValueError(
            f"the tokenizer cleans texts ({processor.clean!r}), which loses the places of their characters"
        )
    backend = processor.backend
    texts = [processor.normalize(text, names[i] if names else f"text {i}") for i, text in enumerate(texts)]
    pairs = bool(texts) and isinstance(texts[0], tuple)
    special = backend.num_special_tokens_to_add(pairs)
    if not pairs:
        return _encode(processor, texts, _stride(processor, processor.max_length - special, stride), "longest_first")
    questions = encode_batch(backend, [text[0] for text in texts], add_special_tokens=False)
    rooms = [processor.max_length - special - len(question) for question in questions]
    if rooms and min(rooms) < 2:
        index = rooms.index(min(rooms))
        name = names[index] if names else f"text {index}"
        raise ValueError(
            f"{name}: the question has {len(questions[index])} tokens, which leaves no room for its context in "
            f"max_length={processor.max_length} tokens: shorten it"
        )
    found: list[list[Encoding]] = [[] for _ in texts]
    strides = [_stride(processor, room, stride) for room in rooms]
    for one in sorted(set(strides)):
        rows = [i for i, own in enumerate(strides) if own == one]
        for row, windows in zip(rows, _encode(processor, [texts[i] for i in rows], one, "only_second")):
            found[row] = windows
    return found


def _stride(processor: TextProcessor, room: int, stride: int | None) -> int:
    """The stride for windows with `room` for tokens of the text."""
    if room < 2:
        raise ValueError(f"the windows have room for {max(room, 0)} tokens of a text: expected a larger max_length")
    stride = processor.max_length // 4 if stride is None else stride
    if stride < 0:
        raise ValueError(f"stride={stride}: expected at least 0")
    return min(stride, room - 1)  # a long question leaves less room than usual


def _encode(processor: TextProcessor, texts: Sequence[Text], stride: int, strategy: str) -> list[list["Encoding"]]:
    backend = _splitting(processor.tokenizer, processor.max_length, stride, strategy)
    return [[encoding, *encoding.overflowing] for encoding in encode_batch(backend, texts)]


@lru_cache(maxsize=16)
def _splitting(text: str, max_length: int, stride: int, strategy: str) -> "Tokenizer":
    """The tokenizer of a tokenizer.json that returns what it truncates as further windows."""
    backend = parse_tokenizer(text)
    backend.no_padding()
    backend.enable_truncation(max_length, stride=stride, strategy=strategy)
    return backend


def owned_tokens(windows: Sequence["Encoding"], sequence: int = 0) -> list[range]:
    """The positions of each window whose tokens no other window sees with more context.

    Each token of the text is in one of these ranges, in its order: where two windows overlap, the first half of the
    overlap belongs to the first one.

    Args:
        windows: The windows of one text.
        sequence: 0, or 1 for the second text of a pair.
    """
    places = [[i for i, part in enumerate(window.sequence_ids) if part == sequence] for window in windows]
    firsts = [place[0] if place else 0 for place in places]
    ends = [place[-1] + 1 if place else 0 for place in places]
    for k in range(1, len(windows)):
        shared = _shared(windows[k - 1], windows[k], places[k - 1], places[k])
        ends[k - 1] -= shared // 2
        firsts[k] += shared - shared // 2
    return [range(first, end) for first, end in zip(firsts, ends)]


def _shared(before: "Encoding", after: "Encoding", a: list[int], b: list[int]) -> int:
    """Number of tokens that end one window and begin the next."""
    tokens = [(before.ids[i], before.offsets[i]) for i in a]
    others = [(after.ids[i], after.offsets[i]) for i in b]
    return next((n for n in range(min(len(tokens), len(others)), 0, -1) if tokens[-n:] == others[:n]), 0)
