"""The times of words from the cross-attention of Whisper: dynamic time warping over its maps.

As `timing.py` of OpenAI's code (https://github.com/openai/whisper): some heads of the decoder attend to the part of the
audio that is about to be written. Their maps are normalized over the tokens, smoothed by a median filter and averaged;
the path with the greatest sum that never steps back in text or time has the time of each token.
"""

import unicodedata
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.inference.generation.generate import end_ids
from zoo.inference.subtitles import TimedText
from zoo.inference.transcript import NO_SPACES
from zoo.models.eval_mode import eval_mode
from zoo.models.whisper.model import Whisper

MEDIAN_WIDTH = 7  # positions of the encoder


def word_times(
    model: Whisper,
    memory: Tensor,
    prefix: Sequence[int],
    ids: Sequence[int],
    *,
    heads: Sequence[tuple[int, int]] = (),
    positions: int | None = None,
    language: str | None = None,
) -> list[TimedText]:
    """The words of a text in one window, with times in seconds from its beginning.

    Args:
        model: Whisper, with a tokenizer.
        memory: The encoder's states [1, N, D] of the window.
        prefix: The tokens before the text, <|notimestamps|> at their end.
        ids: The tokens of the text, without special ones.
        heads: (layer, head) of the cross-attention, numbers of the model before `zoo.prune`: heads that it removed are
            left out. Empty, or all removed: all heads of the last half of the layers.
        positions: Number of positions of the encoder that are audio; the others are padding.
        language: Code of the language, for words that are written without spaces.

    Returns:
        The words. The probability of a word is the mean of those of its tokens.
    """
    if not ids:
        return []
    heads = kept_heads(model, heads) or kept_heads(model, last_half(model))
    ends = end_ids(model, "model")
    everything = torch.tensor([[*prefix, *ids, *ends[:1]]], device=memory.device)
    rows = slice(len(prefix) - 1, len(prefix) + len(ids))  # of the tokens before each one, and before the end
    logits, maps = cross_attention(model, memory, everything, heads)
    maps = maps[..., :positions].double()
    maps = maps / maps.sum(-1, keepdim=True).clamp_min(1e-12)
    starts = token_times(maps, rows).tolist()
    probabilities = logits[rows][:-1].float().softmax(-1)
    token_probs = probabilities.gather(1, torch.tensor(ids, device=memory.device)[:, None])[:, 0].tolist()
    words = words_of(ids, partial(model.preprocess.decode, skip_special=False), spaces=language not in NO_SPACES)
    step = model.preprocess.time_step
    found = []
    for (text, count), end in zip(words, accumulate(count for _, count in words)):
        mean = sum(token_probs[end - count : end]) / count
        found.append(TimedText(starts[end - count] * step, starts[end] * step, text, mean))
    return found


def last_half(model: Whisper) -> list[tuple[int, int]]:
    """All heads of the last half of the decoder's layers."""
    own = model.config.side("decoder")
    return [(layer, head) for layer in range(own["depth"] // 2, own["depth"]) for head in range(own["heads"])]


def kept_heads(model: Whisper, heads: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """(layer, head) pairs of the whole model as those of the same heads in one without some heads (`zoo.prune`)."""
    assert model.decoder is not None
    found = []
    for layer, head in heads:
        kept: Any = model.decoder.blocks[layer].cross.kept_heads  # type: ignore[union-attr]
        if kept is None or head in kept:
            found.append((layer, head if kept is None else kept.index(head)))
    return found


def cross_attention(
    model: Whisper, memory: Tensor, ids: Tensor, heads: Sequence[tuple[int, int]]
) -> tuple[Tensor, Tensor]:
    """Logits [T, V] for the tokens [1, T], and the cross-attention maps [H, T, N] of the (layer, head) pairs."""
    maps: dict[int, Tensor] = {}

    def keep(layer: int, core: Any, args: tuple[Any, ...], output: Tensor) -> None:
        q, k, _, mask, bias = args
        maps[layer] = core.maps(q, k, mask, bias)[0]

    assert model.decoder is not None and model.head is not None
    handles = [
        model.decoder.blocks[layer].cross.core.register_forward_hook(partial(keep, layer))  # type: ignore[union-attr]
        for layer in {layer for layer, _ in heads}
    ]
    try:
        with eval_mode(model), torch.inference_mode():
            logits = model.head(model.run_decoder(ids, None, memory, None))[0]
    finally:
        for handle in handles:
            handle.remove()
    return logits, torch.stack([maps[layer][head] for layer, head in heads])


def token_times(maps: Tensor, rows: slice = slice(None), width: int = MEDIAN_WIDTH) -> Tensor:
    """Attention maps [H, T, N] of T tokens -> the first position of each of the tokens `rows`."""
    std, mean = torch.std_mean(maps, dim=1, keepdim=True, correction=0)
    matrix = median_filter((maps - mean) / std.clamp_min(1e-12), width).mean(0)[rows]
    tokens, positions = dynamic_time_warping(-matrix.cpu().numpy())
    return torch.from_numpy(positions[np.diff(tokens, prepend=-1) > 0])


def median_filter(x: Tensor, width: int) -> Tensor:
    """The median of `width` neighbors along the last dimension, reflected at its ends; shorter x are unchanged."""
    pad = width // 2
    if x.shape[-1] <= pad:
        return x
    padded: Tensor = F.pad(x, (pad, pad), mode="reflect")
    return padded.unfold(-1, width, 1).median(-1).values


def dynamic_time_warping(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The path through cost [T, N] with the least sum: indices of its tokens and of its positions.

    Along the diagonals, whose elements do not depend on each other; among equal costs, the order is OpenAI's.
    """
    rows, columns = cost.shape
    total = np.full((rows + 1, columns + 1), np.inf)
    total[0, 0] = 0.0
    came_from = np.zeros((rows + 1, columns + 1), dtype=np.int8)
    for diagonal in range(2, rows + columns + 1):
        i = np.arange(max(1, diagonal - columns), min(rows, diagonal - 1) + 1)
        j = diagonal - i
        both, token, position = total[i - 1, j - 1], total[i - 1, j], total[i, j - 1]
        choice = np.where((both < token) & (both < position), 0, np.where((token < both) & (token < position), 1, 2))
        total[i, j] = cost[i - 1, j - 1] + np.choose(choice, (both, token, position))
        came_from[i, j] = choice
    i, j = rows, columns
    path = []
    while i > 0 and j > 0:
        path.append((i - 1, j - 1))
        step = came_from[i, j]
        i, j = i - (step != 2), j - (step != 1)
    tokens, positions = np.array(path[::-1]).T
    return tokens, positions


def words_of(ids: Sequence[int], decode: Callable[[list[int]], str], *, spaces: bool = True) -> list[tuple[str, int]]:
    """(word, number of its tokens). Without `spaces` a word is what one or several tokens write as whole characters.

    A token may end within a character. Punctuation belongs to the word before it.
    """
    words: list[tuple[str, int]] = []
    begun: list[int] = []
    for number, token in enumerate(ids, 1):
        begun.append(token)
        text = decode(begun)
        if "\ufffd" in text and number < len(ids):
            continue
        marks = all(unicodedata.category(letter)[0] in "PZ" for letter in text)
        starts = text.startswith(" ") if spaces else not marks
        if words and (not starts or not words[-1][0].strip()):
            words[-1] = (words[-1][0] + text, words[-1][1] + len(begun))
        else:
            words.append((text, len(begun)))
        begun = []
    return [(text.strip(), count) for text, count in words]
