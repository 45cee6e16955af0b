"""Baselines of labeled runs: what the majority class and a linear model on simple features reach on the same items.

A baseline is computed in a thread with scikit-learn, from the items that the data module has decoded. It takes no
random numbers from torch's or numpy's generators, so that a run computes the same with and without it.
"""

import threading
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.data.datamodule import KeyedDataModule
from zoo.models.config import ProblemType
from zoo.preprocessing.text_cleaning import UNSPACED
from zoo.tasks.base import Task
from zoo.tasks.classification import ClassificationTask
from zoo.tasks.problem_types import Objective
from zoo.utils.keyed_random import seed_for

MAX_ITEMS = 20_000  # of each split; larger ones are sampled
MAX_CHARACTERS = 10_000_000  # of all texts of a split
MAX_SCORES = 4_000_000  # training items x classes
MAX_WEIGHTS = 2_000_000  # word counts x classes
MAX_SECONDS = 60.0  # of CPU time, however busy the CPU is
LONGEST = 10  # times as long the end of a run waits on a busy CPU

# Words, single punctuation marks, and single characters of scripts without spaces between words.
TOKEN_PATTERN = rf"[{UNSPACED}]|[^\W{UNSPACED}]+|[^\w\s]"

Array = np.ndarray
Predict = Callable[[Any], Array]  # features -> classes [n], labels [n, C] of 0 and 1, or values [n]


@dataclass(frozen=True)
class Baseline:
    """The best of the simple models of a run, by validation.

    Attributes:
        name: What it is, e.g. `word counts + logistic regression`.
        metric: The metric that is compared, without its stage, e.g. `accuracy`.
        score, validation_score: The metric on the test and validation set.
        items: Number of training items that it was computed from.
        items_of: Number of training items that there are.
        mode: Whether a higher ("max") or lower ("min") score is better.
        constant, constant_score, constant_validation_score: The same of a model that predicts the majority class, or
            the mean.
    """

    name: str
    metric: str
    score: float
    validation_score: float
    items: int
    items_of: int
    mode: str
    constant: str
    constant_score: float
    constant_validation_score: float

    def describe(self) -> str:
        """One line for the banner."""
        scores = f"{self.metric} {self.shown(self.validation_score)} (validation), {self.shown(self.score)} (test)"
        parts = [f"{self.name}: {scores}"]
        if self.name != self.constant:
            parts.append(f"{self.constant}: {self.shown(self.constant_score)} (test)")
        if self.items < self.items_of:
            parts.append(f"computed from {self.items:,} of {self.items_of:,} items")
        return "; ".join(parts)

    def is_better_than(self, score: float) -> bool:
        """Whether the baseline does better on the test set than this score."""
        return self.score > score if self.mode == "max" else self.score < score

    def shown(self, score: float) -> str:
        """A value of the metric as text."""
        return f"{score:.2%}" if self.metric in ("accuracy", "f1", "mean_iou") else f"{score:.4f}"


class BaselineThread:
    """Computes the baseline of a run in a thread, which ends with the process.

    Attributes:
        problem: Why there is no baseline, for messages; empty while it is computed.
        is_described: Whether `describe` has returned the baseline, or why there is none.
    """

    def __init__(self, objective: Objective, data: KeyedDataModule, metric: str = "") -> None:
        self.problem, self.is_described = "", False
        self._baseline: Baseline | None = None
        self._started, self._cpu_started = time.monotonic(), time.process_time()
        self._thread = threading.Thread(
            target=self._compute, args=(objective, data, metric), daemon=True, name="baseline"
        )
        self._thread.start()

    def wait(self, seconds: float = float("inf")) -> Baseline | None:
        """The baseline, after at most so many seconds and not beyond its time limit; None if there is none by then."""
        end = time.monotonic() + seconds
        while self._thread.is_alive() and not self.is_late and time.monotonic() < end:
            self._thread.join(min(0.1, max(0.0, end - time.monotonic())))
        if self._thread.is_alive() and seconds == float("inf"):
            self.problem = f"not computed within {MAX_SECONDS:g} s"
        return self._baseline

    @property
    def is_late(self) -> bool:
        """Whether its time limit is over, by the clock and by the CPU time that this process has had since its start;
        on a CPU that is too busy for that, later."""
        seconds, cpu_seconds = time.monotonic() - self._started, time.process_time() - self._cpu_started
        return seconds > LONGEST * MAX_SECONDS or min(seconds, cpu_seconds) > MAX_SECONDS

    @property
    def is_computing(self) -> bool:
        """Whether the thread still runs."""
        return self._thread.is_alive()

    def describe(self, seconds: float = float("inf")) -> str:
        """The baseline in one line, or why there is none."""
        found = self.wait(seconds)
        self.is_described = found is not None or bool(self.problem)
        return found.describe() if found else self.problem or "being computed; shown when it is known"

    def as_dict(self) -> dict[str, Any]:
        """The baseline for `metrics.json`, or why there is none."""
        found = self.wait()
        return asdict(found) if found else {"problem": self.problem}

    def _compute(self, objective: Objective, data: KeyedDataModule, metric: str) -> None:
        try:
            self._baseline = compute(objective, data, metric, MAX_SECONDS)
        except Exception as error:  # the run itself needs no baseline; banner and metrics.json say what went wrong
            self.problem = f"not computed: {type(error).__name__}: {error}"


def start_baseline(task: Task, data: Any, metric: str = "") -> BaselineThread | None:
    """Start the baseline of a run, see `compute`; None for a run without labels."""
    if not isinstance(task, ClassificationTask) or not isinstance(data, KeyedDataModule):
        return None
    if not isinstance(getattr(data.part("train"), "labels", None), Tensor):
        return None
    # A linear model that has not quite converged is a baseline, too. Filters are global, hence not set in the thread.
    warnings.filterwarnings("ignore", message=".*failed to converge", module="sklearn")
    return BaselineThread(task.objective, data, metric)


def compute(objective: Objective, data: KeyedDataModule, metric: str = "",
            limit: float = float("inf")) -> Baseline:  # fmt: skip
    """The baseline of a classifier or regression model.

    Args:
        objective: The objective of the run.
        data: Its data.
        metric: The metric to compare; for one that only a model of probabilities has, the main one of the objective.
        limit: Seconds of CPU time of this thread after which no further model is fitted.

    Raises: TimeoutError after `limit`.
    """
    kind = objective.problem_type
    known = objective.metrics("val", 2)
    known.pop("calibration_error", None)  # the predictions of a baseline are classes
    metric = metric if metric in known else objective.monitor[0]
    mode = "max" if known[metric].higher_is_better else "min"
    labels = {stage: data.part(stage).labels for stage in ("train", "val", "test")}
    classes = 1 if kind == "regression" else max(len(data.classes), 2)
    rows = {stage: _sample(len(labels[stage]), MAX_ITEMS) for stage in ("val", "test")}
    scored = {stage: labels[stage][rows[stage]] for stage in rows}

    def scores(predicted: Callable[[str], Any]) -> dict[str, float]:
        return {stage: _score(objective, metric, predicted(stage), scored[stage], classes) for stage in rows}

    constant, name = _constant(labels["train"], kind), "mean" if kind == "regression" else "majority class"
    plain = scores(lambda stage: constant.expand(len(scored[stage]), *constant.shape))
    best = (name, plain, len(labels["train"]))
    chosen = _sample(len(labels["train"]), min(MAX_ITEMS, max(1, MAX_SCORES // classes)))
    inputs = data.simple_features("train", chosen)
    if inputs is not None and len(labels["train"][chosen].unique(dim=0)) > 1:
        chosen, inputs = _limited(chosen, inputs)
        others = {stage: data.simple_features(stage, rows[stage]) for stage in rows}
        model = "ridge regression" if kind == "regression" else "logistic regression"
        for penalty in data.penalties if kind == "regression" else (1.0,):
            predict = _fit(inputs, labels["train"][chosen].numpy(), kind, classes, limit, data.standardize, penalty)
            linear = scores(lambda stage: torch.from_numpy(predict(others[stage])))  # noqa: B023
            if linear["val"] > best[1]["val"] if mode == "max" else linear["val"] < best[1]["val"]:
                best = (f"{data.features} + {model}", linear, len(chosen))
    return Baseline(best[0], metric, best[1]["test"], best[1]["val"], best[2], len(labels["train"]),
                    mode, name, plain["test"], plain["val"])  # fmt: skip


def _sample(count: int, limit: int) -> Tensor:
    """Sorted rows: all of them, or a seeded sample of `limit`."""
    if count <= limit:
        return torch.arange(count)
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed_for(0, count)))[:limit].sort().values


def _limited(rows: Tensor, inputs: Any) -> tuple[Tensor, Any]:
    """Rows and their features; of long texts, a seeded sample of the rows with a limited number of characters."""
    if isinstance(inputs, Tensor):
        return rows, inputs
    length = sum(len("".join(text)) for text in inputs)
    if length <= MAX_CHARACTERS:
        return rows, inputs
    kept = _sample(len(rows), max(2, int(len(rows) * MAX_CHARACTERS / length)))
    return rows[kept], [inputs[i] for i in kept.tolist()]


def _constant(labels: Tensor, kind: ProblemType) -> Tensor:
    """The prediction that does not look at the input: the mean, the most frequent class, or value of each label."""
    if kind == "regression":
        return labels.double().nanmean(0)
    return labels.float().nanmean(0).gt(0.5).long() if kind == "multi_label_classification" else labels.mode().values


def _score(objective: Objective, metric: str, predicted: Tensor, labels: Tensor, classes: int) -> float:
    """The metric of a run for predicted classes [n], labels [n, C] or values [n] or [n, C]."""
    if objective.problem_type == "regression":
        logits = objective.normalize(predicted).float().reshape(len(predicted), -1)
    elif objective.problem_type == "multi_label_classification":
        logits = 20.0 * predicted - 10
    else:
        logits = torch.nn.functional.one_hot(predicted.long(), classes).float()
    scorer = objective.metrics("val", logits.shape[1])[metric]
    scorer.distributed_available_fn = lambda: False  # it is computed on one rank alone, which would wait for the others
    scorer.update(*objective.metric_inputs(logits, labels))
    return round(float(scorer.compute()), 6)


# --- linear models ----------------------------------------------------------------------------------------------------


def _fit(inputs: Any, labels: Array, kind: ProblemType, classes: int, limit: float,
         standardize: bool = True, penalty: float = 1.0) -> Predict:  # fmt: skip
    """A linear model of texts or features [n, F], which are scaled or not. penalty: of a ridge regression."""
    from sklearn.linear_model import LogisticRegression, Ridge

    is_text = not isinstance(inputs, Tensor)
    encode = _word_counts(inputs, classes) if is_text else _standardized(inputs) if standardize else _as_array
    x = encode(inputs)
    if kind == "regression":
        check_time(limit)
        ridge = partial(Ridge, penalty, solver="sparse_cg" if is_text else "cholesky")
        if (there := ~np.isnan(labels)).all():
            whole = ridge().fit(x, labels.astype(np.float64))
            return lambda items: whole.predict(encode(items))
        parts = [ridge().fit(x[rows], y[rows].astype(np.float64)) for y, rows in zip(labels.T, there.T)]
        return lambda items: np.stack([part.predict(encode(items)) for part in parts], 1)

    def logistic(y: Array) -> Predict:
        check_time(limit)
        rows = ~np.isnan(y)
        y = y[rows].astype(np.int64)
        if (y == y[0]).all():
            return lambda x: np.full(x.shape[0], y[0])
        model: Predict = LogisticRegression(C=10.0 if is_text else 1.0, max_iter=200).fit(x[rows], y).predict
        return model

    if kind == "single_label_classification":
        predict = logistic(labels)
        return lambda items: predict(encode(items))
    columns = [logistic(column) for column in labels.T]

    def each_label(items: Any) -> Array:
        encoded = encode(items)
        return np.stack([predict(encoded) for predict in columns], 1)

    return each_label


def check_time(limit: float) -> None:
    """Raise TimeoutError if this thread has computed longer than `limit` seconds."""
    if time.thread_time() > limit:
        raise TimeoutError(f"the limit is {limit:g} s of CPU time")


def _standardized(features: Tensor) -> Callable[[Tensor], Array]:
    """A function that scales features [n, F] by the mean and standard deviation of these."""
    mean, std = features.double().mean(0), features.double().std(0, correction=0)
    std[std == 0] = 1
    return lambda features: ((features.double() - mean) / std).numpy()


def _as_array(features: Tensor) -> Array:
    """Features [n, F] as they are."""
    return features.double().numpy()


def _word_counts(texts: Sequence[Any], classes: int) -> Callable[[Sequence[Any]], Any]:
    """A function that counts the words of texts, those of each part of pairs apart, weighted by tf-idf."""
    from scipy.sparse import hstack
    from sklearn.feature_extraction.text import TfidfVectorizer

    columns = _parts(texts)
    limit = max(100, MAX_WEIGHTS // (classes * len(columns)))
    counters = [
        TfidfVectorizer(token_pattern=TOKEN_PATTERN, sublinear_tf=True, max_features=limit).fit(column)
        for column in columns
    ]

    def encode(texts: Sequence[Any]) -> Any:
        return hstack([c.transform(column) for c, column in zip(counters, _parts(texts), strict=True)], format="csr")

    return encode


def _parts(texts: Sequence[Any]) -> list[list[str]]:
    """Texts as one list, pairs of texts as two."""
    return [list(part) for part in zip(*(text if isinstance(text, tuple) else (text,) for text in texts), strict=True)]
