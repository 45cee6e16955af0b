"""Import of a class that a user names, `"my_file:MyCore"`."""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from zoo.utils.errors import did_you_mean


def importable_name(cls: type) -> str:
    """The module from which a class can be imported later: for a script the name of its file, not `__main__`."""
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    return Path(file).stem if cls.__module__ == "__main__" and file else cls.__module__


def load_class(path: str) -> type:
    """Import the class of `"my_file:MyCore"`, from a module or from a file in the current folder.

    Raises ValueError if there is no such file or module, or no such class in it.
    """
    module_name, _, class_name = path.rpartition(":")
    file = Path(module_name if module_name.endswith(".py") else module_name.replace(".", "/") + ".py")
    if file.exists():
        module = import_file(file)
    else:
        try:
            module = importlib.import_module(module_name.removesuffix(".py"))
        except ModuleNotFoundError as error:
            if error.name not in (module_name, module_name.removesuffix(".py"), module_name.partition(".")[0]):
                raise  # found, but it imports something that is missing
            raise ValueError(f"{path}: there is no file {file} here and no module {module_name!r}") from None
    if not hasattr(module, class_name):
        classes = [n for n, v in vars(module).items() if isinstance(v, type) and v.__module__ == module.__name__]
        raise ValueError(f"{module_name} has no class {class_name!r}{did_you_mean(class_name, classes)}")
    return getattr(module, class_name)


def import_file(file: Path) -> ModuleType:
    """Import a file as a module named like the file, once."""
    name = file.stem
    if (loaded := sys.modules.get(name)) and getattr(loaded, "__file__", None) == str(file.resolve()):
        return loaded
    spec = importlib.util.spec_from_file_location(name, file.resolve())
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
