"""`zoo.transcribe` and `zoo.align`: the text of speech, with the times of its words and characters.

A CTC model scores clips of any length in windows, as `zoo.predict` does, and decodes long ones in pieces that end in
pauses; `zoo.inference.whisper_windows` has the windows of Whisper.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from zoo.inference.ctc_decoding import beam
from zoo.inference.ctc_language_model import LanguageModelScorer
from zoo.inference.forced_alignment import Span, best_path, best_path_of
from zoo.inference.long_audio import (
    BEAM,
    check_one_clip,
    frame_scores,
    one_clip_error,
    texts_of,
    vocabulary_of,
)
from zoo.inference.subtitles import SubtitleLimits, TimedText
from zoo.inference.transcript import Segment, Transcript
from zoo.inference.whisper_decoding import WhisperOptions
from zoo.inference.whisper_windows import WhisperTranscriber
from zoo.models.base import Model
from zoo.models.whisper.model import Whisper
from zoo.preprocessing.audio import name_of
from zoo.preprocessing.audio_io import SUFFIXES, AudioError
from zoo.preprocessing.ctc_vocabulary import Vocabulary
from zoo.utils.errors import check_choice, did_you_mean, is_number
from zoo.utils.folders import data_files

__all__ = ["AudioError", "Search", "Segment", "SubtitleLimits", "Transcript", "WhisperOptions", "align", "recordings",
           "transcribe", "transcribe_files"]  # fmt: skip

PIECE = 60.0  # seconds: the longest piece that is decoded at once
PIECES = 16  # that are decoded together

Timestamps = Literal["word", "char", "segment"]


def transcribe(
    model: Model,
    clip: Any,
    *,
    timestamps: Timestamps | None = "word",
    beam_width: int | None = None,
    language_model: Model | None = None,
    lm_weight: float = 0.5,
    word_bonus: float = 1.5,
    **options: Any,
) -> Transcript:
    """The text of a recording of any length, with the times of its words.

    Of a CTC model, the times are those of the most probable path of the text, and the probability of a word or
    character is the mean of the probabilities of its frames on that path. Whisper reads windows of 30 s, each from the
    last timestamp of the one before; the times of its words are from its cross-attention (`zoo.inference.word_times`).

    Args:
        model: A CTC model with a vocabulary, or Whisper with a tokenizer.
        clip: A path, bytes or (samples, sampling_rate).
        timestamps: "word", of a CTC model "char" for words and characters, None for the text alone; of Whisper
            "segment" for the parts that it writes, with their times, without words.
        beam_width: Number of texts in the beam, 16 by default; 1 takes the best symbol of each frame, without a search.
            Of Whisper 1 by default, the most probable token.
        language_model: A decoder with head="lm" and its tokenizer, which takes part in the search of a CTC model: texts
            are ordered by log P(text | audio) + lm_weight * log P(text) + word_bonus * words. It reads every text in
            the beam whenever a word ends, so most of the time is then its own.
        options: Of Whisper: the fields of `zoo.inference.whisper_decoding.WhisperOptions`, such as language="de".

    Returns:
        A `Transcript` with `text`, `words` and `characters`, as (start, end, text, probability) in seconds, and `save`;
        of Whisper with `segments` and `language`, too.

    Raises:
        ValueError: It is neither a CTC model nor Whisper, or it has no vocabulary or tokenizer, or an option is
            invalid, or the model lacks the language, or the language model has no tokenizer or one that cannot write
            the vocabulary.
        TypeError: An option that the model does not have.
        AudioError: As in `zoo.predict`.
    """
    if isinstance(clip, list):
        raise one_clip_error(clip, "zoo.transcribe")
    search = Search(timestamps, beam_width, language_model, lm_weight, word_bonus)
    ((_, found),) = transcribe_files(model, [clip], search, **options)
    if isinstance(found, AudioError):
        raise found
    return found


@dataclass(frozen=True)
class Search:
    """The options of `transcribe` that are not of Whisper alone."""

    timestamps: Timestamps | None = "word"
    beam_width: int | None = None
    language_model: Model | None = None
    lm_weight: float = 0.5
    word_bonus: float = 1.5

    def __post_init__(self) -> None:
        width = self.beam_width
        if width is not None and (not isinstance(width, int) or isinstance(width, bool) or width < 1):
            raise ValueError(f"beam_width={width!r}: expected a whole number of at least 1")


def transcribe_files(
    model: Model, clips: Sequence[Any], search: Search | None = None, **options: Any
) -> Iterator[tuple[int, Transcript | AudioError]]:
    """(index, transcript) of each clip as soon as it is finished, or the error of one that cannot be read.

    Whisper transcribes `batch_size` clips at a time. search, options: see `transcribe`, which raises the same errors.
    """
    search = search or Search()
    if isinstance(model, Whisper):
        return _with_whisper(model, search, options)(clips)
    check_one_clip(model, None, ("ctc",), "zoo.transcribe", other="Whisper or ")
    if options:
        raise ValueError(f"{next(iter(options))}= is an option of Whisper, not of CTC models: omit it")
    return _with_ctc(model, clips, search)


def _with_whisper(model: Whisper, search: Search, options: Mapping[str, Any]) -> WhisperTranscriber:
    check_choice("timestamps", search.timestamps or "segment", ("word", "segment"))
    if search.language_model is not None:
        raise ValueError("language_model= takes part in the search of CTC models; Whisper has its own decoder: omit it")
    names = [each.name for each in fields(WhisperOptions)]
    if unknown := next((name for name in options if name not in names), None):
        raise TypeError(
            f"zoo.transcribe: Whisper has no option {unknown!r}{did_you_mean(unknown, names)}; it has "
            f"{', '.join(names)}"
        )
    return WhisperTranscriber(model, WhisperOptions(**options), words=search.timestamps == "word",
                              num_beams=search.beam_width or 1)  # fmt: skip


def _with_ctc(model: Model, clips: Sequence[Any], search: Search) -> Iterator[tuple[int, Transcript | AudioError]]:
    vocabulary = vocabulary_of(model)
    if search.timestamps is not None:
        check_choice("timestamps", search.timestamps, ("word", "char"))
    width = BEAM if search.beam_width is None else search.beam_width
    scorer = None
    if search.language_model is not None:
        if width == 1:
            raise ValueError("beam_width=1: with a language model, expected at least 2 texts in the beam, such as 16")
        for name in ("lm_weight", "word_bonus"):
            if not is_number(value := getattr(search, name)):
                raise ValueError(f"{name}={value!r}: expected a finite number")
        scorer = LanguageModelScorer(
            search.language_model, vocabulary, weight=search.lm_weight, word_bonus=search.word_bonus
        )
    for index, clip in enumerate(clips):
        try:
            yield index, _ctc_transcript(model, clip, vocabulary, width, search.timestamps, scorer)
        except AudioError as error:
            yield index, error


def _ctc_transcript(
    model: Model,
    clip: Any,
    vocabulary: Vocabulary,
    width: int,
    timestamps: str | None,
    scorer: LanguageModelScorer | None,
) -> Transcript:
    scores = _finite_scores(model, clip)
    length = round(PIECE / _frame_seconds(model))
    ids, spans = _decode(scores, vocabulary, width, length, timestamps is not None, scorer)
    name, text = name_of(clip, 0), vocabulary.decode(ids)
    if timestamps is None:
        return Transcript(name, text)
    words = _timed(spans, [vocabulary.decode([span.symbol]) for span in spans], vocabulary, _frame_seconds(model))
    return Transcript(name, text, *(words if timestamps == "char" else words[:1]))


def align(model: Model, clip: Any, text: str) -> Transcript:
    """The times of the words and characters of a text that is known, by `torchaudio.functional.forced_align`.

    Args:
        model: A CTC model with a vocabulary.
        clip: A path, bytes or (samples, sampling_rate). At once up to about 20 minutes, with 2 bytes of memory
            per frame and symbol of the text.
        text: The text of the clip, in the characters of the vocabulary; letters may be of the other case.

    Returns:
        A `Transcript` of the text with `words` and `characters`.

    Raises:
        ValueError: The text is empty, has a character that is not in the vocabulary, or is too long for the clip.
        AudioError: As in `zoo.predict`.
    """
    vocabulary = _vocabulary(model, clip, "zoo.align")
    if not isinstance(text, str) or not text.split():
        raise ValueError(f"text={text!r}: expected the text of the clip")
    text = " ".join(text.split())
    spans = best_path_of(_finite_scores(model, clip), vocabulary.encode(text), blank=vocabulary.blank_id)
    return Transcript(name_of(clip, 0), text, *_timed(spans, [*text], vocabulary, _frame_seconds(model)))


def split_at_pauses(scores: Tensor, blank: int, length: int) -> list[Tensor]:
    """Split frames [N, V] into pieces of up to `length` frames, each cut where a blank is most probable for longest.

    A blank between two pieces leaves every path what it is. The cut is in the second half of a piece.
    """
    pieces = []
    while len(scores) > length:
        quiet = scores[length // 2 : length].log_softmax(-1)[:, blank]
        near = torch.nn.functional.avg_pool1d(quiet[None], 5, 1, 2, count_include_pad=False)[0]
        cut = length // 2 + int((near if len(quiet) >= 5 else quiet).argmax())
        pieces.append(scores[:cut])
        scores = scores[cut:]
    return [*pieces, scores]


def _decode(
    scores: Tensor,
    vocabulary: Vocabulary,
    width: int,
    length: int,
    timed: bool,
    scorer: LanguageModelScorer | None,
) -> tuple[list[int], list[Span]]:
    """The symbols of the text, and if `timed` their spans. length: the longest piece in frames."""
    blank = vocabulary.blank_id
    if width == 1:
        spans = best_path(scores, blank=blank)
        return [span.symbol for span in spans], spans
    pieces = split_at_pauses(scores, blank, length)
    batches = (pieces[i : i + PIECES] for i in range(0, len(pieces), PIECES))
    found = [ids for batch in batches for ids in _search(batch, vocabulary, width, scorer)]
    spans, start = [], 0
    for piece, ids in zip(pieces, found):
        for span in best_path_of(piece, ids, blank=blank) if timed else ():
            spans.append(span._replace(start=span.start + start, end=span.end + start))
        start += len(piece)
    return [symbol for ids in found for symbol in ids], spans


def _search(
    pieces: Sequence[Tensor], vocabulary: Vocabulary, width: int, scorer: LanguageModelScorer | None
) -> list[list[int]]:
    """The symbols of the most probable text of each piece."""
    frames = torch.tensor([len(piece) for piece in pieces])
    padded = pad_sequence(list(pieces), batch_first=True)
    rows = beam(padded, frames, width=width, blank=vocabulary.blank_id, scorer=scorer)
    best = []
    for row in rows:
        texts = texts_of(row, vocabulary)
        added = [0.0] * len(texts) if scorer is None else scorer.of_texts(list(texts))
        chosen = max(zip(texts, added), key=lambda pair: texts[pair[0]] + pair[1])[0]
        best.append(next(ids for ids, _ in row if vocabulary.decode(ids) == chosen))
    return best


def _timed(
    spans: Sequence[Span], texts: Sequence[str], vocabulary: Vocabulary, seconds: float
) -> tuple[tuple[TimedText, ...], tuple[TimedText, ...]]:
    """The words and the characters of spans, of which `texts` are the written form; seconds: of a frame."""
    words: list[TimedText] = []
    characters: list[TimedText] = []
    word: list[tuple[Span, str]] = []
    for span, text in [*zip(spans, texts), (None, "")]:
        if span is not None and vocabulary.tokens[span.symbol] != vocabulary.space:
            if text:  # special tokens have none
                word.append((span, text))
                characters.append(TimedText(span.start * seconds, span.end * seconds, text, span.probability))
        elif word:
            frames = [one.end - one.start for one, _ in word]
            mean = sum(one.probability * count for (one, _), count in zip(word, frames)) / sum(frames)
            start, end = word[0][0].start * seconds, word[-1][0].end * seconds
            words.append(TimedText(start, end, "".join(written for _, written in word), mean))
            word = []
    return tuple(words), tuple(characters)


def _vocabulary(model: Model, clip: Any, call: str) -> Vocabulary:
    check_one_clip(model, clip, ("ctc",), call)
    return vocabulary_of(model)


def _finite_scores(model: Model, clip: Any) -> Tensor:
    scores = frame_scores(model, clip)
    if not scores.isfinite().all():
        raise ValueError(f"the model gives scores that are not finite for {name_of(clip, 0)}")
    return scores


def _frame_seconds(model: Any) -> float:
    return math.prod(model.config.conv_strides) / model.preprocess.sampling_rate


def recordings(path: Path) -> list[tuple[Path, Path]]:
    """(file, its name below the output folder) of a file, or of each audio file in a folder and below it."""
    if not path.is_dir():
        return [(path, Path(path.name))]
    files = [file for file in data_files(path) if file.suffix.lower() in SUFFIXES]
    if not files:
        raise AudioError(f"{path} is a folder without audio files (files that end with {', '.join(SUFFIXES)})")
    return [(file, file.relative_to(path)) for file in files]
