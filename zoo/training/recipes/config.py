"""Options of the recipes. Torch-free, because `--help` reads this file."""

from dataclasses import dataclass, field
from typing import Any, Literal

from zoo.data.config import (
    AudioDataSettings,
    AudioPairSettings,
    LinesSettings,
    PairDataSettings,
    SpeechSettings,
    StreamSettings,
    TextDataSettings,
)
from zoo.data.text_config import (
    MixtureSettings,
    ParallelTextSettings,
    QuestionSettings,
    RecallDataSettings,
    SummarySettings,
    TaggedTextSettings,
)
from zoo.tasks.config import WeightedClassificationSettings, _within
from zoo.training.config import RunSettings


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """Low-rank adapters (LoRA), through peft.

    Attributes:
        rank: Rank of LoRA adapters, which are merged into the saved model; 0 trains all weights instead.
        alpha: LoRA alpha: adapter outputs are scaled by alpha / rank.
        adapter_dropout: Dropout on the inputs of adapters.
        targets: Names of the linear layers that get adapters, of q, k, v, out, up, down.
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
    """Settings of text classification and regression.

    Attributes:
        export: Also save the best model in the format of another library, to `transformers/` in the run folder.
    """

    data: TextDataSettings = field(default_factory=TextDataSettings)
    task: WeightedClassificationSettings = field(default_factory=WeightedClassificationSettings)
    lora: LoraSettings = field(default_factory=LoraSettings)
    export: Literal["none", "transformers"] = "none"


@dataclass(frozen=True, kw_only=True)
class TagSettings:
    """The objective of token classification, and early stopping.

    Attributes:
        label_smoothing: Label smoothing: fraction of the target spread evenly over all tags.
        early_stopping_patience: Stop after this many validations without improvement; 0 disables early stopping.
    """

    label_smoothing: float = 0.0
    early_stopping_patience: int = 0

    def __post_init__(self) -> None:
        _within("label_smoothing", self.label_smoothing, 0.0, 1.0)
        _within("early_stopping_patience", self.early_stopping_patience, 0, float("inf"))


@dataclass(frozen=True, kw_only=True)
class TokenClassificationSettings(RunSettings):
    """Settings of token classification.

    Attributes:
        export: Also save the best model in the format of another library, to `transformers/` in the run folder.
    """

    data: TaggedTextSettings = field(default_factory=TaggedTextSettings)
    task: TagSettings = field(default_factory=TagSettings)
    lora: LoraSettings = field(default_factory=LoraSettings)
    export: Literal["none", "transformers"] = "none"


@dataclass(frozen=True, kw_only=True)
class AnswerSettings:
    """The objective of question answering.

    Attributes:
        early_stopping_patience: Stop after this many validations without improvement; 0 disables early stopping.
    """

    early_stopping_patience: int = 0

    def __post_init__(self) -> None:
        _within("early_stopping_patience", self.early_stopping_patience, 0, float("inf"))


@dataclass(frozen=True, kw_only=True)
class QuestionAnsweringSettings(RunSettings):
    """Settings of extractive question answering.

    Attributes:
        export: Also save the best model in the format of another library, to `transformers/` in the run folder.
    """

    data: QuestionSettings = field(default_factory=QuestionSettings)
    task: AnswerSettings = field(default_factory=AnswerSettings)
    lora: LoraSettings = field(default_factory=LoraSettings)
    export: Literal["none", "transformers"] = "none"


@dataclass(frozen=True, kw_only=True)
class TranslationSettings:
    """The objective of translation, and the generated translations.

    Attributes:
        label_smoothing: Label smoothing: fraction of the target spread evenly over all tokens of the vocabulary.
        num_beams: Number of beams that translate the test set; 1 takes the most probable tokens, as in validation.
        length_penalty: Exponent of the length in the score of a beam, its log-probability / length ** length_penalty.
        val_samples: Number of validation pairs whose translations are scored by BLEU; 0 scores none.
        early_stopping_patience: Stop after this many validations without improvement; 0 disables early stopping.
    """

    label_smoothing: float = 0.1
    num_beams: int = 4
    length_penalty: float = 1.0
    val_samples: int = 200
    early_stopping_patience: int = 0

    def __post_init__(self) -> None:
        _within("label_smoothing", self.label_smoothing, 0.0, 1.0, open_above=True)
        _within("num_beams", self.num_beams, 1, float("inf"))
        for name in ("val_samples", "early_stopping_patience"):
            _within(name, getattr(self, name), 0, float("inf"))


@dataclass(frozen=True, kw_only=True)
class TranslateSettings(RunSettings):
    """Settings of translation.

    Attributes:
        export: Also save the best model in the format of another library, to `transformers/` in the run folder.
    """

    data: ParallelTextSettings = field(default_factory=ParallelTextSettings)
    task: TranslationSettings = field(default_factory=TranslationSettings)
    lora: LoraSettings = field(default_factory=LoraSettings)
    export: Literal["none", "transformers"] = "none"


@dataclass(frozen=True, kw_only=True)
class SummarizationSettings(TranslationSettings):
    """The objective of summarization, and the generated summaries.

    Attributes:
        num_beams: Number of beams that summarize the test set; 1 takes the most probable tokens, as in validation.
        val_samples: Number of validation texts whose summaries are scored by ROUGE and faithfulness; 0 scores none.
    """


@dataclass(frozen=True, kw_only=True)
class SummarizeSettings(RunSettings):
    """Settings of summarization.

    Attributes:
        export: Also save the best model in the format of another library, to `transformers/` in the run folder.
    """

    data: SummarySettings = field(default_factory=SummarySettings)
    task: SummarizationSettings = field(default_factory=SummarizationSettings)
    lora: LoraSettings = field(default_factory=LoraSettings)
    export: Literal["none", "transformers"] = "none"


@dataclass(frozen=True, kw_only=True)
class SampleSettings:
    """Text that is generated after each validation.

    Attributes:
        prompt: Prompt of the generated sample; default: the first word of the training text.
        length: Number of tokens to generate after each validation; 0 generates none.
        temperature: Sampling temperature; 0 always takes the most probable token.
    """

    prompt: str = ""
    length: int = 200
    temperature: float = 0.8

    def __post_init__(self) -> None:
        _within("length", self.length, 0, float("inf"))
        _within("temperature", self.temperature, 0.0, float("inf"))


@dataclass(frozen=True, kw_only=True)
class GPTSettings(RunSettings):
    """Settings of causal language modeling."""

    data: StreamSettings = field(default_factory=StreamSettings)
    sample: SampleSettings = field(default_factory=SampleSettings)


@dataclass(frozen=True, kw_only=True)
class ScalingSettings(RunSettings):
    """Settings of the language models of a scaling law."""

    data: MixtureSettings = field(default_factory=MixtureSettings)


@dataclass(frozen=True, kw_only=True)
class RecallSettings(RunSettings):
    """Settings of associative recall and induction.

    Attributes:
        mechanism: An attention kind or a mixer, whichever has this name, instead of `attention=` or `mixer=`: so that
            `zoo compare` takes both, e.g. `mechanism=softmax,performer,mamba`. Options as `{kind: local, window: 16}`.
    """

    data: RecallDataSettings = field(default_factory=RecallDataSettings)
    mechanism: Any = None


@dataclass(frozen=True, kw_only=True)
class MaskSettings:
    """The objective of masked language modeling.

    Attributes:
        mask_probability: Fraction of the tokens that are masked.
        early_stopping_patience: Stop after this many validations without improvement; 0 disables early stopping.
    """

    mask_probability: float = 0.15
    early_stopping_patience: int = 0

    def __post_init__(self) -> None:
        _within("mask_probability", self.mask_probability, 0.0, 1.0, open_below=True, open_above=True)
        _within("early_stopping_patience", self.early_stopping_patience, 0, float("inf"))


@dataclass(frozen=True, kw_only=True)
class MLMSettings(RunSettings):
    """Settings of masked language modeling."""

    data: LinesSettings = field(default_factory=LinesSettings)
    task: MaskSettings = field(default_factory=MaskSettings)


@dataclass(frozen=True, kw_only=True)
class AudioSettings(RunSettings):
    """Settings of audio classification.

    Attributes:
        vit: Initialize from this ViT or DeiT (hub name, folder or run), as in the AST paper: patch weights are averaged
            over colors, positions interpolated.
        export: Also save the best model in the format of another library, to `transformers/` in the run folder.
    """

    data: AudioDataSettings = field(default_factory=AudioDataSettings)
    task: WeightedClassificationSettings = field(default_factory=WeightedClassificationSettings)
    vit: str | None = None
    export: Literal["none", "transformers"] = "none"


@dataclass(frozen=True, kw_only=True)
class DecodeSettings:
    """Decoding of CTC outputs, and early stopping.

    Attributes:
        beam_width: Beam width for decoding the test set; 1 decodes greedily, as in validation.
        early_stopping_patience: Stop after this many validations without improvement; 0 disables early stopping.
    """

    beam_width: int = 8
    early_stopping_patience: int = 0

    def __post_init__(self) -> None:
        _within("beam_width", self.beam_width, 1, float("inf"))
        _within("early_stopping_patience", self.early_stopping_patience, 0, float("inf"))


@dataclass(frozen=True, kw_only=True)
class CTCSettings(RunSettings):
    """Settings of speech recognition with CTC.

    Attributes:
        export: Also save the best model in the format of another library, to `transformers/` in the run folder.
    """

    data: SpeechSettings = field(default_factory=SpeechSettings)
    task: DecodeSettings = field(default_factory=DecodeSettings)
    export: Literal["none", "transformers"] = "none"


@dataclass(frozen=True, kw_only=True)
class TowerSettings:
    """One tower. Fields of its model are set with its name: `image.depth=6`, `text.attention=linear`.

    Attributes:
        name: Model of this tower: a name from `zoo list` (random weights), or a folder or hub name (pretrained).
        locked: Freeze this tower, as in LiT; its projection is still trained.
        unlocked: Number of trainable layer groups of a locked tower, counted from the output; each block is a group.
    """

    name: str = ""
    locked: bool = False
    unlocked: int = 0

    def __post_init__(self) -> None:
        _within("unlocked", self.unlocked, 0, float("inf"))
        if self.unlocked and not self.locked:
            raise ValueError(f"unlocked={self.unlocked} needs a locked tower: give locked=true as well")


@dataclass(frozen=True, kw_only=True)
class ContrastSettings:
    """The contrastive objective.

    Attributes:
        loss: `clip` (softmax over the batch) or `siglip` (sigmoid for each pair).
        duplicates: Handling of equal captions in a batch: `name` warns once, `refuse` is an error, `positives` makes
            them positives of each other, `ignore` does nothing.
        grad_cache_size: Pairs that are encoded at a time (GradCache), so that large batches fit into memory, with exact
            gradients at the cost of a second forward pass; 0 encodes the whole batch at once.
        loss_chunk_size: Rows of the logits that are computed at a time; 0 chooses a size for the device.
        early_stopping_patience: Stop after this many validations without improvement; 0 disables early stopping.
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
    """Settings of image-text contrastive training."""

    image: TowerSettings = field(default_factory=TowerSettings)
    text: TowerSettings = field(default_factory=TowerSettings)
    data: PairDataSettings = field(default_factory=PairDataSettings)
    task: ContrastSettings = field(default_factory=ContrastSettings)


@dataclass(frozen=True, kw_only=True)
class ClapSettings(RunSettings):
    """Settings of audio-text contrastive training."""

    audio: TowerSettings = field(default_factory=TowerSettings)
    text: TowerSettings = field(default_factory=TowerSettings)
    data: AudioPairSettings = field(default_factory=AudioPairSettings)
    task: ContrastSettings = field(default_factory=ContrastSettings)
