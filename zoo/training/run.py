"""A run of a recipe: its settings, model and folder."""

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.data.sources.fingerprint import Fingerprint, ReadData, data_folder, record_read_data
from zoo.training import devices, parse
from zoo.training.parse import CommandLine, SettingsError
from zoo.training.result import DatasetInfo
from zoo.training.run_dir import RunFolder, open_run
from zoo.utils import distributed
from zoo.utils.console import announce
from zoo.utils.options import as_dict

if TYPE_CHECKING:
    from zoo.models.base import Model


@dataclass
class Run:
    """One run of a recipe.

        run = Run.of("vit_cifar", ["epochs=1"], ImageSettings, configs=Path("configs"))

    Attributes:
        recipe: Name of the recipe, also of its YAML file and the default run folder.
        cls: The settings dataclass.
        command_line: The parsed command line.
        configs: Folder of the YAML files, or None.
        settings: The settings; final after `open`.
        hardware: Name of the file in `configs/hardware` that is applied, or None.
        data: Description of the dataset; set by `open`.
        folder: The run folder; set by `open`.
        read: The files that the loaders have read since the run was created, for the fingerprint of its data.
    """

    recipe: str
    cls: type
    command_line: CommandLine
    configs: Path | None
    settings: Any
    hardware: str | None = None
    data: DatasetInfo | None = None
    folder: RunFolder | None = None
    read: ReadData = field(default_factory=ReadData)

    @classmethod
    def of(cls, recipe: str, argv: Sequence[str], settings: type, configs: Path | None = None) -> "Run":
        """Create a run from command line options. Torch is only imported after the options have been checked.

        Raises: SettingsError.
        """
        command_line = parse.read_command_line(argv, settings)
        parse.make_settings(settings, parse.merge(parse.layers_of(command_line, settings, configs, recipe, None)))
        accelerator = command_line.values.get("trainer.accelerator", "auto")
        chosen = devices.best_accelerator() if accelerator == "auto" else accelerator
        hardware = command_line.hardware or (devices.HARDWARE_FILES.get(chosen) if configs else None)
        run = cls(recipe, settings, command_line, configs, None, hardware=hardware, read=record_read_data())
        run.settings = run._settings()
        return run

    def _settings(self, data: str | None = None, model: "Model | None" = None) -> Any:
        """Settings from all layers.

        Lowest first: `<recipe>.yaml`, `hardware/<name>.yaml`, `<recipe>.<hardware>.yaml`, `<recipe>.<data>.yaml`,
        `<recipe>.source.yaml` (with model.source=), the file of `config=`, the command line. With model.source=, the
        sizes in the files of the recipe do not apply: they are for a new model.
        """
        layers = parse.layers_of(self.command_line, self.cls, self.configs, self.recipe, self.hardware)
        own = 2 if self.command_line.config else 1  # the layers of the user
        source = "source" if any("model.source" in layer for layer in layers[-own:]) else None
        special = [f"{self.recipe}.{name}.yaml" for name in (self.hardware, data, source) if name]
        files = [self.configs / name for name in special if (self.configs / name).exists()] if self.configs else []
        layers[-own:-own] = [parse.read_yaml(file, self.cls) for file in files]
        if source:
            layers[:-own] = [
                {path: value for path, value in layer.items() if not path.startswith("model.overrides.")}
                for layer in layers[:-own]
            ]
        try:
            return devices.settle(parse.make_settings(self.cls, parse.merge(layers)), model)
        except ValueError as error:
            raise SettingsError(str(error)) from None

    def expect(self, data: str) -> None:
        """Apply the settings for a dataset before it is loaded: its YAML file may say how to load it."""
        self.settings = self._settings(data)

    # --- what a recipe calls, in this order --------------------------------------------------------------------------

    def create_model(self) -> "Model":
        """Create or load the model of the settings, before any data is loaded.

        Raises: SettingsError with the message of `zoo.create_model` or `zoo.load`.
        """
        config = self.settings.model
        try:
            if config.source:
                from zoo.checkpoints.load import load

                return load(config.source, **config.overrides).train()  # `load` returns a model in eval mode
            from zoo.checkpoints.create import create_model

            return create_model(config.name, seed=self.settings.seed, **config.overrides)
        except (ValueError, TypeError) as error:
            raise SettingsError(str(error)) from error

    def open(self, data: DatasetInfo, model: "Model | None" = None) -> None:
        """Set the dataset, make the settings final, and open the run folder; precision=auto may depend on the model.

        Raises: RunError if the folder holds a different, unfinished run, or one of data that has changed since.
        """
        from zoo.training.trainer import check_logger

        self.data = data
        settings = self._settings(data.name, model)
        check_logger(settings.trainer.logger)
        values = as_dict(settings)
        if "data" in values:
            values["data"]["name"] = data.name  # `auto` may find other data next time, which is a different run
        base = Path(settings.run_dir or Path("runs") / self.recipe)

        fingerprint: Fingerprint = {}

        def decide() -> tuple[str, bool]:
            fingerprint.update(self._fingerprint(settings))
            found = open_run(base, values, settings.resume, fingerprint)
            return str(found.path), found.unfinished

        path, unfinished = distributed.decide_on_rank_zero(decide)
        self.folder = RunFolder(Path(path), unfinished)
        self.settings = settings
        if distributed.rank() == 0:
            if self.folder.last is not None and self.folder.fingerprint is None and fingerprint:
                announce(f"{path} was started by a version that kept no fingerprint of its data: a change of the "
                         f"data since then is not noticed")  # fmt: skip
            self.folder.create(values, header=self._header(data), fingerprint=fingerprint)

    def _fingerprint(self, settings: Any) -> Fingerprint:
        """The fingerprint of the data that has been read so far."""
        data = getattr(settings, "data", None)
        name, data_dir = getattr(data, "name", ""), getattr(data, "data_dir", None)
        return self.read.fingerprint(data_folder(name, data_dir))

    def longer_command(self, options: str) -> str:
        """The command of this run with `options` (e.g. `epochs=30`) instead of its own length."""
        length = ("trainer.epochs", "trainer.steps", "trainer.max_minutes")
        others = {path: value for path, value in self.command_line.values.items() if path not in length}
        return self._command(others, *options.split())

    @property
    def command(self) -> str:
        """The command of this run, for use in a shell."""
        special = {"hardware": self.command_line.hardware, "config": self.command_line.config}
        return self._command(self.command_line.values, *(f"{key}={value}" for key, value in special.items() if value))

    def _command(self, values: Mapping[str, Any], *more: str) -> str:
        options = [f"{parse.shortest(path, self.cls)}={value}" for path, value in values.items()]
        return shlex.join(["python", f"recipes/{self.recipe}.py", *options, *more])

    def _header(self, data: DatasetInfo) -> str:
        stamp = time.strftime("%Y-%m-%d %H:%M")
        return f"{self.recipe}, started {stamp}\ndata: {data.name} ({data.kind}; {data.source})"
