"""Options that all recipes share, as nested frozen dataclasses. Torch-free, because `--help` reads this file.

The `Attributes:` lines are the only descriptions of the options; the table of `--help` is made from them.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from zoo.data.config import DataSettings
from zoo.parallel.config import PlanSettings
from zoo.tasks.config import ClassificationSettings, OptimSettings, _within

MODEL_FIELDS = {
    "attention": "Attention: a name, {kind: local, window: 9}, my_file:MyCore, or a list with one entry per layer.",
    "mixer": "Token mixer that replaces attention in every block.",
    "image_size": "Image height and width that the model is built for.",
    "patch_size": "Patch size in pixels; for spectrograms a number or [mel bins, frames].",
    "in_chans": "Number of image channels.",
    "stride": "Distance between spectrogram patches: a number or [mel bins, frames].",
    "mel_bins": "Number of mel bins of a spectrogram.",
    "stem": "`patch` (linear patch embedding) or `conv` (a small convolutional stem).",
    "pool": "Pooling before the head: `cls`, `mean`, `cls_mean`, or `last` for decoders.",
    "pooler": "Activation of the layer between the pooling and the head of a text model; null for no such layer.",
    "width": "Embedding dimension.",
    "depth": "Number of blocks.",
    "heads": "Number of attention heads.",
    "kv_heads": "Number of key/value heads; fewer than `heads` is grouped-query attention.",
    "head_dim": "Dimension of each attention head.",
    "mlp_dim": "Hidden dimension of the MLP.",
    "act": "Activation function of the MLP.",
    "gated_mlp": "Use a gated MLP, e.g. SwiGLU.",
    "registers": "Number of register tokens.",
    "layer_scale": "Initial value of LayerScale.",
    "dropout": "Dropout in the residual branches.",
    "attention_dropout": "Dropout of attention weights.",
    "drop_path": "Stochastic depth rate of the last block; it rises linearly with depth.",
    "vocab_size": "Vocabulary size; of an image tokenizer the number of its codes.",
    "widths": "Channels of an image tokenizer at each resolution, which is halved from one to the next.",
    "code_width": "Size of the code vectors of an image tokenizer; null for the last of `widths`.",
    "quantizer": "Tokens of an image tokenizer: `vq` (the nearest code) or `gumbel` (a Gumbel-softmax, as in DALL-E).",
    "max_length": "Maximum sequence length.",
}
"""The documented fields of `zoo.create_model` that a bare `key=value` can set; others are set as `model.key=value`."""

TOWERS = ("encoder", "decoder", "text", "vision", "image", "audio")
"""Parts of a model whose fields can be set separately: `encoder.attention=performer`."""

FREE = frozenset({
    "run_dir", "resume", "data.data_dir", "data.num_workers", "data.cache_decoded", "data.on_device", "task.baseline",
    "trainer.max_minutes", "trainer.accelerator", "trainer.logger", "trainer.log_every",
    "trainer.progress", "trainer.plots", "trainer.checkpoint_every", "trainer.gradient_checkpointing",
    "trainer.cuda_graph",
})  # fmt: skip
"""Settings that may change when a run is resumed, because no weight or loss depends on them.

Batches depend on (seed, step) only, so the number of workers may change. `devices`, `num_nodes` and
`accumulate_grad_batches` may change as long as their product, the number of micro-batches per step, stays the same.
Another type of device is allowed, but rounds differently.
"""


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The model to train.

    Attributes:
        name: Name of the model; `zoo list` prints all names.
        source: Pretrained weights to start from, instead of random ones: a folder, a run or a hub name.
        overrides: Fields of the model's config, e.g. `attention=performer depth=6`.
    """

    name: str = ""
    source: str | None = None
    overrides: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    """Length of training, hardware, validation and logging.

    Attributes:
        epochs: Number of passes over the training set; set this or `steps`.
        steps: Number of optimizer steps; set this or `epochs`.
        max_minutes: Stop after this many minutes; the same command resumes the run. Does not affect the schedule.
        accumulate_grad_batches: Number of micro-batches that each device's batch is split into.
        gradient_clip_val: Maximum norm of the gradient; 0 disables clipping.
        precision: Precision of the forward and backward pass; weights and optimizer states stay in float32. `bf16` and
            `fp16` are mixed precision (autocast); `bf16-master` computes training steps in bfloat16 alone, norms and
            residuals included, with weights cast from the float32 ones. `auto` is bf16 if the device supports it
            natively, else fp32; fp32 for waveform models on CPUs with AMX, whose library computes wrong bf16 gradients
            of their convolutions.
        accelerator: Device type; `auto` is the first available of CUDA, MPS and CPU.
        devices: Number of processes on this machine, one device each; 0 uses all GPUs.
        num_nodes: Number of machines.
        strategy: Distributed strategy; `auto` is ddp if there are several devices.
        compile: `blocks` compiles the transformer blocks with `torch.compile`, which share one graph; `stack` all
            blocks as one graph, faster and longer to compile; true compiles the whole model, which takes longest.
        cuda_graph: Launch the forward and the backward pass of each training step as one CUDA graph each, which pays
            where kernels are short, as in small models. `auto` does so where it is possible: image classification on
            one GPU, neither compiled nor with gradient checkpointing. Experimental: weights may differ, see
            docs/guides/gpu.md.
        gradient_checkpointing: Recompute activations in the backward pass: less memory, more time.
        ema: Decay of the exponential moving average of the weights, which is evaluated and saved; 0 disables it.
        deterministic: Use deterministic algorithms on a GPU, too.
        val_fraction: Fraction of the training set that is held out for validation; 0 validates on the test set.
        monitor: Metric of the validations that selects the best checkpoint and that early stopping looks at, e.g. `f1`
            or `loss`. Default: the main metric of the task (accuracy, error rate, recall, ...) selects, and early
            stopping looks at the loss.
        validate_every: Steps between validations; 0 validates after each epoch.
        checkpoint_every: Steps between checkpoints; there is always one after each validation.
        log_every: Steps between rows of `metrics.csv`.
        logger: Class name of an additional Lightning logger, e.g. `TensorBoardLogger`.
        progress: Show a progress bar in a terminal, or print a line per validation elsewhere.
        plots: Save plots of curves, confusion matrix and attention maps to the run folder.
    """

    epochs: int | None = None
    steps: int | None = None
    max_minutes: float | None = None
    accumulate_grad_batches: int = 1
    gradient_clip_val: float = 1.0
    precision: Literal["auto", "fp32", "bf16", "fp16", "bf16-master"] = "auto"
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: int = 1
    num_nodes: int = 1
    strategy: Literal["auto", "ddp", "fsdp2"] = "auto"
    compile: bool | Literal["blocks", "stack"] = False
    cuda_graph: bool | Literal["auto"] = False
    gradient_checkpointing: bool = False
    ema: float = 0.0
    deterministic: bool = False
    val_fraction: float = 0.04
    monitor: str | None = None
    validate_every: int = 0
    checkpoint_every: int = 200
    log_every: int = 50
    logger: str | None = None
    progress: bool = True
    plots: bool = True

    def __post_init__(self) -> None:
        for name, least in (("accumulate_grad_batches", 1), ("num_nodes", 1), ("log_every", 1), ("devices", 0),
                            ("validate_every", 0), ("checkpoint_every", 0), ("epochs", 1), ("steps", 1)):  # fmt: skip
            _within(name, getattr(self, name), least, float("inf"))
        _within("gradient_clip_val", self.gradient_clip_val, 0.0, float("inf"))
        _within("val_fraction", self.val_fraction, 0.0, 1.0, open_above=True)
        _within("ema", self.ema, 0.0, 1.0, open_above=True)
        _within("max_minutes", self.max_minutes, 0.0, float("inf"), open_below=True)


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Settings of every recipe.

    Attributes:
        run_dir: Folder of the run; default `runs/<recipe>`.
        resume: `auto` resumes an unfinished run, `never` starts a new one, `must` fails if there is none to resume.
        seed: Seed of the initial weights, the order of the data and all other random numbers.
    """

    model: ModelSettings = field(default_factory=ModelSettings)
    optim: OptimSettings = field(default_factory=OptimSettings)
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    plan: PlanSettings = field(default_factory=PlanSettings)
    run_dir: str | None = None
    resume: Literal["auto", "never", "must"] = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        _within("seed", self.seed, 0, 2**31 - 1)


@dataclass(frozen=True, kw_only=True)
class ImageSettings(RunSettings):
    """Settings of image classification."""

    data: DataSettings = field(default_factory=DataSettings)
    task: ClassificationSettings = field(default_factory=ClassificationSettings)
