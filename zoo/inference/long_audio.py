"""What models say about sounds of any length: long ones are heard piece by piece, files in a stream.

A classifier's answer for a long sound is the mean of those for its windows. A CTC model hears pieces that overlap; of
each, the frames that lie far enough from its edges are kept, and the text is read from all of them together.
"""

import math
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.inference.ctc_decoding import beam
from zoo.inference.probabilities import Answer, run
from zoo.models.base import Model
from zoo.preprocessing import audio_io
from zoo.preprocessing.audio import AudioProcessor, name_of
from zoo.preprocessing.audio_io import AudioBlock
from zoo.preprocessing.waveform import WaveformFeatureExtractor

SECONDS, CONTEXT = 20.0, 2.0  # of a piece for models without a limit, and that two pieces share
AT_ONCE = 8  # windows in a batch
LONG = 24  # windows from which on a bar shows how far it is
BEAM = 16


def listed(x: Any) -> list[Any]:
    """The sounds in what `zoo.predict` is given."""
    return list(x) if isinstance(x, list) else [x]


def probabilities(model: Model, x: Any) -> Tensor:
    """Probabilities [B, C] of a classifier's labels for each sound (numbers, where it answers with those): the mean
    over the sound's windows."""
    return torch.stack([_shares(model, sound, place) for place, sound in enumerate(listed(x))])


def _shares(model: Model, sound: Any, place: int) -> Tensor:
    hearer: AudioProcessor = model.preprocess
    if hearer.limit is None:
        assert isinstance(hearer, WaveformFeatureExtractor)
        hearer = replace(hearer, max_length=round(SECONDS * hearer.sampling_rate))
    scores = []
    for pieces in in_batches(
        watched(long_enough(hearer.windows(sound, place=place), model, sound, place), sound, hearer)
    ):
        scores.append(run(model, hearer([(piece.wave, piece.sampling_rate) for piece in pieces])))
    found = torch.cat(scores)
    means: dict[str, Callable[[Tensor], Tensor]] = {
        "single_label_classification": lambda s: s.softmax(-1),
        "multi_label_classification": torch.sigmoid,
    }
    return means.get(model.config.resolved_problem_type, lambda s: s)(found).mean(0)


def transcripts(model: Model, x: Any, top_k: int = 5) -> list[Answer]:
    """The most probable texts of each sound, [(text, probability), ...]: the sum over all paths that the beam followed,
    and over ways to write the same text."""
    vocabulary = getattr(model.preprocess, "vocabulary", None)
    if vocabulary is None:
        raise ValueError(
            "the model has no vocabulary to write texts in: set model.preprocess = dataclasses.replace("
            "model.preprocess, vocabulary=zoo.preprocessing.ctc_vocabulary.Vocabulary(tokens))"
        )
    answers = []
    for place, sound in enumerate(listed(x)):
        texts: dict[str, float] = {}
        for ids, score in beam(
            frame_scores(model, sound, place)[None], width=max(BEAM, top_k), blank=vocabulary.blank_id
        )[0]:
            text = vocabulary.decode(ids)
            texts[text] = texts.get(text, 0.0) + math.exp(score)
        answers.append(sorted(texts.items(), key=lambda item: -item[1])[:top_k])
    return answers


def frame_scores(model: Any, sound: Any, place: int = 0) -> Tensor:
    """Scores [N, V] of a CTC model for the frames of one sound, however long; pieces start at multiples of the model's
    stride, so that their frames are those of the whole."""
    hearer: WaveformFeatureExtractor = model.preprocess
    stride = math.prod(model.config.conv_strides)
    length, shared = (round(s * hearer.sampling_rate / stride) * stride for s in (SECONDS, CONTEXT))
    kept: list[Tensor] = []
    done = 0
    held: tuple[AudioBlock, Tensor] | None = None
    pieces = long_enough(_pieces(hearer, sound, place, length, shared), model, sound, place)
    for piece in watched(pieces, sound, hearer):
        if held is not None and len(piece.wave) < model.config.samples(1):
            break  # what is left is shorter than a frame, and the piece before has heard it
        if held is not None:
            upto = (piece.start + shared // 2) // stride
            done = _keep(kept, held, done, upto, stride)
        held = piece, run(model, hearer([(piece.wave, piece.sampling_rate)]))[0]
    assert held is not None
    _keep(kept, held, done, held[0].start // stride + len(held[1]), stride)
    return torch.cat(kept)


def _keep(kept: list[Tensor], held: tuple[AudioBlock, Tensor], done: int, upto: int, stride: int) -> int:
    """Take the frames of a piece from `done` up to `upto`, counted over the whole sound; returns where that ends."""
    piece, scores = held
    first = piece.start // stride
    kept.append(scores[done - first : upto - first])
    return done + len(kept[-1])


def _pieces(hearer: AudioProcessor, sound: Any, place: int, length: int, shared: int) -> Iterator[AudioBlock]:
    """A sound in pieces of `length` samples that share `shared` with the one before."""
    if isinstance(sound, str | Path | bytes):
        sampling_rate = hearer.sampling_rate
        yield from audio_io.blocks(
            sound, length / sampling_rate, shared / sampling_rate, sampling_rate=sampling_rate, resample=hearer.resample
        )
        return
    wave = hearer._whole(sound, name_of(sound, place), None)
    start = 0
    while True:
        yield AudioBlock(start, wave[start : start + length], hearer.sampling_rate)
        if start + length >= len(wave):
            return
        start += length - shared


def long_enough(pieces: Iterable[AudioBlock], model: Model, sound: Any, place: int) -> Iterator[AudioBlock]:
    """The pieces; AudioError names a sound that is too short for a single token. Only the first can be."""
    least = getattr(model.config, "samples", lambda tokens: 0)(1)
    for piece in pieces:
        if not piece.start:
            model.preprocess.check_length(name_of(sound, place), len(piece.wave), least)
        yield piece


# --- batches, and how far it is ---------------------------------------------------------------------------------------


def in_batches(pieces: Iterable[AudioBlock]) -> Iterator[list[AudioBlock]]:
    """So many windows at a time as go through the model together."""
    source = iter(pieces)
    while batch := list(islice(source, AT_ONCE)):
        yield batch


def watched(pieces: Iterable[AudioBlock], sound: Any, hearer: AudioProcessor) -> Iterator[AudioBlock]:
    """The pieces; for a long file, in a terminal, with a bar of the seconds that were heard."""
    about = audio_io.info(sound) if isinstance(sound, str | Path | bytes) else None
    seconds = about.frames / about.sampling_rate if about else 0.0
    window = (hearer.limit or SECONDS * hearer.sampling_rate) / hearer.sampling_rate
    if seconds < LONG * window or not sys.stderr.isatty():
        yield from pieces
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        name = Path(sound).name if not isinstance(sound, bytes) else "sound"
        task = bar.add_task(f"listening to {name}", total=seconds)
        for piece in pieces:
            yield piece
            bar.update(task, completed=(piece.start + len(piece.wave)) / piece.sampling_rate)
