"""What a recipe may be told. Nested frozen dataclasses, torch-free: `--help` reads this file and nothing heavy.

The `Attributes:` lines are the one place where an option is described; the help table is made of them.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from zoo.data.config import DataSettings
from zoo.tasks.config import ClassificationSettings, OptimSettings, _within

MODEL_FIELDS = {
    "attention": "Attention kind: a name, {kind: local, window: 9}, my_file:MyCore, or a list over the layers.",
    "mixer": "What fills a block's mixer slot instead of attention.",
    "image_size": "Height and width the model is built for.",
    "patch_size": "Side of a patch in pixels; of a spectrogram's also [mel bins, frames].",
    "in_chans": "Image channels.",
    "stride": "Step from a patch of a spectrogram to the next: one number, or [mel bins, frames].",
    "mel_bins": "Mel bins of a spectrogram.",
    "stem": "`patch` (one linear map) or `conv` (a small convolutional stem).",
    "pool": "`cls`, `mean` or `cls_mean`.",
    "width": "Width of a token.",
    "depth": "Number of blocks.",
    "heads": "Attention heads.",
    "kv_heads": "Key and value heads (fewer than `heads`: grouped queries).",
    "head_dim": "Width of a head.",
    "mlp_dim": "Width of the MLP's hidden layer.",
    "act": "Activation of the MLP.",
    "gated_mlp": "A gated MLP.",
    "registers": "Register tokens.",
    "layer_scale": "Initial value of layer scale.",
    "dropout": "Dropout of residual branches.",
    "attention_dropout": "Dropout of attention weights.",
    "drop_path": "Stochastic depth, at the last block.",
    "vocab_size": "Tokens in the vocabulary.",
    "max_length": "Longest sequence.",
}
"""The documented fields of `zoo.create_model` that a bare `key=value` reaches; any other goes as `model.key=value`."""

TOWERS = ("encoder", "decoder", "text", "vision", "image", "audio")
"""Parts of a model at which a field can be aimed: `encoder.attention=performer`."""

FREE = frozenset({
    "run_dir", "resume", "data.data_dir", "data.num_workers",
    "trainer.max_minutes", "trainer.accelerator", "trainer.logger", "trainer.log_every",
    "trainer.progress", "trainer.plots", "trainer.checkpoint_every", "trainer.gradient_checkpointing",
})  # fmt: skip
"""Settings that a resumed run may change: none of them enters a weight or a loss. Batches are keyed by (seed, step), so
neither are workers; `devices`, `num_nodes` and `accumulate_grad_batches` may change as long as their product, the number of
micro-batches in a step, stays. Another kind of device is allowed, but rounds differently."""


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """A model by its name.

    Attributes:
        name: Name of the model, as `zoo list` prints it.
        source: Start from these weights (anything `zoo.load` takes) instead of fresh ones.
        overrides: Fields of `zoo.create_model`, e.g. `attention=performer depth=6`.
    """

    name: str = ""
    source: str | None = None
    overrides: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    """How long, on what, and what is written down.

    Attributes:
        epochs: Passes over the training set; give this or `steps`.
        steps: Optimizer steps; give this or `epochs`.
        max_minutes: Stop after so many minutes of this start (never shapes the schedule); the same command goes on.
        accumulate_grad_batches: Micro-batches per device that a step's batch is cut into.
        gradient_clip_val: Greatest norm of the gradient; 0 does not clip.
        precision: Number format of the forward pass; weights and optimizer stay in float32. `auto` takes bf16 where
            the device computes in it, else fp32.
        accelerator: `auto` takes CUDA, MPS or the CPU, in this order.
        devices: Processes on this machine, one device each; 0 takes all GPUs, and one process on a CPU.
        num_nodes: Machines that take part.
        strategy: How several devices share the work; `auto` is ddp for more than one.
        compile: Run the model through `torch.compile`.
        gradient_checkpointing: Recompute activations in the backward pass: less memory, more time.
        ema: Decay of the moving average of the weights that is evaluated and saved; 0 keeps none.
        deterministic: Ask torch for deterministic kernels on a GPU too.
        val_fraction: Share of the training set that is kept for validation; 0 validates on the test set.
        validate_every: Steps between validations; 0 validates after each epoch.
        checkpoint_every: Steps between checkpoints; there is one after each validation in any case.
        log_every: Steps between two rows of `metrics.csv`.
        logger: Class name of a further Lightning logger, e.g. `TensorBoardLogger`.
        progress: A progress bar in a terminal, a line per validation elsewhere.
        plots: Draw curves, confusion matrix and attention maps into the run folder.
    """

    epochs: int | None = None
    steps: int | None = None
    max_minutes: float | None = None
    accumulate_grad_batches: int = 1
    gradient_clip_val: float = 1.0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: int = 1
    num_nodes: int = 1
    strategy: Literal["auto", "ddp", "fsdp2"] = "auto"
    compile: bool = False
    gradient_checkpointing: bool = False
    ema: float = 0.0
    deterministic: bool = False
    val_fraction: float = 0.04
    validate_every: int = 0
    checkpoint_every: int = 200
    log_every: int = 50
    logger: str | None = None
    progress: bool = True
    plots: bool = True

    def __post_init__(self) -> None:
        for name, least in (("accumulate_grad_batches", 1), ("num_nodes", 1), ("log_every", 1), ("devices", 0), ("validate_every", 0),
                            ("checkpoint_every", 0), ("epochs", 1), ("steps", 1)):  # fmt: skip
            _within(name, getattr(self, name), least, float("inf"))
        _within("gradient_clip_val", self.gradient_clip_val, 0.0, float("inf"))
        _within("val_fraction", self.val_fraction, 0.0, 1.0, open_above=True)
        _within("ema", self.ema, 0.0, 1.0, open_above=True)
        _within("max_minutes", self.max_minutes, 0.0, float("inf"), open_below=True)


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What every recipe has.

    Attributes:
        run_dir: Folder of the run; `runs/<recipe>` without it.
        resume: `auto` goes on with an unfinished run, `never` starts a new one beside it, `must` refuses to start one.
        seed: Key of the initial weights, the order of the data and every random draw.
    """

    model: ModelSettings = field(default_factory=ModelSettings)
    optim: OptimSettings = field(default_factory=OptimSettings)
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    run_dir: str | None = None
    resume: Literal["auto", "never", "must"] = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        _within("seed", self.seed, 0, 2**31 - 1)


@dataclass(frozen=True, kw_only=True)
class ImageSettings(RunSettings):
    """A classifier of images."""

    data: DataSettings = field(default_factory=DataSettings)
    task: ClassificationSettings = field(default_factory=ClassificationSettings)
