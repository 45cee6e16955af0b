"""Options of the recipes that make images. Torch-free, because `--help` reads this file."""

from dataclasses import dataclass, field

from zoo.data.config import no_augment
from zoo.data.image_text_config import CaptionDataSettings
from zoo.data.unlabeled_config import UnlabeledImageSettings
from zoo.tasks.config import ImageTokenizerSettings, _within
from zoo.training.config import RunSettings


@dataclass(frozen=True, kw_only=True)
class TokenizerSettings(RunSettings):
    """Settings of image tokenizers."""

    data: UnlabeledImageSettings = field(default_factory=UnlabeledImageSettings)
    task: ImageTokenizerSettings = field(default_factory=ImageTokenizerSettings)


@dataclass(frozen=True, kw_only=True)
class TextToImageDataSettings(CaptionDataSettings):
    """Images with captions from which they are to be made.

    Attributes:
        captions: Column of the captions. A list in one row, or several rows with the same image file, give an image
            several captions: training samples one of them per epoch, evaluation takes the first.
        partly_named: Fraction of the synthetic training scenes whose objects lack a name of the color or of the shape,
            so that neither says anything about the other: `a circle left of a red object`.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.augment != no_augment():
            raise ValueError("data.augment: the tokens of each image are computed once, so that it cannot be "
                             "augmented; leave the options of augmentation out")  # fmt: skip
        for name in ("partly_named_epochs", "partly_named_until"):
            if value := getattr(self, name):
                raise ValueError(f"data.{name}={value}: images are made from all captions in each epoch; leave it "
                                 f"out")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ImageTokenizerStageSettings:
    """The image tokenizer, which is trained first, to `tokenizer/` in the run folder.

    Attributes:
        name: Image tokenizer with random weights, such as vqvae_tiny, dvae_tiny, vqvae_small.
        source: Trained image tokenizer instead: a folder, or a run of recipes/image_tokenizer.py.
        pixels: Height and width of its images in pixels.
        codes: Number of its codes.
        train_steps: Number of steps that it is trained.
        train_batch_size: Images per step.
        peak_lr: Peak learning rate.
        dead_codes: Codes that are used less than this fraction of the average move next to the code with the greatest
            error; 0 leaves them alone.
    """

    name: str = "vqvae_tiny"
    source: str | None = None
    pixels: int = 32
    codes: int = 1024
    train_steps: int = 3000
    train_batch_size: int = 32
    peak_lr: float = 2e-3
    dead_codes: float = 0.2

    def __post_init__(self) -> None:
        _within("dead_codes", self.dead_codes, 0.0, 1.0, open_above=True)
        for name in ("pixels", "codes", "train_steps", "train_batch_size"):
            _within(name, getattr(self, name), 1, float("inf"))
        _within("peak_lr", self.peak_lr, 0.0, float("inf"), open_below=True)


@dataclass(frozen=True, kw_only=True)
class RankerStageSettings:
    """The contrastive model of images and texts that chooses among generated images, trained to `ranker/`.

    Attributes:
        source: Trained contrastive model instead: a folder, or a run of recipes/clip_pairs.py.
        train_steps: Number of steps that it is trained; 0 for no such model, and no choice.
        train_batch_size: Pairs per step.
        peak_lr: Peak learning rate.
    """

    source: str | None = None
    train_steps: int = 600
    train_batch_size: int = 128
    peak_lr: float = 2e-3

    def __post_init__(self) -> None:
        _within("train_steps", self.train_steps, 0, float("inf"))
        _within("train_batch_size", self.train_batch_size, 2, float("inf"))
        _within("peak_lr", self.peak_lr, 0.0, float("inf"), open_below=True)


@dataclass(frozen=True, kw_only=True)
class TextToImageTaskSettings:
    """The objective, the generated images, and early stopping.

    Attributes:
        image_weight: Weight of the loss of DALL-E's image tokens beside the text's, 1.
        label_smoothing: Of MaskGIT's loss: fraction of the target that is spread evenly over all tokens.
        judged: Number of test captions for which images are made and judged.
        num_images: Images for each of these captions, of which the ranker chooses one.
        guidance: Scale of classifier-free guidance; 1 for none.
        temperature: Sampling temperature; 0 takes the most probable token.
        top_k: Number of most probable tokens that DALL-E samples from; 0 for all.
        decoding_steps: Steps of MaskGIT.
        judge_steps: Steps of the classifier of generated scenes that judges the images.
        early_stopping_patience: Stop after this many validations without improvement; 0 disables early stopping.
    """

    image_weight: float = 7.0
    label_smoothing: float = 0.0
    judged: int = 200
    num_images: int = 16
    guidance: float = 3.0
    temperature: float = 0.7
    top_k: int = 0
    decoding_steps: int = 8
    judge_steps: int = 1000
    early_stopping_patience: int = 0

    def __post_init__(self) -> None:
        _within("image_weight", self.image_weight, 0.0, float("inf"), open_below=True)
        _within("label_smoothing", self.label_smoothing, 0.0, 1.0, open_above=True)
        for name in ("judged", "num_images", "decoding_steps", "judge_steps"):
            _within(name, getattr(self, name), 1, float("inf"))
        for name in ("guidance", "temperature", "top_k", "early_stopping_patience"):
            _within(name, getattr(self, name), 0, float("inf"))


@dataclass(frozen=True, kw_only=True)
class TextToImageSettings(RunSettings):
    """Settings of text-to-image training."""

    tokenizer: ImageTokenizerStageSettings = field(default_factory=ImageTokenizerStageSettings)
    ranker: RankerStageSettings = field(default_factory=RankerStageSettings)
    data: TextToImageDataSettings = field(default_factory=TextToImageDataSettings)
    task: TextToImageTaskSettings = field(default_factory=TextToImageTaskSettings)
