"""`zoo.transcribe` and `zoo.align`: the text of speech, with the times of its words and characters.

Clips of any length are scored in windows, as by `zoo.predict`. Long ones are decoded in pieces that end in pauses.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from zoo.inference.ctc_decoding import beam
from zoo.inference.ctc_language_model import LanguageModelScorer
from zoo.inference.forced_alignment import Span, best_path, best_path_of
from zoo.inference.long_audio import BEAM, check_one_clip, frame_scores, texts_of, vocabulary_of
from zoo.inference.subtitles import Cue, SubtitleLimits, TimedText, cues, divided, to_srt, to_vtt
from zoo.models.base import Model
from zoo.preprocessing.audio import name_of
from zoo.preprocessing.audio_io import AudioError
from zoo.preprocessing.ctc_vocabulary import Vocabulary
from zoo.preprocessing.modality import AUDIO_SUFFIXES
from zoo.utils.errors import check_choice, is_number
from zoo.utils.files import write_atomic
from zoo.utils.folders import data_files

PIECE = 60.0  # seconds: the longest piece that is decoded at once
PIECES = 16  # that are decoded together

Timestamps = Literal["word", "char"]


@dataclass(frozen=True)
class Transcript:
    """The text of a recording. name: the file. words, characters: with their times, if they were requested."""

    name: str
    text: str
    words: tuple[TimedText, ...] = ()
    characters: tuple[TimedText, ...] = ()

    def save(self, path: str | Path, limits: SubtitleLimits | None = None) -> None:
        """Write a `.srt`, `.vtt`, `.txt` or `.json` file. limits: of subtitles; None for the usual ones.

        Raises ValueError for another suffix, and as `subtitles` does.
        """
        suffix = Path(path).suffix.lower()
        writers: dict[str, Callable[[], str]] = {
            ".srt": lambda: to_srt(self.subtitles(limits)),
            ".vtt": lambda: to_vtt(self.subtitles(limits)),
            ".txt": lambda: self.text + "\n",
            ".json": lambda: json.dumps(self.to_dict(), ensure_ascii=False, indent=1) + "\n",
        }
        check_choice("the suffix of the file", suffix, writers)
        write_atomic(path, writers[suffix]())

    def subtitles(self, limits: SubtitleLimits | None = None) -> list[Cue]:
        """The words in subtitles. A word that is longer than a subtitle, as in languages without spaces, is divided.

        Raises ValueError without times of words, and of the characters of such a word.
        """
        limits = limits or SubtitleLimits()
        if self.text and not self.words:
            raise ValueError("subtitles need the times of words: zoo.transcribe(..., timestamps='word')")
        longest = limits.lines * limits.line_length
        if not self.characters and (long := next((word for word in self.words if len(word.text) > longest), None)):
            raise ValueError(
                f"a word of {len(long.text)} characters is longer than a subtitle ({long.text[:20]} ...): to divide "
                f"it, its characters need times, too: zoo.transcribe(..., timestamps='char')"
            )
        parts: list[TimedText] = []
        for word in self.words:
            too_long = len(word.text) > longest or word.end - word.start > limits.max_duration
            parts += divided(word, self.characters, limits) if too_long and self.characters else [word]
        return cues(parts, limits)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types."""
        words, characters = ([one._asdict() for one in part] for part in (self.words, self.characters))
        return asdict(self) | {"words": words, "characters": characters}


def transcribe(
    model: Model,
    clip: Any,
    *,
    timestamps: Timestamps | None = "word",
    beam_width: int = BEAM,
    language_model: Model | None = None,
    lm_weight: float = 0.5,
    word_bonus: float = 1.5,
) -> Transcript:
    """The text of a recording of any length, with the times of its words.

    The times are those of the most probable path of the text. The probability of a word or character is the mean of the
    probabilities of its frames on that path.

    Args:
        model: A CTC model with a vocabulary.
        clip: A path, bytes or (samples, sampling_rate).
        timestamps: "word", "char" for words and characters, None for the text alone.
        beam_width: Number of texts in the beam; 1 takes the best symbol of each frame, without a search.
        language_model: A decoder with head="lm" and its tokenizer, which takes part in the search: texts are ordered by
            log P(text | audio) + lm_weight * log P(text) + word_bonus * words. It reads every text in the beam whenever
            a word ends, so most of the time is then its own.

    Returns:
        A `Transcript` with `text`, `words` and `characters`, as (start, end, text, probability) in seconds, and `save`.

    Raises:
        ValueError: It is not a CTC model, or it has no vocabulary, or an option is invalid, or the language model has
            no tokenizer or one that cannot write the vocabulary.
        AudioError: As in `zoo.predict`.
    """
    vocabulary = _vocabulary(model, clip, "zoo.transcribe")
    if timestamps is not None:
        check_choice("timestamps", timestamps, ("word", "char"))
    if not isinstance(beam_width, int) or isinstance(beam_width, bool) or beam_width < 1:
        raise ValueError(f"beam_width={beam_width!r}: expected a whole number of at least 1")
    scorer = None
    if language_model is not None:
        if beam_width == 1:
            raise ValueError("beam_width=1: with a language model, expected at least 2 texts in the beam, such as 16")
        for name, value in (("lm_weight", lm_weight), ("word_bonus", word_bonus)):
            if not is_number(value):
                raise ValueError(f"{name}={value!r}: expected a finite number")
        scorer = LanguageModelScorer(language_model, vocabulary, weight=lm_weight, word_bonus=word_bonus)
    scores = _finite_scores(model, clip)
    length = round(PIECE / _frame_seconds(model))
    ids, spans = _decode(scores, vocabulary, beam_width, length, timestamps is not None, scorer)
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
    files = [file for file in data_files(path) if file.suffix.lower() in AUDIO_SUFFIXES]
    if not files:
        raise AudioError(f"{path} is a folder without audio files (files that end with {', '.join(AUDIO_SUFFIXES)})")
    return [(file, file.relative_to(path)) for file in files]
