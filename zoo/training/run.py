"""A run of a recipe: its settings, model and folder."""

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.data.sources.fingerprint import Fingerprint, ReadData, data_folder, record_read_data
from zoo.training import devices, parse
from zoo.training.config import FREE
from zoo.training.parse import CommandLine, SettingsError
from zoo.training.result import DatasetInfo
from zoo.training.run_dir import RunFolder, open_run, write_text
from zoo.utils import distributed
from zoo.utils.console import announce
from zoo.utils.options import as_dict, flatten

if TYPE_CHECKING:
    from zoo.models.base import Model
    from zoo.training.baseline import BaselineThread


@dataclass
class Run:
    """One run of a recipe.

        run = Run.of("vit_cifar", ["epochs=1"], ImageSettings, configs=Path("configs"))

    Attributes:
        recipe: Name of the recipe, also of its YAML file and the default run folder.
        command_line: The parsed command line.
        config: The settings, from all files and the command line.
        given: Paths of the settings that the user has chosen, on the command line or in the file of `config=`.
        data: Description of the dataset; set by `open`.
        folder: The run folder; set by `open`.
        read: The files that the loaders have read since the run was created, for the fingerprint of its data.
        started: Whether `fit` has begun. Until then an error is one of the options or the data.
        baseline: The baseline to compare with, of a classifier; `fit` sets it.
        hints: Advice of the recipe for a model that starts from random weights on few items; `{longer}` stands for
            the options of a longer run.
        recipe_epochs: Epochs that the files of the recipe set, whatever the user chose; 0 if they set none.
        longer_run: Options of a longer run that is known to pay for this dataset; `fit` sets it.
    """

    recipe: str
    command_line: CommandLine
    config: Any
    given: frozenset[str] = frozenset()
    data: DatasetInfo | None = None
    folder: RunFolder | None = None
    read: ReadData = field(default_factory=ReadData)
    started: bool = False
    baseline: "BaselineThread | None" = None
    hints: list[str] = field(default_factory=list)
    recipe_epochs: int = 0
    longer_run: str = ""

    @classmethod
    def of(cls, recipe: str, argv: Sequence[str], settings: type, configs: Path | None = None) -> "Run":
        """Create a run from command line options. Torch is only imported after their names have been checked.

        Raises: SettingsError.
        """
        command_line = parse.read_command_line(argv, settings)
        if {"model.name", "model.source"} <= command_line.values.keys():
            raise SettingsError("model= and model.source= are both given: model= is a new model with random weights, "
                                "model.source= is a pretrained one; give only one of them")  # fmt: skip
        user = parse.user_layers(command_line, settings)
        accelerator = parse.merge(user).get("trainer.accelerator", "auto")
        hardware = devices.hardware_for(accelerator) if configs and not command_line.hardware else None
        layers = parse.layers_of(command_line, user, settings, configs, recipe, hardware)
        config = parse.make_settings(settings, parse.merge(layers))
        given = frozenset(path for layer in user for path in layer)
        epochs = parse.merge(layers[: -len(user) - 1]).get("trainer.epochs", "null")  # of the files of the recipe
        try:
            run = cls(recipe, command_line, devices.settle(config), given, read=record_read_data())
        except ValueError as error:
            raise SettingsError(str(error)) from None
        run.recipe_epochs = 0 if epochs == "null" else int(epochs)
        return run

    # --- what a recipe calls, in this order --------------------------------------------------------------------------

    def build_model(self, head: str, **fields: Any) -> "Model":
        """The model of the settings in training mode: by name with random weights, or from `model.source=`.

        A recipe calls it before it loads its data, so that a mistake in the options shows at once; if a new model
        depends on the data, it calls it again with the fields that follow from them.

        Args:
            head: Its head. A pretrained model gets a new one if it has another; a classifier has an arbitrary number
                of classes until `set_classes`.
            fields: Further fields of the model, e.g. `vocab_size=`; they override those of the settings.

        Raises: SettingsError with the message of `zoo.create_model` or `zoo.load`.
        """
        from zoo.checkpoints.create import create_model
        from zoo.checkpoints.load import load
        from zoo.training.pretrained import load_classifier

        model, overrides = self.config.model, self.config.model.overrides | fields
        try:
            if not model.source:
                return create_model(model.name, seed=self.config.seed, **{"head": head} | overrides)
            if head in ("classify", "token"):
                return load_classifier(model.source, overrides, head)
            return load(model.source, **{"head": head} | overrides).train()  # `load` returns a model in eval mode
        except (ValueError, TypeError) as error:
            raise SettingsError(str(error)) from error

    @property
    def model_name(self) -> str:
        """Where the model is from, for messages: the pretrained weights, its name, or those of its towers."""
        c = self.config
        towers = [getattr(c, tower).name for tower in ("image", "audio", "text") if hasattr(c, tower)]
        return c.model.source or c.model.name or " + ".join(towers)

    @property
    def is_pretrained(self) -> bool:
        """Whether the model starts from pretrained weights."""
        return bool(self.config.model.source or getattr(self.config, "vit", None))

    @property
    def overrides_given(self) -> dict[str, Any]:
        """Fields of the model that the user has chosen; those in the files of a recipe are for its own model."""
        overrides = self.config.model.overrides
        return {name: value for name, value in overrides.items() if f"model.overrides.{name}" in self.given}

    def open(self, data: Any, model: "Model | None" = None) -> RunFolder:
        """Set the dataset and open the run folder; `precision=auto` may depend on the model.

        Args:
            data: The splits that a loader gives, before a validation set is split off; a data module; or a DatasetInfo.
            model: The model.

        Raises: RunError if the folder holds a different, unfinished run, or one of data that has changed since.
        """
        from zoo.training.trainer import check_logger

        skipped = getattr(data, "skipped", [])  # rows of the data that are left out
        self.data = data = data if isinstance(data, DatasetInfo) else DatasetInfo.of(data)
        self.config = replace(self.config, trainer=devices.with_precision(self.config.trainer, model))
        check_logger(self.config.trainer.logger)
        values = as_dict(self.config)
        if "data" in values:
            values["data"]["name"] = data.name
        base = Path(self.config.run_dir or Path("runs") / self.recipe)

        fingerprint: Fingerprint = {}

        def decide() -> tuple[str, bool]:
            fingerprint.update(self._fingerprint())
            found = open_run(base, values, self.config.resume, fingerprint)
            return str(found.path), found.unfinished

        path, unfinished = distributed.decide_on_rank_zero(decide)
        self.folder = RunFolder(Path(path), unfinished)
        if distributed.rank() == 0:
            if self.folder.last is not None and self.folder.fingerprint is None and fingerprint:
                announce(f"{path} was started by a version that kept no fingerprint of its data: a change of the "
                         f"data since then is not noticed")  # fmt: skip
            self.folder.create(values, header=self._header(data), fingerprint=fingerprint)
            if skipped:
                write_text(self.folder.path / "skipped.txt", "".join(f"{line}\n" for line in skipped))
        return self.folder

    def shared_values(self) -> dict[str, Any]:
        """What all processes of the run must have in common: the settings, and the data that they have read."""
        values = {path: value for path, value in flatten(as_dict(self.config)).items() if path not in FREE}
        return values | {f"the data, {name}": digest for name, digest in self._fingerprint().items()}

    def _fingerprint(self) -> Fingerprint:
        """The fingerprint of the data that has been read so far."""
        data = getattr(self.config, "data", None)
        name, data_dir = getattr(data, "name", ""), getattr(data, "data_dir", None)
        return self.read.fingerprint(data_folder(name, data_dir))

    # --- for messages ------------------------------------------------------------------------------------------------

    def longer_command(self, options: str) -> str:
        """The command of this run with `options` (e.g. `epochs=30`) instead of its own length."""
        length = ("trainer.epochs", "trainer.steps", "trainer.max_minutes")
        others = {path: value for path, value in self.command_line.values.items() if path not in length}
        return self._command(others, *self._files, *options.split())

    @property
    def command(self) -> str:
        """The command of this run, for use in a shell."""
        return self._command(self.command_line.values, *self._files)

    @property
    def _files(self) -> list[str]:
        """The options that name files of settings."""
        special = {"hardware": self.command_line.hardware, "config": self.command_line.config}
        return [f"{key}={value}" for key, value in special.items() if value]

    def _command(self, values: Mapping[str, Any], *more: str) -> str:
        options = [f"{parse.shortest(path, type(self.config))}={value}" for path, value in values.items()]
        return shlex.join(["python", f"recipes/{self.recipe}.py", *options, *more])

    def _header(self, data: DatasetInfo) -> str:
        stamp = time.strftime("%Y-%m-%d %H:%M")
        return f"{self.recipe}, started {stamp}\ndata: {data.name} ({data.kind}; {data.source})"
