"""Connectionist temporal classification: one score per frame and symbol, summed over all ways to write a text.

A path names one symbol per frame; repeated symbols are one, and blanks vanish: `a a - a b` reads `aab`. The loss is
torch's; greedy and prefix-beam decoding, and the vocabulary between ids and texts, are here.

Source: Graves et al. 2006, https://www.cs.toronto.edu/~graves/icml_2006.pdf; prefix beams: Hannun et al. 2014,
https://arxiv.org/abs/1408.2873.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import check_keys, did_you_mean

BLANK, SPACE = "<pad>", "|"  # as the vocabularies of wav2vec 2.0 write them
_SILENT = re.compile(r"<.*>|\[[A-Z]+\]")  # <s>, [UNK]: never read aloud
_GONE = float("-inf")


@dataclass(frozen=True)
class Vocabulary:
    """The symbols of a CTC model by their ids.

    tokens: characters, or several of them as one symbol. blank: the one that says nothing. space: the one that stands
    between words.
    """

    tokens: tuple[str, ...]
    blank: str = BLANK
    space: str = SPACE

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", tuple(self.tokens))
        if twice := [t for t in self.tokens if self.tokens.count(t) > 1]:
            raise ValueError(f"the vocabulary has {twice[0]!r} twice")
        if self.blank not in self.tokens:
            hint = did_you_mean(self.blank, self.tokens)
            raise ValueError(f"the vocabulary of {len(self.tokens)} symbols has no blank {self.blank!r}{hint}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Vocabulary":
        """From config.json. An unknown or missing key raises LoadError."""
        check_keys("vocabulary", values, [field.name for field in fields(cls)])
        return cls(**values)

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Vocabulary":
        """All characters of some texts, the blank first. Raises: ValueError where there is none."""
        characters = sorted({c for text in texts for c in " ".join(text.split())} - {" "})
        if not characters:
            raise ValueError("no characters: all texts are empty")
        if odd := {BLANK, SPACE} & set(characters):
            raise ValueError(f"the texts hold {odd.pop()!r}, which stands for the space between words: replace it")
        return cls((BLANK, SPACE, *characters))

    @classmethod
    def from_json(cls, text: str) -> "Vocabulary":
        """From the `vocab.json` of transformers, {symbol: id}. Raises: ValueError for ids with gaps."""
        ids: Mapping[str, int] = json.loads(text)
        if sorted(ids.values()) != list(range(len(ids))):
            raise ValueError(f"vocab.json: expected the ids 0 to {len(ids) - 1}, each once")
        tokens = tuple(sorted(ids, key=lambda token: ids[token]))
        blank = next((b for b in (BLANK, "[PAD]", "<blank>") if b in ids), BLANK)
        return cls(tokens, blank)

    def to_json(self) -> str:
        """The `vocab.json` of transformers."""
        return json.dumps({token: i for i, token in enumerate(self.tokens)}, ensure_ascii=False)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def blank_id(self) -> int:
        """The id that `ctc_loss`, `greedy` and `beam` call blank."""
        return self.tokens.index(self.blank)

    def encode(self, text: str) -> list[int]:
        """Ids of a text's characters, spaces between words as `space`. Where the vocabulary knows a letter in the other
        case alone, that one is meant.

        Raises: ValueError for a character that it does not know.
        """
        index = {token: i for i, token in enumerate(self.tokens)}
        ids = []
        for character in " ".join(text.split()):
            symbol = self.space if character == " " else character
            found = next((index[s] for s in (symbol, symbol.upper(), symbol.lower()) if s in index), None)
            if found is None:
                known = "".join(t for t in self.tokens if len(t) == 1 and t != self.space)
                raise ValueError(f"{text!r} has the character {character!r}, which is not among {known!r}")
            ids.append(found)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids from `greedy` or `beam`; what stands in angle or square brackets is left out."""
        symbols = [self.tokens[i] for i in ids]
        spoken = [" " if s == self.space else s for s in symbols if s != self.blank and not _SILENT.fullmatch(s)]
        return " ".join("".join(spoken).split())


# --- loss -------------------------------------------------------------------------------------------------------------


def ctc_loss(
    logits: Tensor, frames: Tensor, labels: Tensor, label_lengths: Tensor, *, blank: int = 0, reduction: str = "mean"
) -> Tensor:
    """Minus the log probability of texts, through `torch.nn.functional.ctc_loss`.

    Args:
        logits: [B, N, V], any dtype; computed in float32 at least.
        frames: [B], how many of the N frames are real.
        labels: int64 [B, L], ids of the texts, anything behind their lengths.
        label_lengths: [B].
        reduction: `mean` divides each by its text's length and takes the mean, `sum`, or `none` [B].

    Raises: ValueError for a text that has more symbols than its frames can tell apart, where that is known on the host.
    """
    if labels.device.type == "cpu":
        needed = frames_needed(labels, label_lengths)
        if len(short := (needed > frames.cpu()).nonzero()):
            i = int(short[0, 0])
            raise ValueError(
                f"row {i}: {int(label_lengths[i])} symbols need at least {int(needed[i])} frames, the clip has "
                f"{int(frames[i])}; take a model with a smaller stride, or leave such clips out"
            )
    wide = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    log_p = wide.log_softmax(-1).transpose(0, 1)  # [N, B, V]
    return F.ctc_loss(log_p, labels, frames, label_lengths, blank=blank, reduction=reduction)


def frames_needed(labels: Tensor, label_lengths: Tensor) -> Tensor:
    """[B], the least frames of texts [B, L]: one per symbol, and a blank between two equal neighbours."""
    places = torch.arange(labels.shape[1] - 1, device=labels.device) if labels.shape[1] else labels.new_zeros(0)
    again = (labels[:, 1:] == labels[:, :-1]) & (places + 1 < label_lengths[:, None])
    return label_lengths + again.sum(1)


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


def _check(logits: Tensor, frames: Tensor | None, blank: int) -> None:
    if logits.ndim != 3 or not logits.is_floating_point():
        raise ValueError(f"logits {list(logits.shape)} of {logits.dtype}: expected scores [B, N, V]")
    rows, most, symbols = logits.shape
    if not 0 <= blank < symbols:
        raise ValueError(f"blank={blank} is none of {symbols} symbols")
    if frames is None:
        return
    if frames.shape != (rows,) or (rows and not 0 <= int(frames.min()) <= int(frames.max()) <= most):
        raise ValueError(f"frames {frames.tolist()}: expected {rows} counts from 0 to {most}")


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


# --- figures ----------------------------------------------------------------------------------------------------------


def error_rates(said: Sequence[str], true: Sequence[str]) -> dict[str, float]:
    """Word and character error rate of texts, through torchmetrics: {"wer": ..., "cer": ...}; 0 is without error."""
    from torchmetrics.text import CharErrorRate, WordErrorRate

    if len(said) != len(true) or not true:
        raise ValueError(f"{len(said)} texts said and {len(true)} true ones: expected as many of both, at least one")
    word, character = WordErrorRate(), CharErrorRate()
    return {"wer": float(word(list(said), list(true))), "cer": float(character(list(said), list(true)))}
