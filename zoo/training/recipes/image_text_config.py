"""Options of the recipes that write texts about images. Torch-free, because `--help` reads this file."""

from dataclasses import dataclass, field
from typing import Literal

from zoo.data.image_text_config import CaptionDataSettings, VisualQuestionSettings
from zoo.tasks.config import _within
from zoo.training.config import RunSettings
from zoo.training.recipes.config import TowerSettings


@dataclass(frozen=True, kw_only=True)
class AnswerTextSettings:
    """The evaluation of answers, and early stopping.

    Attributes:
        baselines: Also train a text decoder of the same shape on the questions without images (`language_steps` steps),
            and a linear classifier on the trained encoder's features without questions, to compare with.
        language_steps: Number of steps that the text decoder without images is trained, at most those of the run.
        unseen_pair_bias: Do not hold against the model that the training data never answers a question by a word that
            answers similar questions, nor that a word never follows another, see `UnseenAnswerBias`.
        early_stopping_patience: Stop after this many validations without improvement; 0 disables early stopping.
    """

    baselines: bool = True
    language_steps: int = 600
    unseen_pair_bias: bool = False
    early_stopping_patience: int = 0

    def __post_init__(self) -> None:
        _within("language_steps", self.language_steps, 1, float("inf"))
        _within("early_stopping_patience", self.early_stopping_patience, 0, float("inf"))


@dataclass(frozen=True, kw_only=True)
class VQASettings(RunSettings):
    """Settings of visual question answering.

    Attributes:
        by: What joins the towers: `projector` (features take the places of image tokens, LLaVA), `resampler` (a fixed
            number of tokens from a perceiver resampler) or `cross` (gated cross-attention between the blocks of the
            decoder, Flamingo).
    """

    image: TowerSettings = field(default_factory=TowerSettings)
    text: TowerSettings = field(default_factory=TowerSettings)
    by: Literal["projector", "resampler", "cross"] = "projector"
    data: VisualQuestionSettings = field(default_factory=VisualQuestionSettings)
    task: AnswerTextSettings = field(default_factory=AnswerTextSettings)


@dataclass(frozen=True, kw_only=True)
class CaptionTaskSettings:
    """The evaluation of captions, and early stopping.

    Attributes:
        num_beams: Number of beams that write the captions of the test set; 1 takes the most probable tokens, as in
            validation.
        length_penalty: Exponent of the length in the score of a beam, its log-probability / length ** length_penalty.
        val_samples: Number of validation images whose captions are generated and scored; 0 scores none.
        unseen_pair_bias: Do not hold against the model that a word never follows the one before it in the training
            captions, if it follows similar words, see `UnseenPairBias`. For vocabularies of at most 4,096 tokens.
        early_stopping_patience: Stop after this many validations without improvement; 0 disables early stopping.
    """

    num_beams: int = 1
    length_penalty: float = 1.0
    val_samples: int = 200
    unseen_pair_bias: bool = False
    early_stopping_patience: int = 0

    def __post_init__(self) -> None:
        _within("num_beams", self.num_beams, 1, float("inf"))
        for name in ("val_samples", "early_stopping_patience"):
            _within(name, getattr(self, name), 0, float("inf"))


@dataclass(frozen=True, kw_only=True)
class CaptionSettings(RunSettings):
    """Settings of image captioning.

    Attributes:
        export: Also save the best model in the format of another library, to `transformers/` in the run folder.
    """

    data: CaptionDataSettings = field(default_factory=CaptionDataSettings)
    task: CaptionTaskSettings = field(default_factory=CaptionTaskSettings)
    export: Literal["none", "transformers"] = "none"
