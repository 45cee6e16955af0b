"""`zoo.timeline`: the labels of a long recording over time, and their mean, which is what `zoo.predict` gives."""

import csv
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.inference.long_audio import by_window, check_one_clip
from zoo.inference.probabilities import Prediction, label_names, top_predictions
from zoo.models.base import Model
from zoo.preprocessing.audio import name_of
from zoo.preprocessing.audio_io import AudioBlock
from zoo.utils.errors import check_choice
from zoo.utils.files import write_atomic

PEAKS = 200  # points of the waveform in each window, for plots


class TimelineRow(NamedTuple):
    """A label of one window: start and end in seconds, label, probability (of a regression, the value)."""

    start: float
    end: float
    label: str
    probability: float


@dataclass(frozen=True, eq=False)
class Timeline:
    """The labels of a recording over time.

    name: the file. labels: of all classes. problem_type: of the model. spans: start and end of each of the W windows in
    seconds; the last window ends with the recording and overlaps the one before. outputs: probabilities [W, C], or
    values of a regression. top_k: labels of a window in `rows`. envelope: seconds and peak of the waveform [P, 2].
    """

    name: str
    labels: tuple[str, ...]
    problem_type: str
    spans: tuple[tuple[float, float], ...]
    outputs: Tensor = field(repr=False)
    envelope: Tensor = field(repr=False)
    top_k: int = 1

    @property
    def mean(self) -> Prediction:
        """The mean of all windows for all labels, [(label, probability), ...], as `zoo.predict` gives it."""
        return self._predictions(self.outputs.mean(0, keepdim=True), len(self.labels))[0]

    @property
    def rows(self) -> list[TimelineRow]:
        """The `top_k` most probable labels of each window, in the order of time; of a regression, all values."""
        predictions = zip(self.spans, self._predictions(self.outputs, self.top_k))
        return [TimelineRow(*span, *pair) for span, prediction in predictions for pair in prediction]

    @property
    def unit(self) -> str:
        """What the numbers of the labels are: "probability", or "value" of a regression."""
        return "value" if self.problem_type == "regression" else "probability"

    def save(self, path: str | Path) -> None:
        """Write the rows to a `.csv` file, or the rows and the mean to a `.json` file.

        Raises ValueError for another suffix; `zoo.interpret.plot_timeline.plot_timeline` writes a PNG.
        """
        check_choice("the suffix of the file", Path(path).suffix.lower(), (".csv", ".json"))
        write_atomic(path, self._csv() if Path(path).suffix.lower() == ".csv" else self._json())

    def _predictions(self, outputs: Tensor, top_k: int) -> list[Prediction]:
        if self.unit == "value":
            return [list(zip(self.labels, row)) for row in outputs.tolist()]
        return top_predictions(outputs, top_k, lambda i: self.labels[i])

    def _csv(self) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("start", "end", "label", self.unit))
        writer.writerows((f"{r.start:.3f}", f"{r.end:.3f}", r.label, f"{r.probability:.6g}") for r in self.rows)
        return text.getvalue()

    def _json(self) -> str:
        rows = [{"start": r.start, "end": r.end, "label": r.label, self.unit: r.probability} for r in self.rows]
        mean = [{"label": label, self.unit: value} for label, value in self.mean]
        return json.dumps({"file": self.name, "mean": mean, "rows": rows}, ensure_ascii=False, indent=1) + "\n"


def timeline(model: Model, clip: Any, top_k: int = 1) -> Timeline:
    """Predict the labels of a recording over time, in the windows that `zoo.predict` averages; files are streamed.

    Args:
        model: A classifier of audio.
        clip: A path, bytes or (samples, sampling_rate), of any length.
        top_k: Number of labels of each window in `Timeline.rows`.

    Returns:
        A `Timeline`: `rows` with start and end in seconds, label and probability; `mean`, equal to `zoo.predict`;
        `save("out.csv")`.

    Raises:
        ValueError: It is not a classifier of audio, `top_k` is not positive, or outputs are not finite.
        AudioError: As in `zoo.predict`.
    """
    check_one_clip(model, clip, ("classify",), "zoo.timeline")
    if not isinstance(top_k, int) or isinstance(top_k, bool) or top_k < 1:
        raise ValueError(f"top_k={top_k!r}: expected a whole number of at least 1")
    spans: list[tuple[float, float]] = []
    outputs, envelope, done = [], [], 0
    for windows, probabilities in by_window(model, clip):
        outputs.append(probabilities)
        for window in windows:
            spans.append((window.start / window.sampling_rate, _end(window) / window.sampling_rate))
            envelope.append(_peaks(window, done))
            done = _end(window)
    found = torch.cat(outputs)
    if not found.isfinite().all():
        raise ValueError(f"the model gives numbers that are not finite for {name_of(clip, 0)}")
    labels = tuple(label_names(model, found.shape[1]))
    kind = model.config.resolved_problem_type
    return Timeline(name_of(clip, 0), labels, kind, tuple(spans), found, torch.cat(envelope), top_k)


def _end(window: AudioBlock) -> int:
    return window.start + len(window.wave)


def _peaks(window: AudioBlock, done: int) -> Tensor:
    """Seconds and largest amplitude [P, 2] of the samples from `done` on."""
    wave = window.wave[done - window.start :].abs()
    peaks = F.adaptive_max_pool1d(wave[None], min(PEAKS, len(wave)))[0]
    times = done + (torch.arange(len(peaks)) + 0.5) * len(wave) / len(peaks)
    return torch.stack([times / window.sampling_rate, peaks], 1)
