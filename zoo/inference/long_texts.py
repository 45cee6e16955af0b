"""Texts of any length, in overlapping windows, for models with an output for each token."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from zoo.inference.probabilities import run
from zoo.models.base import Model
from zoo.preprocessing.text import TextProcessor
from zoo.preprocessing.text_cleaning import problem_of_text
from zoo.preprocessing.text_windows import encode_windows

if TYPE_CHECKING:
    from tokenizers import Encoding

Key = tuple[int, int]  # index of a text, number of its window


def outputs_of_windows(
    model: Model,
    processor: TextProcessor,
    texts: dict[int, Any],
    names: Sequence[str],
    batches: Callable[[dict[Key, int]], Iterable[list[Key]]],
) -> Iterator[tuple[int, "tuple[list[Encoding], list[Tensor]] | Exception"]]:
    """(index, (windows, the outputs [N, C] of each)) of each text as soon as it is computed, or what is wrong with it.

    Args:
        model: Gives outputs [B, N, C].
        processor: Its tokenizer.
        texts: Texts, or pairs (question, context) of texts, by index.
        names: Names of all texts for messages, by index.
        batches: Keys of windows with their lengths -> batches of them.
    """
    windows: dict[int, list[Encoding]] = {}
    for i, text in texts.items():
        found = _windows(processor, text, names[i])
        if isinstance(found, Exception):
            yield i, found
        else:
            windows[i] = found
    lengths = {(i, k): len(window) for i, parts in windows.items() for k, window in enumerate(parts)}
    outputs: dict[Key, Tensor] = {}
    missing = {i: len(parts) for i, parts in windows.items()}
    for batch in batches(lengths):
        padded = processor._pad([windows[i][k] for i, k in batch])
        for key, scores in zip(batch, run(model, padded)):
            count, i = lengths[key], key[0]
            outputs[key] = scores[:count] if processor.padding == "right" else scores[len(scores) - count :]
            missing[i] -= 1
            if not missing[i]:
                yield i, (windows[i], [outputs.pop((i, k)) for k in range(len(windows[i]))])


def _windows(processor: TextProcessor, text: Any, name: str) -> "list[Encoding] | Exception":
    """The windows of a text, or what is wrong with it."""
    if (problem := problem_of_text(text, name)) is not None:
        return problem
    try:
        (windows,) = encode_windows(processor, [text], names=[name])
    except ValueError as error:
        return error
    if all(windows[0].special_tokens_mask):
        return ValueError(f"{name} has no tokens: {text!r:.80}")
    return windows
