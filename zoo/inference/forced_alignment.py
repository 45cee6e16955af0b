"""When each symbol of a CTC model begins and ends: the best path, and the best path of a given text.

`torchaudio.functional.forced_align` finds the best path of a text; of all paths, it is the best symbol of each frame.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.nn.losses.ctc import frames_needed
from zoo.preprocessing.audio_io import torchaudio

MAX_CELLS = (1 << 31) - 1  # forced_align counts the bytes of its table as int32, and crashes beyond


class Span(NamedTuple):
    """A symbol of a path: its id, first frame, frame after its last one, mean probability of its frames."""

    symbol: int
    start: int
    end: int
    probability: float


def best_path(scores: Tensor, *, blank: int = 0) -> list[Span]:
    """The symbols of the best path, those of `greedy`, with their frames. scores: logits [N, V]."""
    return _spans(scores.argmax(-1), scores, blank)


def best_path_of(scores: Tensor, ids: Sequence[int], *, blank: int = 0) -> list[Span]:
    """The symbols of the most probable path of a text, with their frames.

    scores: logits [N, V]. ids: the symbols of the text, without blanks. Memory is 2 bytes per frame and symbol.

    Raises ValueError if there are fewer frames than the text needs, or if the search has more than MAX_CELLS cells.
    """
    if not ids:
        return []
    labels = torch.tensor([list(ids)])
    needed = int(frames_needed(labels, torch.tensor([len(ids)])))
    if needed > len(scores):
        raise ValueError(
            f"the text has {len(ids)} symbols, which need at least {needed} frames, but the clip has {len(scores)}: "
            f"it is not the text of this clip, or the clip is cut"
        )
    if len(scores) * (2 * len(ids) + 1) > MAX_CELLS:
        raise ValueError(
            f"a text of {len(ids)} symbols and a clip of {len(scores)} frames are too long to be aligned at once "
            f"(about 20 minutes of speech are possible): align parts of the recording with their texts"
        )
    log_p = scores.float().log_softmax(-1)[None]
    path, _ = torchaudio("functional").forced_align(log_p, labels, blank=blank)
    return _spans(path[0], scores, blank)


def _spans(path: Tensor, scores: Tensor, blank: int) -> list[Span]:
    """The runs of equal symbols of a path [N] that are not blanks."""
    probabilities = scores.float().softmax(-1).gather(1, path[:, None].long())[:, 0].double()
    symbols, counts = path.unique_consecutive(return_counts=True)
    ends = counts.cumsum(0)
    sums = torch.cat([probabilities.new_zeros(1), probabilities.cumsum(0)])
    means = (sums[ends] - sums[ends - counts]) / counts
    rows = zip(symbols.tolist(), (ends - counts).tolist(), ends.tolist(), means.tolist())
    return [Span(*row) for row in rows if row[0] != blank]
