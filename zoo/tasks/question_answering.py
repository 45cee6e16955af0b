"""Extractive question answering: the start and the end of an answer in a context."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric, Metric
from torchmetrics.functional.text import squad
from torchmetrics.utilities import dim_zero_cat

from zoo.data.text.questions import Questions
from zoo.inference.question_answering import MAX_ANSWER_TOKENS, best_spans
from zoo.tasks.config import OptimSettings
from zoo.tasks.evaluated import EvaluatedTask


class AnswerScores(Metric):
    """Exact match and F1 score of predicted answers, as the scripts of SQuAD compute them, as fractions.

    Answers are compared without case, punctuation and articles; of several right answers the best counts. For a
    question without an answer, the empty prediction is right.

    Args:
        questions: The questions, whose indices the batches have.
        handle_impossible_answer: Whether to predict the empty answer where it scores higher than all others.
    """

    higher_is_better = True
    full_state_update = False

    def __init__(self, questions: Questions, handle_impossible_answer: bool = False) -> None:
        super().__init__()
        self.questions, self.handle_impossible_answer = questions, handle_impossible_answer
        self.places: list[Tensor]
        self.scores: list[Tensor]
        self.add_state("places", default=[], dist_reduce_fx="cat")
        self.add_state("scores", default=[], dist_reduce_fx="cat")

    def update(self, logits: Tensor, batch: Mapping[str, Tensor]) -> None:
        """Add the best answer of each window, of logits [B, N, 2]."""
        places, scores = [], []
        for rows, offsets, question in zip(logits.float().cpu(), batch["offsets"].cpu(), batch["question"].tolist()):
            own = (offsets[:, 0] >= 0).nonzero()[:, 0]
            for score, first, last in best_spans(rows, own, 1, MAX_ANSWER_TOKENS):
                places.append([question, int(offsets[first, 0]), int(offsets[last, 1])])
                scores.append([score, float(rows[0].sum())])
        self.places.append(torch.tensor(places, dtype=torch.long, device=self.device).reshape(-1, 3))
        self.scores.append(torch.tensor(scores, dtype=torch.float32, device=self.device).reshape(-1, 2))

    def predictions(self) -> dict[int, str]:
        """The predicted answer of each question, by index: the best of its windows."""
        empty = isinstance(self.places, list) and not self.places
        places = [] if empty else dim_zero_cat(self.places).tolist()
        scores = [] if empty else dim_zero_cat(self.scores).tolist()
        best: dict[int, tuple[float, int, int]] = {}
        null: dict[int, float] = {}
        for (question, start, end), (score, none) in zip(places, scores):
            best[question] = max((score, -start, -end), best.get(question, (score, -start, -end)))
            null[question] = min(none, null.get(question, none))
        found = {}
        for question, (score, start, end) in sorted(best.items()):
            is_empty = self.handle_impossible_answer and null[question] > score
            found[question] = "" if is_empty else self.questions.contexts[question][-start:-end].strip()
        return found

    def compute(self) -> dict[str, float]:
        """`exact_match` and `f1`."""
        found = self.predictions()
        held = [i for i in found if self.questions.answers[i]]
        right = sum(not text for i, text in found.items() if not self.questions.answers[i])
        totals = {"exact_match": float(right), "f1": float(right)}
        if held:
            given = [{"prediction_text": found[i], "id": str(i)} for i in held]
            expected = [{"id": str(i), "answers": {"text": [text for text, _ in self.questions.answers[i]],
                         "answer_start": [start for _, start in self.questions.answers[i]]}} for i in held]  # fmt: skip
            for name, percent in squad(given, expected).items():  # type: ignore[arg-type]
                totals[name] += float(percent) / 100 * len(held)
        return {name: total / max(len(found), 1) for name, total in totals.items()}


class QuestionAnsweringTask(EvaluatedTask):
    """Train and evaluate a model that finds answers in contexts.

    Batches: the model's inputs, `start_positions` and `end_positions` [B], and for evaluation `question` [B] and
    `offsets` [B, N, 2]; see `zoo.data.QuestionDataModule`. Logs `train_loss`, `lr`, and for validation and test `loss`,
    `exact_match` and `f1` of SQuAD. The step with the highest `val_f1` is the best.

    Args:
        model: Returns logits [B, N, 2], of a token as the start and as the end of the answer.
        lr: Peak learning rate; overrides the one in `optim`.
        questions: The questions of the stages "val" and "test".
        handle_impossible_answer: Whether to predict the empty answer where it scores highest; for data with questions
            that their context does not answer.
        optim, ema, seed: See Task.
    """

    monitor = "val_f1"
    mode = "max"

    def __init__(self, model: nn.Module, lr: float | None = None, *, questions: Mapping[str, Questions],
                 handle_impossible_answer: bool = False, optim: OptimSettings | None = None, ema: float = 0.0,
                 seed: int = 0):  # fmt: skip
        optim = optim or OptimSettings()
        super().__init__(model, optim=optim if lr is None else replace(optim, lr=lr), ema=ema, seed=seed)
        self.questions, self.handle_impossible_answer = questions, handle_impossible_answer
        self.metrics: dict[str, Metric] = {}  # a plain dict: metrics are not part of the state dict

    @property
    def validation_metrics(self) -> dict[str, str]:
        """As in Task."""
        return super().validation_metrics | {"val_exact_match": "max"}

    def loss_of(self, batch: Mapping[str, Any], step: int, micro: int) -> Tensor:
        """Mean over the windows of a micro-batch."""
        losses = self._losses(self._logits(self.model, batch), batch)
        return self.mean_loss(losses.sum(), len(losses))

    def _logits(self, model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
        """Float32 logits [B, N, 2] of a batch; minus infinity at padding."""
        names = getattr(self.model, "inputs", None) or ("input_ids", "attention_mask")
        logits = model(**{name: batch[name] for name in names if name in batch}).float()
        if logits.ndim != 3 or logits.shape[-1] != 2:
            raise ValueError(f"QuestionAnsweringTask needs logits [B, N, 2], the model returned {list(logits.shape)}; "
                             f"create it with head='qa'")  # fmt: skip
        mask = batch.get("attention_mask")
        return logits if mask is None else logits.masked_fill(~mask.bool()[..., None], -torch.inf)

    def _losses(self, logits: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """Losses [B]: the mean of the cross-entropies of start and end (Devlin et al. 2019, section 4.2)."""
        starts, ends = logits.unbind(-1)
        losses = [F.cross_entropy(scores, batch[f"{name}_positions"], reduction="none")
                  for name, scores in (("start", starts), ("end", ends))]  # fmt: skip
        return (losses[0] + losses[1]) / 2

    def _evaluate(self, batch: Mapping[str, Any], stage: str) -> None:
        logits = self._logits(self.evaluated, batch)
        if f"{stage}_loss" not in self.metrics:
            scores = AnswerScores(self.questions[stage], self.handle_impossible_answer)
            made: dict[str, Metric] = {f"{stage}_loss": MeanMetric(), f"{stage}_answers": scores}
            self.metrics |= {name: metric.to(self.device) for name, metric in made.items()}
        self.metrics[f"{stage}_loss"].update(self._losses(logits, batch))
        self.metrics[f"{stage}_answers"].update(logits, batch)
