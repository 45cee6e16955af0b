"""A run: settings, folder, trainer, result. Recipes say what is trained; everything around it is here."""

import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import LoadError
from zoo.run import front, hardware
from zoo.run.folder import RunError, RunFolder, open_run
from zoo.run.front import SettingsError, Words
from zoo.run.settings import as_dict

if TYPE_CHECKING:
    import lightning as L
    from lightning.pytorch.callbacks import Callback
    from rich.console import Console

    from zoo.models.base import Model
    from zoo.tasks.base import Task


@dataclass(frozen=True)
class DataFacts:
    """What a run says about its data, in the banner, in `config.yaml` and in `metrics.json`.

    Attributes:
        name: Of the data set.
        real: False for data that the program drew itself.
        source: Where it came from.
        train: Items to train on.
        test: Items to test on.
    """

    name: str
    real: bool
    source: str
    train: int
    test: int

    def warning(self) -> str | None:
        """A line that cannot be missed, for data that is not real."""
        if self.real:
            return None
        return f"NOT REAL DATA: the {self.name} set is {self.source}; its figures say nothing of any other set."


@dataclass
class Result:
    """What a run came to; stands in `metrics.json`.

    Attributes:
        figures: `test_accuracy` and the like.
        finished: Whether all planned steps are done; a run stopped by its time budget is not.
        steps: Optimizer steps done.
        seconds: Of training, over all starts.
        folder: The run folder.
    """

    figures: dict[str, float]
    finished: bool
    steps: int
    seconds: float
    folder: Path


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
    words: Words
    configs: Path | None
    settings: Any
    overlay: str | None = None
    data: DataFacts | None = None
    folder: RunFolder | None = None

    @classmethod
    def of(cls, recipe: str, argv: Sequence[str], settings: type, configs: Path | None = None) -> "Run":
        """Read a command line. Torch is imported only once the words are known to be right.

        Raises: SettingsError.
        """
        words = front.read_words(argv, settings)
        front.make_settings(settings, front.merge(front.layers_of(words, settings, configs, recipe, None)))
        accelerator = words.values.get("trainer.accelerator", "auto")
        chosen = hardware.best_accelerator() if accelerator == "auto" else accelerator
        overlay = words.overlay or (hardware.OVERLAYS.get(chosen) if configs else None)
        run = cls(recipe, settings, words, configs, None, overlay=overlay)
        run.settings = run._settings()
        return run

    def _settings(self, data: str | None = None) -> Any:
        """All layers: recipe, hardware, recipe on this hardware, data, from weights, `config=`, command line."""
        layers = front.layers_of(self.words, self.cls, self.configs, self.recipe, self.overlay)
        source = "source" if "model.source" in self.words.values else None
        special = [f"{self.recipe}.{name}.yaml" for name in (self.overlay, data, source) if name]
        files = [self.configs / name for name in special if (self.configs / name).exists()] if self.configs else []
        at = len(layers) - (2 if self.words.config else 1)
        layers[at:at] = [front.read_yaml(file, self.cls) for file in files]
        try:
            return hardware.settle(front.make_settings(self.cls, front.merge(layers)))
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
                from zoo.loading import load

                return load(wanted.source, **wanted.overrides)
            from zoo.registry import create_model

            return create_model(wanted.name, seed=self.settings.seed, **wanted.overrides)
        except (ValueError, TypeError) as error:
            raise SettingsError(str(error)) from error

    def open(self, data: DataFacts) -> None:
        """Now that the data is known: the final settings, and the run folder.

        Raises: RunError when the folder holds another run.
        """
        from zoo.run.trainer import check_logger

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

        path, unfinished = hardware.agree(decide)
        self.folder = RunFolder(Path(path), unfinished)
        self.settings = settings
        if hardware.rank() == 0:
            self.folder.create(values, header=self._header(data))

    def fit(self, task: "Task", data: "L.LightningDataModule", *, steps_per_epoch: int,
            sample: dict[str, Any] | None = None, longer: dict[str, str] | None = None,
            try_it: str = "", callbacks: "Sequence[Callback]" = ()) -> Result:  # fmt: skip
        """Train to the last step, the end of the time budget or Ctrl-C; test the best model; write it all down.

        Args:
            task: What is trained.
            data: With train, val and test loaders whose batches are keyed by the step.
            steps_per_epoch: Optimizer steps in a pass over the training set.
            sample: A small raw batch; with it the banner can say when the run will end.
            longer: Words of a longer run by the name of the data set, e.g. `{"cifar10": "epochs=40"}`.
            try_it: A command for the model that came out, `{model}` in it stands for its folder.
            callbacks: Further ones of Lightning's.

        Raises: Interrupted, NonFiniteLoss.
        """
        from zoo.run.fit import fit

        assert self.folder is not None and self.data is not None, "call run.open(...) first"
        words = (longer or {}).get(self.data.name, "")
        try:
            return fit(self, task, data, steps_per_epoch, sample, words, try_it=try_it, further=callbacks)
        finally:
            self.folder.release()
            hardware.forget()

    def longer(self, words: str) -> str:
        """This command with `words` (`epochs=30`) in the place of its own length."""
        length = ("trainer.epochs", "trainer.steps", "trainer.minutes")
        said = {path: value for path, value in self.words.values.items() if path not in length}
        return self._command(said, *words.split())

    @property
    def command(self) -> str:
        """This command, as it can be given again."""
        special = {"overlay": self.words.overlay, "config": self.words.config}
        return self._command(self.words.values, *(f"{key}={value}" for key, value in special.items() if value))

    def _command(self, values: Mapping[str, Any], *words: str) -> str:
        given = [f"{front.shortest(path, self.cls)}={value}" for path, value in values.items()]
        return shlex.join(["python", f"recipes/{self.recipe}.py", *given, *words])

    def _header(self, data: DataFacts) -> str:
        stamp = time.strftime("%Y-%m-%d %H:%M")
        about = f"{data.name} ({'real' if data.real else 'NOT REAL'}; {data.source})"
        return f"{self.recipe}, started {stamp}\ndata: {about}"


def main(train: Callable[[Run], Any], settings: type, argv: Sequence[str] | None = None) -> int:
    """The command line of a recipe: help, errors in a line, Ctrl-C. Returns the exit status.

    Args:
        train: The recipe's function; its file names the recipe, its docstring heads the help.
        settings: The settings dataclass.
    """
    file = Path(train.__code__.co_filename).resolve()
    configs = file.parent.parent / "configs"
    argv = sys.argv[1:] if argv is None else argv
    try:
        if front.read_words(argv, settings).help:
            defaults = front.read_yaml(configs / f"{file.stem}.yaml", settings)
            front.print_help(settings, train.__globals__.get("__doc__") or "", [defaults])
            return 0
        train(Run.of(file.stem, argv, settings, configs))
    except (SettingsError, RunError, LoadError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted before the first step", file=sys.stderr)
        return 130
    except Exception as error:
        return _ended(error)
    return 0


def _ended(error: Exception) -> int:
    """Words and exit status for the ways in which training ends early; any other error is raised again."""
    from zoo.run.callbacks import Interrupted
    from zoo.tasks.guard import NonFiniteLoss

    if isinstance(error, Interrupted):
        print(f"{error}; last.ckpt is written: the same command goes on from there", file=sys.stderr)
        return 130
    if isinstance(error, NonFiniteLoss):
        print(f"error: {error}", file=sys.stderr)
        return 1
    raise error


def console() -> "Console":
    """Where a run talks; silent on every rank but 0."""
    from rich.console import Console

    return Console(highlight=False, quiet=hardware.rank() != 0, soft_wrap=True)
