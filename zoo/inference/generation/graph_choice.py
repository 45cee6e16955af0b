"""The choice of the next tokens by operations on tensors that never move, and its reports to the host."""

import torch
from torch import Tensor

from zoo.inference.generation.prompt import GenerationTask

LOOK_EVERY = 16  # tokens between two looks of the host at whether all rows have ended


class Rows:
    """The tensors that all graphs for a number of rows share: the tokens to read [B, 1], their positions [B, 1], and
    the scores of the next ones [B, V]."""

    def __init__(self, scores: Tensor) -> None:
        self.scores = torch.zeros_like(scores)
        self.ids, self.positions = (scores.new_zeros(len(scores), 1, dtype=torch.long) for _ in range(2))


class Choice:
    """Chooses the next token of each row from `rows.scores`, as `generate_tokens` does, and puts it into `rows.ids`.

    tokens [B, LOOK_EVERY]: those since the last look; best: the highest score at each; log_probs: likewise, if they
    are recorded. finished [B]: rows that have ended.
    """

    def __init__(self, rows: Rows, task: GenerationTask) -> None:
        scores, batch = rows.scores, len(rows.scores)
        self.rows, self.sampling, self.fill = rows, task.sampling, task.fill
        self.ends = task.stopping.ids
        self.generator: torch.Generator | None = None
        if scores.device.type == "cuda":
            self.generator = torch.Generator(scores.device)
        self.seen = None
        if task.sampling.repetition_penalty != 1:
            self.seen = torch.zeros_like(scores, dtype=torch.bool)
        self.tokens = scores.new_zeros(batch, LOOK_EVERY, dtype=torch.long)
        self.best = scores.new_zeros(batch, LOOK_EVERY)
        self.log_probs = scores.new_zeros(batch, LOOK_EVERY, dtype=torch.float32) if task.output_scores else None
        self.column = scores.new_zeros(1, dtype=torch.long)
        self.finished = scores.new_zeros(batch, dtype=torch.bool)

    def begin(self, task: GenerationTask) -> None:
        self.column.zero_()
        self.finished.zero_()
        if self.seen is not None:
            self.seen.copy_(task.prompt.seen())

    def __call__(self) -> None:
        scores, seen = self.rows.scores, self.seen
        best, token = scores.max(-1)
        self.best.index_copy_(1, self.column, best[:, None])
        if not self.sampling.greedy or seen is not None:
            token = self.sampling.choose(scores, seen, self.generator)
        if self.log_probs is not None:
            value = self.sampling.log_probability(scores, seen, token).masked_fill(self.finished, 0.0)
            self.log_probs.index_copy_(1, self.column, value[:, None])
        if len(self.ends):
            token = torch.where(self.finished, self.fill, token)
            self.finished |= (token[:, None] == self.ends).any(1)
        if seen is not None:
            seen.scatter_(1, token[:, None], True)
        self.tokens.index_copy_(1, self.column, token[:, None])
        self.column.add_(1)
        self.rows.ids.copy_(token[:, None])


class Reports:
    """Copies of reports on the host, each of which is read when the next one is on its way."""

    def __init__(self) -> None:
        self.pending: list[tuple[Tensor, torch.cuda.Event | None]] = []

    def send(self, report: Tensor) -> None:
        copy = torch.zeros(report.shape, dtype=report.dtype, pin_memory=report.is_cuda)
        copy.copy_(report, non_blocking=True)
        event = torch.cuda.Event() if report.is_cuda else None
        if event is not None:
            event.record()
        self.pending.append((copy, event))

    def receive(self) -> list[bool]:
        """The oldest report."""
        copy, event = self.pending.pop(0)
        if event is not None:
            event.synchronize()
        values: list[bool] = copy.tolist()
        return values
