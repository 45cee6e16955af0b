"""CTC decoding: greedy, and prefix beam search (Hannun et al. 2014, https://arxiv.org/abs/1408.2873).

A path has one symbol per frame. Its text has repeated symbols merged and then blanks removed: `a a - a b` is `aab`.
A language model takes part in the search as in that paper: it scores a text when a space ends a word, and at the end.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from zoo.nn.losses.ctc import check_logits

_NEG_INF = float("-inf")


# --- decoding ---------------------------------------------------------------------------------------------------------


def greedy(logits: Tensor, frames: Tensor | None = None, *, blank: int = 0) -> list[list[int]]:
    """The text of the best path: logits [B, N, V] -> ids of each row. frames [B]: number of valid frames; None for all.
    Raises ValueError if the shapes, `frames` or `blank` do not fit."""
    check_logits(logits, frames, blank)
    best = logits.argmax(-1)  # [B, N]
    counts = [best.shape[1]] * len(best) if frames is None else frames.tolist()
    rows = (row[:count].unique_consecutive() for row, count in zip(best.cpu(), counts))
    return [row[row != blank].tolist() for row in rows]


class TextScorer(Protocol):
    """Adds to the log probability of texts in the beam, such as a language model; space: the symbol between words."""

    space: int | None

    def __call__(self, texts: Sequence[Sequence[int]]) -> list[float]:
        """What is added for each text, given as symbols."""


def beam(
    logits: Tensor,
    frames: Tensor | None = None,
    *,
    width: int = 16,
    blank: int = 0,
    scorer: TextScorer | None = None,
) -> list[list[tuple[list[int], float]]]:
    """The most probable texts of each row, summed over their paths: [[(ids, log probability), ...], ...], best first.

    Args:
        logits: [B, N, V].
        frames: [B], number of valid frames of each row; None for all.
        width: Number of texts in the beam. Probabilities are lower bounds, because the paths of a text that was pruned
            on the way are lost.
        scorer: Takes part in the order of the texts, in the search and at the end, and not in the log probabilities.

    All rows are decoded together. Memory and time are proportional to width * V per row and frame.

    Raises ValueError if the shapes, `frames` or `blank` do not fit.
    """
    check_logits(logits, frames, blank)
    if width < 1:
        raise ValueError(f"width={width}: expected at least 1")
    log_p = logits.detach().double().log_softmax(-1).cpu()
    count = torch.full((len(log_p),), log_p.shape[1]) if frames is None else frames.cpu()
    state = _BeamState.start(len(log_p), blank)
    texts = None if scorer is None else _ScoredTexts(scorer, state)
    steps: list[tuple[Tensor, Tensor]] = []
    for n in range(int(count.max()) if len(count) else 0):
        steps.append(state.step(log_p[:, n], n < count, width))
        if texts is not None:
            texts.update(state, *steps[-1])
    if texts is not None:
        texts.score_all(state)
    return [_backtrace(state, steps, row) for row in range(len(log_p))]


@dataclass
class _BeamState:
    """The texts in the beam, K in each row; all tensors are [B, K].

    key: a hash of the text; parent: of the text without its last symbol; last: that symbol, -1 for the empty text.
    ends_blank, ends_symbol: log probabilities of its paths so far that end with a blank or with a symbol.
    bonus: what a scorer adds to them in the order of the texts; None without one.
    """

    key: Tensor
    parent: Tensor
    last: Tensor
    ends_blank: Tensor
    ends_symbol: Tensor
    blank: int
    bonus: Tensor | None = None

    @classmethod
    def start(cls, rows: int, blank: int) -> "_BeamState":
        empty = torch.zeros(rows, 1, dtype=torch.int64)
        log_one = torch.zeros(rows, 1, dtype=torch.float64)
        return cls(empty, empty - 1, empty - 1, log_one, torch.full_like(log_one, _NEG_INF), blank)

    @property
    def total(self) -> Tensor:
        """Log probability of each text."""
        return torch.logaddexp(self.ends_blank, self.ends_symbol)

    def step(self, log_p: Tensor, valid: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """Process one frame, log_p [B, V], in the rows where `valid` [B]; returns (source text, added symbol or -1).

        A blank or the last symbol again keeps a text. It is also reached from the text without its last symbol, if that
        one is in the beam. A symbol equal to the last one extends a text only after a blank.
        """
        size = self.key.shape[1]
        symbols = torch.arange(log_p.shape[1])
        repeated = log_p.gather(1, self.last.clamp(min=0)).masked_fill(self.last < 0, _NEG_INF)
        stay_blank = self.total + log_p[:, self.blank, None]
        stay_symbol = self.ends_symbol + repeated
        same = self.last[:, :, None] == symbols  # [B, K, V]
        longer = torch.where(same, self.ends_blank[:, :, None], self.total[:, :, None]) + log_p[:, None]
        longer[:, :, self.blank] = _NEG_INF
        active = self.total > _NEG_INF  # with fewer texts than `width`, the rest of the beam is empty
        child = (self.parent[:, :, None] == self.key[:, None]) & active[:, :, None]  # [B, K (text), K (its parent)]
        reached = longer.gather(2, self.last.clamp(min=0)[:, None].expand(-1, size, -1)).transpose(1, 2)  # [B, K, K]
        reached = reached.masked_fill(~child, _NEG_INF)
        stay_symbol = torch.logaddexp(stay_symbol, reached.logsumexp(2))
        taken = torch.zeros(longer.shape, dtype=torch.int64)  # texts that are in the beam already are not new
        taken.scatter_add_(2, self.last.clamp(min=0)[:, None].expand(-1, size, -1), child.transpose(1, 2).long())
        longer = longer.masked_fill(taken > 0, _NEG_INF)
        idle = ~valid[:, None]
        stay_blank = torch.where(idle, self.ends_blank, stay_blank)
        stay_symbol = torch.where(idle, self.ends_symbol, stay_symbol)
        longer = longer.masked_fill(idle[:, :, None], _NEG_INF)
        return self._keep(stay_blank, stay_symbol, longer, width)

    def _keep(self, stay_blank: Tensor, stay_symbol: Tensor, longer: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """Keep the best of the current and of the extended texts."""
        size, vocabulary = longer.shape[1:]
        scores = torch.cat([torch.logaddexp(stay_blank, stay_symbol), longer.flatten(1)], 1)
        order = scores
        if self.bonus is not None:
            order = scores + torch.cat([self.bonus, self.bonus.repeat_interleave(vocabulary, 1)], 1)
        found = order.topk(min(width, scores.shape[1]), dim=1).indices
        new = found >= size
        extended = (found - size).clamp(min=0)
        source = torch.where(new, extended // vocabulary, found.clamp(max=size - 1))
        symbol = torch.where(new, extended % vocabulary, torch.full_like(source, -1))
        before = self.key.gather(1, source)
        self.parent = torch.where(new, before, self.parent.gather(1, source))
        self.key = torch.where(new, _extend_key(before, symbol), before)
        self.last = torch.where(new, symbol, self.last.gather(1, source))
        kept = scores.gather(1, found)
        self.ends_blank = torch.where(new, torch.full_like(kept, _NEG_INF), stay_blank.gather(1, source))
        self.ends_symbol = torch.where(new, kept, stay_symbol.gather(1, source))
        self.bonus = None if self.bonus is None else self.bonus.gather(1, source)
        return source, symbol


class _ScoredTexts:
    """The texts in the beam as symbols, for a scorer; it scores those of all rows together."""

    def __init__(self, scorer: TextScorer, state: _BeamState) -> None:
        self.scorer = scorer
        self.texts: list[list[tuple[int, ...]]] = [[()] for _ in state.key]
        state.bonus = torch.zeros_like(state.ends_blank)

    def update(self, state: _BeamState, source: Tensor, symbol: Tensor) -> None:
        """After a frame: follow the texts, and score those that a space has just extended."""
        rows = zip(self.texts, source.tolist(), symbol.tolist())
        self.texts = [
            [(*texts[i], added) if added >= 0 else texts[i] for i, added in zip(sources, symbols)]
            for texts, sources, symbols in rows
        ]
        if self.scorer.space is not None:
            self._score(state, symbol == self.scorer.space)

    def score_all(self, state: _BeamState) -> None:
        """After the last frame: score the complete texts."""
        self._score(state, torch.ones_like(state.key, dtype=torch.bool))

    def _score(self, state: _BeamState, chosen: Tensor) -> None:
        assert state.bonus is not None
        places = (chosen & (state.total > _NEG_INF)).nonzero().tolist()
        if places:
            found = self.scorer([self.texts[row][place] for row, place in places])
            rows, columns = zip(*places)
            state.bonus[list(rows), list(columns)] = torch.tensor(found, dtype=torch.float64)


def _extend_key(key: Tensor, symbol: Tensor) -> Tensor:
    """The hash of a text extended by a symbol. int64 products wrap around; shifts are logical."""
    x = (key ^ ((symbol + 2) * -7046029254386353131)) * -4658895280553007687
    x = (x ^ ((x >> 29) & ((1 << 35) - 1))) * -7723592293110705685
    return x ^ ((x >> 32) & ((1 << 32) - 1))


def _backtrace(state: _BeamState, steps: Sequence[tuple[Tensor, Tensor]], row: int) -> list[tuple[list[int], float]]:
    """The texts of a row after the last frame, traced back through their sources."""
    total = state.total[row]
    order = total if state.bonus is None else total + state.bonus[row]
    texts = []
    for place in order.argsort(descending=True, stable=True).tolist():
        if total[place] == _NEG_INF:
            continue
        ids, at = [], place
        for source, symbol in reversed(steps):
            if (added := int(symbol[row, at])) >= 0:
                ids.append(added)
            at = int(source[row, at])
        texts.append((ids[::-1], float(total[place])))
    return texts
