"""Options of the optimizer and of classification tasks. Torch-free, because `--help` reads this file."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class OptimSettings:
    """AdamW with linear warm-up and cosine decay, or with the schedule of the Transformer.

    Attributes:
        lr: Peak learning rate, reached after warm-up.
        weight_decay: AdamW weight decay of weight matrices; norms, biases, embeddings and positions are not decayed.
        decoupled_weight_decay: False adds the weight decay to the gradient instead, as an L2 penalty: Adam as papers on
            graphs have it.
        betas: AdamW betas, the decay rates of the first and second moment.
        eps: AdamW epsilon.
        warmup: Fraction of all steps during which the learning rate rises linearly from zero.
        schedule: Learning rate after warm-up: `cosine` decay to `final_lr`, or `inverse_sqrt`, the inverse square root
            of the step, as the Transformer was trained with (Vaswani et al. 2017).
        final_lr: Learning rate of the last step with `schedule=cosine`, as a fraction of `lr`.
        layer_decay: Layer-wise learning rate decay: factor from each block to the block below; 1 disables it.
        freeze: Parameters to freeze, by name, prefix or glob, e.g. `[patches, blocks.0]`.
        mup: Train in the maximal update parametrization (muP, Yang et al. 2022): `lr` is that of a model of width
            `mup_base_width`, and holds at every width.
        mup_base_width: Width of the model that `lr` was found for; of each tower, if there are several.
    """

    lr: float = 1e-3
    weight_decay: float = 0.05
    decoupled_weight_decay: bool = True
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    warmup: float = 0.05
    schedule: Literal["cosine", "inverse_sqrt"] = "cosine"
    final_lr: float = 0.01
    layer_decay: float = 1.0
    freeze: list[str] = field(default_factory=list)
    mup: bool = False
    mup_base_width: int | None = None

    def __post_init__(self) -> None:
        _within("lr", self.lr, 0.0, float("inf"), open_below=True)
        _within("weight_decay", self.weight_decay, 0.0, float("inf"))
        _within("eps", self.eps, 0.0, float("inf"), open_below=True)
        _within("warmup", self.warmup, 0.0, 1.0)
        _within("final_lr", self.final_lr, 0.0, 1.0)
        _within("layer_decay", self.layer_decay, 0.0, 1.0, open_below=True)
        if self.schedule == "inverse_sqrt" and not self.warmup:
            raise ValueError("schedule=inverse_sqrt with warmup=0: it begins with a warm-up; set e.g. warmup=0.1")
        for beta in self.betas:
            _within("betas", beta, 0.0, 1.0)
        _within("mup_base_width", self.mup_base_width, 1, float("inf"))
        if self.mup and self.mup_base_width is None:
            raise ValueError("mup=true: give mup_base_width=, the width of the model that lr= was found for, e.g. 64")
        if self.mup_base_width is not None and not self.mup:
            raise ValueError(f"mup_base_width={self.mup_base_width} has no effect without mup=true: add it, or omit "
                             "mup_base_width=")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ClassificationSettings:
    """The objective of a classifier.

    Attributes:
        label_smoothing: Label smoothing: fraction of the target spread evenly over all classes.
        baseline: Also score the majority class (or the mean) and a linear model on simple features, to compare with.
        calibration: `temperature` fits, after training, the number by which the saved model divides its logits before
            they become probabilities, on the validation items. It changes no prediction, only its probability.
    """

    label_smoothing: float = 0.0
    baseline: bool = True
    calibration: Literal["none", "temperature"] = "none"

    def __post_init__(self) -> None:
        _within("label_smoothing", self.label_smoothing, 0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class WeightedClassificationSettings(ClassificationSettings):
    """The objective of a classifier with class weights and early stopping.

    Attributes:
        class_weights: `balanced` weights the training loss so that rare classes count as much as frequent ones.
        early_stopping_patience: Stop after this many validations without improvement; 0 disables early stopping.
    """

    class_weights: Literal["none", "balanced"] = "none"
    early_stopping_patience: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        _within("early_stopping_patience", self.early_stopping_patience, 0, float("inf"))


@dataclass(frozen=True, kw_only=True)
class ImageTokenizerSettings:
    """The objective of an image tokenizer, and early stopping.

    Attributes:
        kl_weight: Weight of the divergence of the tokens from a uniform use of the codes (Gumbel-softmax only), per
            value of an image; DALL-E has 6.6 with model.loss=laplace.
        commitment_weight: Weight of the distance of the encoder's vectors to their codes (vector quantization only).
        final_temperature: Temperature of the Gumbel-softmax at the end; it starts at `model.temperature`.
        anneal: Fraction of all steps in which the temperature falls.
        dead_codes: Codes that are used less than this fraction of the average move next to the code with the greatest
            error (vector quantization with `model.ema_decay` only); 0 leaves them alone.
        early_stopping_patience: Stop after this many validations without improvement; 0 disables early stopping.
    """

    kl_weight: float = 0.05
    commitment_weight: float = 0.25
    final_temperature: float = 0.0625
    anneal: float = 0.7
    dead_codes: float = 0.05
    early_stopping_patience: int = 0

    def __post_init__(self) -> None:
        _within("kl_weight", self.kl_weight, 0.0, float("inf"))
        _within("commitment_weight", self.commitment_weight, 0.0, float("inf"))
        _within("final_temperature", self.final_temperature, 0.0, float("inf"), open_below=True)
        _within("anneal", self.anneal, 0.0, 1.0)
        _within("dead_codes", self.dead_codes, 0.0, 1.0, open_above=True)
        _within("early_stopping_patience", self.early_stopping_patience, 0, float("inf"))


def _within(name: str, value: float | None, least: float, most: float, *, open_below: bool = False,
            open_above: bool = False) -> None:  # fmt: skip
    """Raise unless `value` is None or lies between `least` and `most`."""
    if value is None:
        return
    low, high = ("more than" if open_below else "at least"), ("less than" if open_above else "at most")
    within = (value > least if open_below else value >= least) and (value < most if open_above else value <= most)
    if not within:
        bounds = f"{low} {least:g}" + (f" and {high} {most:g}" if most < 2**31 - 1 else "")
        raise ValueError(f"{name}={value}: expected {bounds}")
