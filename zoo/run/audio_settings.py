"""What the recipes of audio may be told. Torch-free."""

from dataclasses import dataclass, field
from typing import Literal

from zoo.data.audio_settings import AudioDataSettings, SpeechSettings
from zoo.run.settings import RunSettings, WeightedSettings, _within


@dataclass(frozen=True, kw_only=True)
class AudioSettings(RunSettings):
    """A classifier of sounds.

    Attributes:
        vit: Start from this ViT or DeiT (a name on the hub, a folder, a run), its colours averaged and its positions
            fitted, instead of from fresh weights.
        export: Write the best model for another library, too, into `transformers/`.
    """

    data: AudioDataSettings = field(default_factory=AudioDataSettings)
    task: WeightedSettings = field(default_factory=WeightedSettings)
    vit: str | None = None
    export: Literal["none", "transformers"] = "none"


@dataclass(frozen=True, kw_only=True)
class DecodeSettings:
    """From scores to texts.

    Attributes:
        beam: Texts that the decoder follows at a time in the test; 1 takes the best symbol of each frame, as
            validations do.
        patience: End after so many validations in a row that are not the best; 0 goes on to the last step.
    """

    beam: int = 8
    patience: int = 0

    def __post_init__(self) -> None:
        _within("beam", self.beam, 1, float("inf"))
        _within("patience", self.patience, 0, float("inf"))


@dataclass(frozen=True, kw_only=True)
class CTCSettings(RunSettings):
    """A model of speech, character by character.

    Attributes:
        export: Write the best model for another library, too, into `transformers/`.
    """

    data: SpeechSettings = field(default_factory=SpeechSettings)
    task: DecodeSettings = field(default_factory=DecodeSettings)
    export: Literal["none", "transformers"] = "none"
