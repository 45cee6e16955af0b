"""A run: its settings, model and folder."""

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.training import devices, parse
from zoo.training.parse import CommandLine, SettingsError
from zoo.training.result import DatasetInfo
from zoo.training.run_dir import RunFolder, open_run
from zoo.utils import distributed
from zoo.utils.options import as_dict

if TYPE_CHECKING:
    from zoo.models.base import Model


@dataclass
class Run:
    """One run of a recipe.

        run = Run.of("vit_cifar", ["epochs=1"], ImageSettings, configs=Path("configs"))

    Attributes:
        recipe: Its name; names the YAML file and the run folder.
        cls: The settings dataclass.
        words: The command line.
        configs: Folder of the YAML files, or None.
        settings: As used; final once `open` was called.
        folder: Where everything goes; there once `open` was called.
    """

    recipe: str
    cls: type
    words: CommandLine
    configs: Path | None
    settings: Any
    hardware: str | None = None
    data: DatasetInfo | None = None
    folder: RunFolder | None = None

    @classmethod
    def of(cls, recipe: str, argv: Sequence[str], settings: type, configs: Path | None = None) -> "Run":
        """Read a command line. Torch is imported only once the words are known to be right.

        Raises: SettingsError.
        """
        words = parse.read_command_line(argv, settings)
        parse.make_settings(settings, parse.merge(parse.layers_of(words, settings, configs, recipe, None)))
        accelerator = words.values.get("trainer.accelerator", "auto")
        chosen = devices.best_accelerator() if accelerator == "auto" else accelerator
        hardware = words.hardware or (devices.OVERLAYS.get(chosen) if configs else None)
        run = cls(recipe, settings, words, configs, None, hardware=hardware)
        run.settings = run._settings()
        return run

    def _settings(self, data: str | None = None) -> Any:
        """All layers: recipe, hardware, recipe on this hardware, data, from weights, `config=`, command line."""
        layers = parse.layers_of(self.words, self.cls, self.configs, self.recipe, self.hardware)
        source = "source" if "model.source" in self.words.values else None
        special = [f"{self.recipe}.{name}.yaml" for name in (self.hardware, data, source) if name]
        files = [self.configs / name for name in special if (self.configs / name).exists()] if self.configs else []
        at = len(layers) - (2 if self.words.config else 1)
        layers[at:at] = [parse.read_yaml(file, self.cls) for file in files]
        try:
            return devices.settle(parse.make_settings(self.cls, parse.merge(layers)))
        except ValueError as error:
            raise SettingsError(str(error)) from None

    def expect(self, data: str) -> None:
        """Take the settings for a data set whose name is known before it is read: its file may say how to read it."""
        self.settings = self._settings(data)

    # --- what a recipe calls, in this order --------------------------------------------------------------------------

    def create_model(self) -> "Model":
        """The model that the settings name, checked before any data is touched.

        Raises: SettingsError with what `zoo.create_model` or `zoo.load` has to say.
        """
        wanted = self.settings.model
        try:
            if wanted.source:
                from zoo.checkpoints.load import load

                return load(wanted.source, **wanted.overrides)
            from zoo.checkpoints.create import create_model

            return create_model(wanted.name, seed=self.settings.seed, **wanted.overrides)
        except (ValueError, TypeError) as error:
            raise SettingsError(str(error)) from error

    def open(self, data: DatasetInfo) -> None:
        """Now that the data is known: the final settings, and the run folder.

        Raises: RunError when the folder holds another run.
        """
        from zoo.training.trainer import check_logger

        self.data = data
        settings = self._settings(data.name)
        check_logger(settings.trainer.logger)
        values = as_dict(settings)
        if "data" in values:
            values["data"]["name"] = data.name  # an `auto` that finds other data tomorrow is another run
        base = Path(settings.run_dir or Path("runs") / self.recipe)

        def decide() -> tuple[str, bool]:
            found = open_run(base, values, settings.resume)
            return str(found.path), found.unfinished

        path, unfinished = distributed.agree(decide)
        self.folder = RunFolder(Path(path), unfinished)
        self.settings = settings
        if distributed.rank() == 0:
            self.folder.create(values, header=self._header(data))

    def longer(self, words: str) -> str:
        """This command with `words` (`epochs=30`) in the place of its own length."""
        length = ("trainer.epochs", "trainer.steps", "trainer.max_minutes")
        said = {path: value for path, value in self.words.values.items() if path not in length}
        return self._command(said, *words.split())

    @property
    def command(self) -> str:
        """This command, as it can be given again."""
        special = {"hardware": self.words.hardware, "config": self.words.config}
        return self._command(self.words.values, *(f"{key}={value}" for key, value in special.items() if value))

    def _command(self, values: Mapping[str, Any], *words: str) -> str:
        given = [f"{parse.shortest(path, self.cls)}={value}" for path, value in values.items()]
        return shlex.join(["python", f"recipes/{self.recipe}.py", *given, *words])

    def _header(self, data: DatasetInfo) -> str:
        stamp = time.strftime("%Y-%m-%d %H:%M")
        about = f"{data.name} ({'real' if data.real else 'NOT REAL'}; {data.source})"
        return f"{self.recipe}, started {stamp}\ndata: {about}"
