"""Predictions for audio clips of any length: long clips are processed in windows, and files are streamed.

A classifier averages its predictions over the windows of a clip. A CTC model takes overlapping windows, keeps the
frames of each that are far enough from its edges, and decodes the text from all kept frames together.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.inference.ctc_decoding import beam
from zoo.inference.probabilities import Prediction, activated, require_model, run
from zoo.models.base import Model
from zoo.preprocessing import audio_io
from zoo.preprocessing.audio import AudioProcessor, name_of
from zoo.preprocessing.audio_io import AudioBlock
from zoo.preprocessing.ctc_vocabulary import Vocabulary
from zoo.preprocessing.waveform import WaveformFeatureExtractor
from zoo.utils.progress import progress

SECONDS, CONTEXT = 20.0, 2.0  # length of a window for models without a maximum length, and overlap of two windows
BATCH_SIZE = 8  # windows in a batch
LONG = 24  # number of windows from which a progress bar is shown
BEAM = 16


def listed(x: Any) -> list[Any]:
    """The input of `zoo.predict` as a list of clips."""
    return list(x) if isinstance(x, list) else [x]


def probabilities(model: Model, x: Any, *, first: int = 0) -> Tensor:
    """Probabilities [B, C] of the labels for each clip, or values of a regression: the mean over the windows of the
    clip. first: index of the first clip, for messages."""
    clips = enumerate(listed(x), first)
    return torch.stack([torch.cat([p for _, p in by_window(model, clip, index)]).mean(0) for index, clip in clips])


def by_window(model: Model, clip: Any, index: int = 0) -> Iterator[tuple[list[AudioBlock], Tensor]]:
    """Probabilities [W, C] of the labels, or values of a regression, for each batch of W windows of a clip."""
    processor: AudioProcessor = model.preprocess
    if processor.max_samples is None:
        assert isinstance(processor, WaveformFeatureExtractor)
        processor = replace(processor, max_length=round(SECONDS * processor.sampling_rate))
    windows = check_min_length(processor.windows(clip, index=index), model, clip, index)
    for batch in in_batches(with_progress_bar(windows, clip, processor)):
        yield batch, activated(model, run(model, processor([(window.wave, window.sampling_rate) for window in batch])))


def transcripts(model: Model, x: Any, top_k: int = 5, *, first: int = 0) -> list[Prediction]:
    """The most probable texts of each clip, [(text, probability), ...]. Probabilities are summed over all paths in the
    beam and over symbol sequences with the same text."""
    vocabulary = vocabulary_of(model)
    predictions = []
    for index, clip in enumerate(listed(x), first):
        scores = frame_scores(model, clip, index)[None]
        texts = texts_of(beam(scores, width=max(BEAM, top_k), blank=vocabulary.blank_id)[0], vocabulary)
        best = sorted(texts.items(), key=lambda item: -item[1])[:top_k]
        predictions.append([(text, math.exp(log_p)) for text, log_p in best])
    return predictions


def texts_of(found: Sequence[tuple[Sequence[int], float]], vocabulary: Vocabulary) -> dict[str, float]:
    """{text: log probability} of (ids, log probability), summed over symbol sequences with the same text."""
    texts: dict[str, float] = {}
    for ids, score in found:
        text = vocabulary.decode(ids)
        texts[text] = float(np.logaddexp(texts.get(text, -math.inf), score))
    return texts


def vocabulary_of(model: Model) -> Vocabulary:
    """The symbols of a CTC model. Raises ValueError if its preprocessing has none."""
    vocabulary = getattr(model.preprocess, "vocabulary", None)
    if vocabulary is None:
        raise ValueError(
            "the model has no vocabulary to decode texts with: set model.preprocess = dataclasses.replace("
            "model.preprocess, vocabulary=zoo.preprocessing.ctc_vocabulary.Vocabulary(tokens))"
        )
    return vocabulary


def frame_scores(model: Any, clip: Any, index: int = 0) -> Tensor:
    """Scores [N, V] of a CTC model for the frames of a clip of any length. Windows start at multiples of the stride of
    the model, so that their frames are aligned with those of the whole clip."""
    processor: WaveformFeatureExtractor = model.preprocess
    stride = math.prod(model.config.conv_strides)
    length, shared = (round(s * processor.sampling_rate / stride) * stride for s in (SECONDS, CONTEXT))
    kept: list[Tensor] = []
    done = 0
    previous: tuple[AudioBlock, Tensor] | None = None
    windows = check_min_length(_windows(processor, clip, index, length, shared), model, clip, index)
    for window in with_progress_bar(windows, clip, processor):
        if previous is not None and len(window.wave) < model.config.samples(1):
            break  # the rest is shorter than a frame and part of the previous window
        if previous is not None:
            end = (window.start + shared // 2) // stride
            done = _keep(kept, previous, done, end, stride)
        previous = window, run(model, processor([(window.wave, window.sampling_rate)]))[0]
    assert previous is not None
    _keep(kept, previous, done, previous[0].start // stride + len(previous[1]), stride)
    return torch.cat(kept)


def _keep(kept: list[Tensor], scored: tuple[AudioBlock, Tensor], done: int, end: int, stride: int) -> int:
    """Append the frames `done` to `end` of the clip from a window with its scores; returns the frames kept so far."""
    window, scores = scored
    first = window.start // stride
    kept.append(scores[done - first : end - first])
    return done + len(kept[-1])


def _windows(processor: AudioProcessor, clip: Any, index: int, length: int, shared: int) -> Iterator[AudioBlock]:
    """Split a clip into windows of `length` samples that share `shared` samples with the previous one."""
    if isinstance(clip, str | Path | bytes):
        sampling_rate = processor.sampling_rate
        yield from audio_io.blocks(
            clip,
            length / sampling_rate,
            shared / sampling_rate,
            sampling_rate=sampling_rate,
            resample=processor.resample,
        )
        return
    wave = processor.load(clip, name_of(clip, index), None)
    start = 0
    while True:
        yield AudioBlock(start, wave[start : start + length], processor.sampling_rate)
        if start + length >= len(wave):
            return
        start += length - shared


def check_min_length(windows: Iterable[AudioBlock], model: Model, clip: Any, index: int) -> Iterator[AudioBlock]:
    """Yield the windows. Raises AudioError naming the clip if it is too short for one token of the model."""
    min_samples = getattr(model.config, "samples", lambda tokens: 0)(1)
    for window in windows:
        if not window.start:
            model.preprocess.check_length(name_of(clip, index), len(window.wave), min_samples)
        yield window


def check_one_clip(model: Model, clip: Any, heads: Sequence[str], call: str, other: str = "") -> None:
    """Raises ValueError unless it is a model for audio with one of the heads, and one clip. other: what else would fit,
    for the message."""
    require_model(model, call)
    if not isinstance(model.preprocess, AudioProcessor) or model.config.head not in heads:
        what = "preprocessing for audio" if model.config.head in heads else f"head={model.config.head!r}"
        has = "has no" if model.config.head in heads else "has"
        expected = " or ".join(f"head={head!r}" for head in heads)
        raise ValueError(f"{call} expects {other}a model for audio with {expected}, but the model {has} {what}")
    if isinstance(clip, list):
        raise one_clip_error(clip, call)


def one_clip_error(clips: Sequence[Any], call: str) -> ValueError:
    """The error for a list of clips."""
    return ValueError(f"{call} expects one clip, given a list of {len(clips)}: call it for each of them")


# --- batches and progress ---------------------------------------------------------------------------------------------


def in_batches(windows: Iterable[AudioBlock]) -> Iterator[list[AudioBlock]]:
    """Lists of up to BATCH_SIZE windows."""
    source = iter(windows)
    while batch := list(islice(source, BATCH_SIZE)):
        yield batch


def with_progress_bar(windows: Iterable[AudioBlock], clip: Any, processor: AudioProcessor) -> Iterator[AudioBlock]:
    """Yield the windows; for a long file, show the progress in seconds."""
    info = audio_io.info(clip) if isinstance(clip, str | Path | bytes) else None
    seconds = info.frames / info.sampling_rate if info else 0.0
    length = (processor.max_samples or SECONDS * processor.sampling_rate) / processor.sampling_rate
    name = Path(clip).name if isinstance(clip, str | Path) else "audio"
    with progress(f"{name}, seconds", round(seconds), enabled=seconds >= LONG * length) as advance:
        done = 0
        for window in windows:
            yield window
            end = round((window.start + len(window.wave)) / window.sampling_rate)
            advance(end - done)
            done = end
