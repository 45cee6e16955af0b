"""What a Whisper takes from the data: its tokenizer and the length of its input; the transcripts that a run saves."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import SequenceMatcher
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from zoo.data.audio.transcribed import Transcribed
from zoo.data.splits import Splits
from zoo.interpret.audio_alignment import align_audio, plot_audio_alignment
from zoo.models.base import Model
from zoo.models.registry import find_variant
from zoo.preprocessing.tokenizer_training import train
from zoo.preprocessing.whisper import START, WhisperProcessor
from zoo.training.parse import SettingsError
from zoo.training.plots import Plot, unless_refused
from zoo.training.pretrained import require_audio_processor
from zoo.training.recipes.text import DEFAULT_VOCAB_SIZE, token_fields, tokenizer_cache
from zoo.training.recipes.translation import EXAMPLES, TranslationsFile
from zoo.training.run import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from zoo.training.result import Result

CONFUSED = 5  # pairs of words that are printed
NOTHING = "(nothing)"


def speech_writer(run: Run) -> Model:
    """The model of the settings. Raises: SettingsError, also if it is not a Whisper."""
    name, source = run.config.model.name, run.config.model.source
    other = SettingsError(f"{source or name} does not write the text of spectrograms: expected a Whisper, such as "
                          f"whisper_nano")  # fmt: skip
    if not source and not _reads_features(find_variant(name).model):
        raise other
    model = run.build_model("lm")
    if not _reads_features(model):
        raise other
    if source:
        require_audio_processor(f"model.source={source}", model.preprocess, WhisperProcessor)
        if model.preprocess.tokenizer is None:
            raise SettingsError(f"model.source={source} has no tokenizer: give a folder with its tokenizer.json")
    return model


def _reads_features(model: Any) -> bool:
    return {"input_features", "decoder_input_ids"} <= set(getattr(model, "inputs", ()))


def fit_to_transcripts(run: Run, model: Model, speech: Splits[Transcribed]) -> Model:
    """The model for the clips: a new one with a tokenizer of their transcripts, and with spectrograms as long as the
    longest clip, in whole seconds, which other libraries can express; a pretrained one as it is."""
    c = run.config
    if c.model.source:
        return model
    config: Any = model.config
    size = c.model.overrides.get("vocab_size", DEFAULT_VOCAB_SIZE)
    texts = list(dict.fromkeys(speech.train.texts()))
    tokenizer = train("whisper", texts, size, max_length=config.max_length, cache=tokenizer_cache(run))
    rate = speech.train.sampling_rate
    extractor = WhisperProcessor(sampling_rate=rate, num_mel_bins=config.mel_bins, resample=c.data.resample)
    frames = run.overrides_given.get("frames") or frames_for(speech, c.data.tempo, extractor.frame_shift)
    fields = token_fields(config, tokenizer) | {"decoder_start_token_id": tokenizer.backend.token_to_id(START)}
    model = run.build_model("lm", frames=frames, **fields)
    model.preprocess = replace(extractor, frames=frames, tokenizer=tokenizer)
    return model


def frames_for(speech: Splits[Transcribed], tempo: float, frame_shift: float) -> int:
    """Number of frames of the longest clip at its slowest tempo, in whole seconds. frame_shift: in milliseconds."""
    samples = max(speech.train.longest / (1 - tempo), *(part.longest for part in speech.parts))
    return math.ceil(samples / speech.train.sampling_rate) * round(1000 / frame_shift)


def transcripts(speech: Splits[Transcribed]) -> Mapping[str, list[str]]:
    """The right transcripts of the validation and of the test split, by stage."""
    parts = {"val": speech.validation or speech.test, "test": speech.test}
    return {stage: part.get(torch.arange(len(part)), 0)[1] for stage, part in parts.items()}


class TranscriptsFile(TranslationsFile):
    """Writes the transcripts of the test split to `transcripts.csv` in the run folder, and prints some of them, with
    the words that are most often confused.

    Args:
        folder: The run folder.
        references: The right transcripts of the test split.
    """

    file_name = "transcripts.csv"
    columns = ("reference", "hypothesis")

    def __init__(self, folder: Path, references: Sequence[str]) -> None:
        super().__init__(folder)
        self.references = references
        self.counts: Counter[tuple[str, str]] = Counter()

    def row(self, part: Any, index: int, text: str) -> list[str]:
        """The columns of one item."""
        self.counts.update(confusions(self.references[index], text))
        return [self.references[index], text]

    def notes(self, task: Any) -> dict[str, str]:
        """The words that are most often confused, if any."""
        found = [f"{word} as {other} ({n})" for (word, other), n in self.counts.most_common(CONFUSED)]
        return {"confused": ", ".join(found)} if found else {}


def confusions(reference: str, hypothesis: str) -> list[tuple[str, str]]:
    """(word of the reference, word of the hypothesis) where they differ; `NOTHING` for a word that one lacks."""
    words, others = reference.split(), hypothesis.split()
    found: list[tuple[str, str]] = []
    for tag, i, j, k, m in SequenceMatcher(None, words, others, autojunk=False).get_opcodes():
        if tag != "equal":
            found += zip_longest(words[i:j], others[k:m], fillvalue=NOTHING)
    return found


def alignment(run: Run, task: Any, result: "Result") -> "Figure | None":
    """The times of the first test clips that the tokens of their transcripts attend to.

    Skipped, with a message, for a model whose cross-attention has no weights.
    """
    part: Transcribed = task.trainer.datamodule.splits.test
    rows = torch.arange(min(EXAMPLES, len(part)))
    waves, texts = part.get(rows, 0)
    shown = [task.predictions.get(i, "").strip() or text for i, text in enumerate(texts)]
    options = {"sampling_rate": part.sampling_rate, "language": run.config.data.language}
    pairs = zip(waves, shown)
    return unless_refused(
        "alignment", lambda: plot_audio_alignment([align_audio(task.evaluated, *pair, **options) for pair in pairs])
    )


PLOTS: Mapping[str, Plot] = {"alignment": alignment}
