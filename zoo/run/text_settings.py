"""What the recipes of text may be told. Torch-free."""

from dataclasses import dataclass, field
from typing import Literal

from zoo.data.text_settings import LinesSettings, StreamSettings, TextDataSettings
from zoo.run.settings import RunSettings, WeightedSettings, _within


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """Low-rank adapters, through peft.

    Attributes:
        rank: Of the adapters; 0 trains the model itself. They are merged into the model that is saved.
        alpha: Their scale is alpha / rank.
        adapter_dropout: Dropout before them.
        targets: Names of the linear maps that get one: q, k, v, out, up, down.
    """

    rank: int = 0
    alpha: float = 16.0
    adapter_dropout: float = 0.0
    targets: list[str] = field(default_factory=lambda: ["q", "v"])

    def __post_init__(self) -> None:
        _within("rank", self.rank, 0, float("inf"))
        _within("adapter_dropout", self.adapter_dropout, 0.0, 1.0, open_above=True)


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings(RunSettings):
    """A classifier of texts.

    Attributes:
        export: Write the best model for another library, too, into `transformers/`.
    """

    data: TextDataSettings = field(default_factory=TextDataSettings)
    task: WeightedSettings = field(default_factory=WeightedSettings)
    lora: LoraSettings = field(default_factory=LoraSettings)
    export: Literal["none", "transformers"] = "none"


@dataclass(frozen=True, kw_only=True)
class SampleSettings:
    """Text that the model writes after each validation.

    Attributes:
        prompt: How it begins; without it, the first word of the text.
        length: Tokens of it; 0 writes none.
        temperature: 0 takes the most probable token, 1 draws as the model says.
    """

    prompt: str = ""
    length: int = 200
    temperature: float = 0.8

    def __post_init__(self) -> None:
        _within("length", self.length, 0, float("inf"))
        _within("temperature", self.temperature, 0.0, float("inf"))


@dataclass(frozen=True, kw_only=True)
class GPTSettings(RunSettings):
    """A model of the next token."""

    data: StreamSettings = field(default_factory=StreamSettings)
    sample: SampleSettings = field(default_factory=SampleSettings)


@dataclass(frozen=True, kw_only=True)
class MaskSettings:
    """The objective of masked-token models.

    Attributes:
        share: Of the tokens that are hidden.
        patience: End after so many validations in a row that are not the best; 0 goes on to the last step.
    """

    share: float = 0.15
    patience: int = 0

    def __post_init__(self) -> None:
        _within("share", self.share, 0.0, 1.0, open_below=True, open_above=True)
        _within("patience", self.patience, 0, float("inf"))


@dataclass(frozen=True, kw_only=True)
class MLMSettings(RunSettings):
    """A model of hidden tokens."""

    data: LinesSettings = field(default_factory=LinesSettings)
    task: MaskSettings = field(default_factory=MaskSettings)
