"""Options of `recipes/seq2seq_speech.py`. Torch-free, because `--help` reads this file."""

from dataclasses import dataclass, field
from typing import Literal

from zoo.data.config import Seq2SeqSpeechSettings
from zoo.tasks.config import _within
from zoo.training.config import RunSettings
from zoo.training.recipes.config import LoraSettings, TranslationSettings


@dataclass(frozen=True, kw_only=True)
class TranscriptionSettings(TranslationSettings):
    """The objective of speech recognition, and the generated transcripts.

    Attributes:
        ctc_weight: Weight of a CTC loss on the encoder, which learns earlier which frames belong to which tokens; 0 for
            none. Default: 0.3 for a new model, 0 for a pretrained one. See `zoo.tasks.Seq2SeqSpeechTask`.
        num_beams: Number of beams that transcribe the test set; 1 takes the most probable tokens, as in validation.
        val_samples: Number of validation clips whose transcripts are scored by word error rate; 0 scores none.
    """

    ctc_weight: float | None = None
    num_beams: int = 1
    val_samples: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        _within("ctc_weight", self.ctc_weight or 0.0, 0.0, 1.0, open_above=True)


@dataclass(frozen=True, kw_only=True)
class SpeechRecognitionSettings(RunSettings):
    """Settings of speech recognition with an encoder-decoder.

    Attributes:
        export: Also save the best model in the format of another library, to `transformers/` in the run folder.
    """

    data: Seq2SeqSpeechSettings = field(default_factory=Seq2SeqSpeechSettings)
    task: TranscriptionSettings = field(default_factory=TranscriptionSettings)
    lora: LoraSettings = field(default_factory=LoraSettings)
    export: Literal["none", "transformers"] = "none"

    @property
    def ctc_weight(self) -> float:
        """That of the task; by default a pretrained encoder is left as it is."""
        default = 0.0 if self.model.source else 0.3
        return default if self.task.ctc_weight is None else self.task.ctc_weight
