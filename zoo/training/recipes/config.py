"""The options of the recipes. Torch-free: `--help` reads this file."""

from dataclasses import dataclass, field
from typing import Literal

from zoo.data.config import (
    AudioDataSettings,
    AudioPairSettings,
    LinesSettings,
    PairDataSettings,
    SpeechSettings,
    StreamSettings,
    TextDataSettings,
)
from zoo.tasks.config import WeightedClassificationSettings, _within
from zoo.training.config import RunSettings


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
    task: WeightedClassificationSettings = field(default_factory=WeightedClassificationSettings)
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
        mask_probability: Of the tokens that are hidden.
        early_stopping_patience: End after so many validations in a row that are not the best; 0 goes on to the last step.
    """

    mask_probability: float = 0.15
    early_stopping_patience: int = 0

    def __post_init__(self) -> None:
        _within("mask_probability", self.mask_probability, 0.0, 1.0, open_below=True, open_above=True)
        _within("early_stopping_patience", self.early_stopping_patience, 0, float("inf"))


@dataclass(frozen=True, kw_only=True)
class MLMSettings(RunSettings):
    """A model of hidden tokens."""

    data: LinesSettings = field(default_factory=LinesSettings)
    task: MaskSettings = field(default_factory=MaskSettings)


@dataclass(frozen=True, kw_only=True)
class AudioSettings(RunSettings):
    """A classifier of sounds.

    Attributes:
        vit: Start from this ViT or DeiT (a name on the hub, a folder, a run), its colors averaged and its positions
            fitted, instead of from fresh weights.
        export: Write the best model for another library, too, into `transformers/`.
    """

    data: AudioDataSettings = field(default_factory=AudioDataSettings)
    task: WeightedClassificationSettings = field(default_factory=WeightedClassificationSettings)
    vit: str | None = None
    export: Literal["none", "transformers"] = "none"


@dataclass(frozen=True, kw_only=True)
class DecodeSettings:
    """From scores to texts.

    Attributes:
        beam_width: Texts that the decoder follows at a time in the test; 1 takes the best symbol of each frame, as
            validations do.
        early_stopping_patience: End after so many validations in a row that are not the best; 0 goes on to the last step.
    """

    beam_width: int = 8
    early_stopping_patience: int = 0

    def __post_init__(self) -> None:
        _within("beam_width", self.beam_width, 1, float("inf"))
        _within("early_stopping_patience", self.early_stopping_patience, 0, float("inf"))


@dataclass(frozen=True, kw_only=True)
class CTCSettings(RunSettings):
    """A model of speech, character by character.

    Attributes:
        export: Write the best model for another library, too, into `transformers/`.
    """

    data: SpeechSettings = field(default_factory=SpeechSettings)
    task: DecodeSettings = field(default_factory=DecodeSettings)
    export: Literal["none", "transformers"] = "none"


@dataclass(frozen=True, kw_only=True)
class TowerSettings:
    """One tower. Any field of its model is aimed at it: `image.depth=6`, `text.attention=linear`.

    Attributes:
        name: Its model: a name that `zoo list` prints, drawn anew; or a folder or hub name, loaded.
        locked: Keep it as it is while the other learns (LiT); its projection learns all the same.
        unlocked: Groups of a locked tower that learn, from its output on: each block is one, the front end the last.
    """

    name: str = ""
    locked: bool = False
    unlocked: int = 0

    def __post_init__(self) -> None:
        _within("unlocked", self.unlocked, 0, float("inf"))
        if self.unlocked and not self.locked:
            raise ValueError(f"unlocked={self.unlocked} is of a locked tower: give locked=true with it")


@dataclass(frozen=True, kw_only=True)
class ContrastSettings:
    """The objective of two towers.

    Attributes:
        loss: `clip` (find the partner among all of the batch) or `siglip` (judge each pair by itself).
        duplicates: What captions that stand twice in a batch do: `name` says so and goes on, `refuse` ends, `positives`
            takes each for a partner, `ignore` takes the others for strangers in silence.
        grad_cache_size: Pairs that go through the towers at a time, with the gradients of the whole batch (two passes); 0 takes
            the batch at once. A small machine so trains with a large batch.
        loss_chunk_size: Rows of the loss's scores that are held at a time; 0 takes a number that suits a cache.
        early_stopping_patience: End after so many validations in a row that are not the best; 0 goes on to the last step.
    """

    loss: Literal["clip", "siglip"] = "clip"
    duplicates: Literal["name", "refuse", "positives", "ignore"] = "name"
    grad_cache_size: int = 0
    loss_chunk_size: int = 0
    early_stopping_patience: int = 0

    def __post_init__(self) -> None:
        for name in ("grad_cache_size", "loss_chunk_size", "early_stopping_patience"):
            _within(name, getattr(self, name), 0, float("inf"))


@dataclass(frozen=True, kw_only=True)
class ClipSettings(RunSettings):
    """Two towers, of pictures and of texts."""

    image: TowerSettings = field(default_factory=TowerSettings)
    text: TowerSettings = field(default_factory=TowerSettings)
    data: PairDataSettings = field(default_factory=PairDataSettings)
    task: ContrastSettings = field(default_factory=ContrastSettings)


@dataclass(frozen=True, kw_only=True)
class ClapSettings(RunSettings):
    """Two towers, of sounds and of texts."""

    audio: TowerSettings = field(default_factory=TowerSettings)
    text: TowerSettings = field(default_factory=TowerSettings)
    data: AudioPairSettings = field(default_factory=AudioPairSettings)
    task: ContrastSettings = field(default_factory=ContrastSettings)
