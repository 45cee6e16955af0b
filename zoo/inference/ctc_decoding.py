"""CTC decoding: greedy and by prefix beam search (Hannun et al. 2014, https://arxiv.org/abs/1408.2873).

A path names one symbol per frame; repeated symbols are one, and blanks vanish: `a a - a b` reads `aab`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.nn.losses.ctc import _check

_GONE = float("-inf")


# --- decoding ---------------------------------------------------------------------------------------------------------


def greedy(logits: Tensor, frames: Tensor | None = None, *, blank: int = 0) -> list[list[int]]:
    """The best symbol of each frame, repetitions and blanks taken out. logits [B, N, V] -> ids of each row;
    frames [B] of them are real. Raises: ValueError for what does not fit together."""
    _check(logits, frames, blank)
    best = logits.argmax(-1)  # [B, N]
    counts = [best.shape[1]] * len(best) if frames is None else frames.tolist()
    rows = (row[:count].unique_consecutive() for row, count in zip(best.cpu(), counts))
    return [row[row != blank].tolist() for row in rows]


def beam(
    logits: Tensor, frames: Tensor | None = None, *, width: int = 16, blank: int = 0
) -> list[list[tuple[list[int], float]]]:
    """The most probable texts of each row, each over all its paths: [[(ids, log probability), ...], ...], best first.

    Args:
        logits: [B, N, V].
        frames: [B], how many of the N frames are real; None for all.
        width: Texts that are followed at a time. With fewer than there are, probabilities are lower bounds: what the
            paths of a text that was dropped on the way had is lost.

    All rows go on together; memory and time grow by width * V per row and frame.

    Raises: ValueError for what does not fit together.
    """
    _check(logits, frames, blank)
    if width < 1:
        raise ValueError(f"width={width}: expected at least 1")
    log_p = logits.detach().double().log_softmax(-1).cpu()
    count = torch.full((len(log_p),), log_p.shape[1]) if frames is None else frames.cpu()
    search = _Search.start(len(log_p), blank)
    steps: list[tuple[Tensor, Tensor]] = []
    for n in range(int(count.max()) if len(count) else 0):
        steps.append(search.step(log_p[:, n], n < count, width))
    return [_traced(search, steps, row) for row in range(len(log_p))]


@dataclass
class _Search:
    """The texts that are followed, K in each row, all [B, K].

    name: a hash of the text; parent: of the text without its last symbol; last: that symbol, -1 of the empty text.
    ends_blank, ends_symbol: log probabilities of its paths so far, by what they end with.
    """

    name: Tensor
    parent: Tensor
    last: Tensor
    ends_blank: Tensor
    ends_symbol: Tensor
    blank: int

    @classmethod
    def start(cls, rows: int, blank: int) -> "_Search":
        empty = torch.zeros(rows, 1, dtype=torch.int64)
        log_one = torch.zeros(rows, 1, dtype=torch.float64)
        return cls(empty, empty - 1, empty - 1, log_one, torch.full_like(log_one, _GONE), blank)

    @property
    def total(self) -> Tensor:
        """Log probability of each text."""
        return torch.logaddexp(self.ends_blank, self.ends_symbol)

    def step(self, log_p: Tensor, real: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """One frame's log_p [B, V] for the rows where `real` [B]; returns (from which text, by which symbol or -1).

        A text stays by a blank or its last symbol again; it is also reached from the text before its last symbol, if
        that one is followed. A symbol equal to the last makes a longer text only behind a blank.
        """
        held = self.name.shape[1]
        symbols = torch.arange(log_p.shape[1])
        repeated = log_p.gather(1, self.last.clamp(min=0)).masked_fill(self.last < 0, _GONE)
        stay_blank = self.total + log_p[:, self.blank, None]
        stay_symbol = self.ends_symbol + repeated
        doubled = self.last[:, :, None] == symbols  # [B, K, V]
        longer = torch.where(doubled, self.ends_blank[:, :, None], self.total[:, :, None]) + log_p[:, None]
        longer[:, :, self.blank] = _GONE
        followed = self.total > _GONE  # where there are fewer texts than `width`, the rest of the beam is nobody
        child = (self.parent[:, :, None] == self.name[:, None]) & followed[:, :, None]  # [B, K (text), K (its parent)]
        reached = longer.gather(2, self.last.clamp(min=0)[:, None].expand(-1, held, -1)).transpose(1, 2)  # [B, K, K]
        reached = reached.masked_fill(~child, _GONE)
        stay_symbol = torch.logaddexp(stay_symbol, reached.logsumexp(2))
        taken = torch.zeros(longer.shape, dtype=torch.int64)  # texts that are followed already are no new ones
        taken.scatter_add_(2, self.last.clamp(min=0)[:, None].expand(-1, held, -1), child.transpose(1, 2).long())
        longer = longer.masked_fill(taken > 0, _GONE)
        idle = ~real[:, None]
        stay_blank = torch.where(idle, self.ends_blank, stay_blank)
        stay_symbol = torch.where(idle, self.ends_symbol, stay_symbol)
        longer = longer.masked_fill(idle[:, :, None], _GONE)
        return self._keep(stay_blank, stay_symbol, longer, width)

    def _keep(self, stay_blank: Tensor, stay_symbol: Tensor, longer: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """The best of the texts that stay and of the longer ones."""
        held, vocabulary = longer.shape[1:]
        scores = torch.cat([torch.logaddexp(stay_blank, stay_symbol), longer.flatten(1)], 1)
        found = scores.topk(min(width, scores.shape[1]), dim=1)
        new = found.indices >= held
        extended = (found.indices - held).clamp(min=0)
        source = torch.where(new, extended // vocabulary, found.indices.clamp(max=held - 1))
        symbol = torch.where(new, extended % vocabulary, torch.full_like(source, -1))
        before = self.name.gather(1, source)
        self.parent = torch.where(new, before, self.parent.gather(1, source))
        self.name = torch.where(new, _mixed(before, symbol), before)
        self.last = torch.where(new, symbol, self.last.gather(1, source))
        gone = torch.full_like(found.values, _GONE)
        self.ends_blank = torch.where(new, gone, stay_blank.gather(1, source))
        self.ends_symbol = torch.where(new, found.values, stay_symbol.gather(1, source))
        return source, symbol


def _mixed(name: Tensor, symbol: Tensor) -> Tensor:
    """A text's hash from that of the text before and its last symbol: int64 products wrap, shifts are logical."""
    x = (name ^ ((symbol + 2) * -7046029254386353131)) * -4658895280553007687
    x = (x ^ ((x >> 29) & ((1 << 35) - 1))) * -7723592293110705685
    return x ^ ((x >> 32) & ((1 << 32) - 1))


def _traced(search: _Search, steps: Sequence[tuple[Tensor, Tensor]], row: int) -> list[tuple[list[int], float]]:
    """The texts of a row at the end, read backwards through where they came from."""
    total = search.total[row]
    answers = []
    for place in total.argsort(descending=True, stable=True).tolist():
        if total[place] == _GONE:
            continue
        ids, at = [], place
        for source, symbol in reversed(steps):
            if (added := int(symbol[row, at])) >= 0:
                ids.append(added)
            at = int(source[row, at])
        answers.append((ids[::-1], float(total[place])))
    return answers
