"""What a recipe may be told. Nested frozen dataclasses, torch-free: `--help` reads this file and nothing heavy.

The `Attributes:` lines are the one place where an option is described; the help table is made of them.
"""

import inspect
import types
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from zoo.data.settings import DataSettings

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
    "hidden": "Width of the MLP's hidden layer.",
    "act": "Activation of the MLP.",
    "gated": "A gated MLP.",
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
    "run_dir", "resume", "data.data_dir", "data.workers",
    "trainer.minutes", "trainer.accelerator", "trainer.logger", "trainer.log_every",
    "trainer.progress", "trainer.pictures", "trainer.checkpoint_every", "trainer.checkpointing",
})  # fmt: skip
"""Settings that a resumed run may change: none of them enters a weight or a loss. Batches are keyed by (seed, step), so
neither are workers; `devices`, `nodes` and `accumulate` may change as long as their product, the number of
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
class OptimSettings:
    """AdamW, warm-up and cosine.

    Attributes:
        lr: Highest learning rate, for a whole step's batch.
        weight_decay: Decoupled weight decay of the matrices; norms, biases, tokens and positions have none.
        betas: AdamW's decay rates of the first and second moment.
        eps: AdamW's epsilon.
        warmup: Share of all steps in which the learning rate rises from zero.
        final_lr: Learning rate at the end, as a share of `lr`.
        layer_decay: Factor of the learning rate from each block to the one below it; 1 treats them alike.
        freeze: Parameters that stay as they are: names, prefixes or globs, e.g. `[patches, blocks.0]`.
    """

    lr: float = 1e-3
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    warmup: float = 0.05
    final_lr: float = 0.01
    layer_decay: float = 1.0
    freeze: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        _within("lr", self.lr, 0.0, float("inf"), open_below=True)
        _within("weight_decay", self.weight_decay, 0.0, float("inf"))
        _within("eps", self.eps, 0.0, float("inf"), open_below=True)
        _within("warmup", self.warmup, 0.0, 1.0)
        _within("final_lr", self.final_lr, 0.0, 1.0)
        _within("layer_decay", self.layer_decay, 0.0, 1.0, open_below=True)
        for beta in self.betas:
            _within("betas", beta, 0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class ClassifySettings:
    """The objective of a classifier.

    Attributes:
        label_smoothing: Share of the target that is spread evenly over all classes.
    """

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        _within("label_smoothing", self.label_smoothing, 0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class WeightedSettings(ClassifySettings):
    """The objective of a classifier whose classes may be weighted, and that may end early.

    Attributes:
        class_weights: `balanced` lets rare classes count as much as frequent ones in the training loss.
        patience: End after so many validations in a row that are not the best; 0 goes on to the last step.
    """

    class_weights: Literal["none", "balanced"] = "none"
    patience: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        _within("patience", self.patience, 0, float("inf"))


@dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    """How long, on what, and what is written down.

    Attributes:
        epochs: Passes over the training set; give this or `steps`.
        steps: Optimizer steps; give this or `epochs`.
        minutes: Stop after so many minutes of this start (never shapes the schedule); the same command goes on.
        accumulate: Micro-batches per device that a step's batch is cut into.
        clip: Greatest norm of the gradient; 0 does not clip.
        precision: Number format of the forward pass; weights and optimizer stay in float32. `auto` takes bf16 where
            the device computes in it, else fp32.
        accelerator: `auto` takes CUDA, MPS or the CPU, in this order.
        devices: Processes on this machine, one device each; 0 takes all GPUs, and one process on a CPU.
        nodes: Machines that take part.
        strategy: How several devices share the work; `auto` is ddp for more than one.
        compile: Run the model through `torch.compile`.
        checkpointing: Recompute activations in the backward pass: less memory, more time.
        ema: Decay of the moving average of the weights that is evaluated and saved; 0 keeps none.
        deterministic: Ask torch for deterministic kernels on a GPU too.
        holdout: Share of the training set that is kept for validation; 0 validates on the test set.
        validate_every: Steps between validations; 0 validates after each epoch.
        checkpoint_every: Steps between checkpoints; there is one after each validation in any case.
        log_every: Steps between two rows of `metrics.csv`.
        logger: Class name of a further Lightning logger, e.g. `TensorBoardLogger`.
        progress: A progress bar in a terminal, a line per validation elsewhere.
        pictures: Draw curves, confusion matrix and attention maps into the run folder.
    """

    epochs: int | None = None
    steps: int | None = None
    minutes: float | None = None
    accumulate: int = 1
    clip: float = 1.0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: Literal["auto", "ddp", "fsdp2"] = "auto"
    compile: bool = False
    checkpointing: bool = False
    ema: float = 0.0
    deterministic: bool = False
    holdout: float = 0.04
    validate_every: int = 0
    checkpoint_every: int = 200
    log_every: int = 50
    logger: str | None = None
    progress: bool = True
    pictures: bool = True

    def __post_init__(self) -> None:
        for name, least in (("accumulate", 1), ("nodes", 1), ("log_every", 1), ("devices", 0), ("validate_every", 0),
                            ("checkpoint_every", 0), ("epochs", 1), ("steps", 1)):  # fmt: skip
            _within(name, getattr(self, name), least, float("inf"))
        _within("clip", self.clip, 0.0, float("inf"))
        _within("holdout", self.holdout, 0.0, 1.0, open_above=True)
        _within("ema", self.ema, 0.0, 1.0, open_above=True)
        _within("minutes", self.minutes, 0.0, float("inf"), open_below=True)


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
    task: ClassifySettings = field(default_factory=ClassifySettings)


def _within(name: str, value: float | None, least: float, most: float, *, open_below: bool = False,
            open_above: bool = False) -> None:  # fmt: skip
    """Raise unless `value` is None or lies between `least` and `most`."""
    if value is None:
        return
    low, high = ("more than" if open_below else "at least"), ("less than" if open_above else "at most")
    fits = (value > least if open_below else value >= least) and (value < most if open_above else value <= most)
    if not fits:
        bounds = f"{low} {least:g}" + (f" and {high} {most:g}" if most < 2**31 - 1 else "")
        raise ValueError(f"{name}={value}: expected {bounds}")


@dataclass(frozen=True)
class Option:
    """One row of the help table: `trainer.epochs`, its type, default and meaning."""

    path: str
    kind: Any
    default: Any
    meaning: str


def options(cls: type, prefix: str = "") -> Iterator[Option]:
    """Every option of a settings class, depth first: sections after the plain fields of their parent."""
    hints, meanings, default = get_type_hints(cls), _meanings(cls), cls()
    for entry in sorted(fields(cls), key=lambda f: is_dataclass(hints[f.name])):
        path = prefix + entry.name
        if is_dataclass(hints[entry.name]):
            yield from options(hints[entry.name], path + ".")
        else:
            yield Option(path, hints[entry.name], getattr(default, entry.name), meanings.get(entry.name, ""))


def sections(cls: type, prefix: str = "") -> dict[str, type]:
    """The nested dataclasses of a settings class by their path: `{"data": ..., "data.augment": ...}`."""
    found: dict[str, type] = {}
    for name, kind in get_type_hints(cls).items():
        if is_dataclass(kind) and isinstance(kind, type):
            found[prefix + name] = kind
            found |= sections(kind, f"{prefix}{name}.")
    return found


def build(cls: type, values: dict[str, Any]) -> Any:
    """A settings object from the nested dict that `as_dict` made (types were checked by the parser)."""
    nested = sections(cls)
    made = {}
    for name, value in values.items():
        kind = nested.get(name)
        made[name] = build(kind, value) if kind else tuple(value) if _is_tuple(cls, name) else value
    return cls(**made)


def as_dict(settings: Any) -> dict[str, Any]:
    """Nested dicts and lists of plain values, as they stand in `config.yaml`."""
    return _plain(asdict(settings))


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"trainer": {"epochs": 3}}` -> `{"trainer.epochs": 3}`; `model.overrides` is flattened like a section."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict) and prefix != "model.overrides.":
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def differences(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Settings that differ and matter, `{path: (old value, new value)}`; what `FREE` lists is not looked at."""
    before, now = _comparable(old), _comparable(new)
    return {
        path: (before.get(path), now.get(path))
        for path in sorted(before.keys() | now.keys())
        if before.get(path) != now.get(path)
    }


def _comparable(values: dict[str, Any]) -> dict[str, Any]:
    """Flat settings without the free ones, and with the micro-batches of a step in the place of their factors."""
    flat = {path: value for path, value in flatten(values).items() if path not in FREE}
    factors = [flat.pop(f"trainer.{name}", 1) for name in ("devices", "nodes", "accumulate")]
    if "trainer.strategy" in flat:  # FSDP2 files the optimizer's state in an order of its own
        flat["trainer.strategy"] = "fsdp2" if flat["trainer.strategy"] == "fsdp2" else "a copy per device"
    flat["trainer.devices x nodes x accumulate"] = factors[0] * factors[1] * factors[2]
    return flat


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def _is_tuple(cls: type, name: str) -> bool:
    kind = get_type_hints(cls)[name]
    kinds = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    return any(get_origin(k) is tuple for k in kinds)


def _meanings(cls: type) -> dict[str, str]:
    """The `Attributes:` lines of a settings class and its parents, continued lines joined."""
    found: dict[str, str] = {}
    for parent in reversed(cls.__mro__):
        lines = inspect.cleandoc(parent.__doc__ or "").partition("Attributes:")[2].splitlines()
        name = ""
        for line in (entry for entry in lines if entry.strip()):
            if line.startswith("    ") and not line.startswith("     "):
                name, _, text = line.strip().partition(": ")
                found[name] = text
            elif name:
                found[name] += " " + line.strip()
    return found
