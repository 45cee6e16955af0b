"""Checkpoints of runs whose model is sharded: a folder with a file of each process, written during the next steps.

last.ckpt/
  meta.pt                                     steps, schedule, settings: what is not a tensor of the model or optimizer
  shard-00001-model-00001-of-00001.safetensors    the part of rank 0
  ...

Any number of processes, sharded in any way or not at all, load it; and a sharded model loads the file of one that is
not. Loading runs no code.
"""

import copy
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch import distributed as dist

from zoo.parallel.checkpoint import ShardSaver, Written, optimizer_groups, optimizer_tensors, states_of
from zoo.parallel.shard_reader import ShardReader
from zoo.parallel.shards import fill
from zoo.training.run_dir import RunError
from zoo.utils.atomic import sync

META = "meta.pt"
MODEL, OPTIMIZER = "state_dict.", "optimizer_{}."  # before the names of the tensors
Shapes = dict[str, tuple[int, ...]]  # of tensors, by name


class ShardedStrategy(ModelParallelStrategy):
    """Lightning's strategy for models of DTensors, with checkpoints that are written in the background.

    Attributes:
        then: Called on rank 0 once the next checkpoint is on disk.
    """

    def __init__(self, data_parallel_size: int, tensor_parallel_size: int = 1):
        super().__init__(data_parallel_size, tensor_parallel_size)
        self.then: Callable[[], None] = lambda: None
        self._saver: ShardSaver | None = None

    @property
    def saver(self) -> ShardSaver:
        """Writes the checkpoints; made at the first use, by all processes."""
        if self._saver is None:
            self._saver = ShardSaver(dist.new_group(backend="gloo"))
        return self._saver

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The state of the task, of which this process has a part; not copied."""
        assert self.model is not None
        return self.model.state_dict()

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """The state of an optimizer, of which this process has a part, by names of parameters; not copied."""
        optimizer = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        names = self._names
        return {"state": optimizer_tensors(optimizer, names), "param_groups": self._groups(optimizer, names)}

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Start to write a folder; `then` is called when it is complete."""
        if storage_options is not None:
            raise TypeError("checkpoints of sharded models take no storage_options")
        folder, then, self.then = Path(self.broadcast(filepath)), self.then, lambda: None
        optimizers = checkpoint.pop("optimizer_states", [])
        tensors = {MODEL + name: x for name, x in checkpoint.pop("state_dict").items()}
        for number, state in enumerate(optimizers):
            tensors |= {OPTIMIZER.format(number) + name: x for name, x in state["state"].items()}
        values = copy.deepcopy(checkpoint | {"optimizer_groups": [state["param_groups"] for state in optimizers]})

        def finish(written: Written) -> None:
            described = {"files": written.files, "shapes": written.shapes}
            with open(folder / META, "wb") as file:
                torch.save(values | described, file)
            sync(folder / META)
            sync(folder)
            then()

        self.saver.save(folder, tensors, finish)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Load the part of this process, from the checkpoint of any run of the same model; returns its other values."""
        assert self.model is not None
        self.wait()
        stored = StoredCheckpoint(Path(self.broadcast(checkpoint_path)))
        load_module(self.model, stored, self._elsewhere)
        if self.lightning_module is not None and self.lightning_module.trainer.state.fn == TrainerFn.FITTING:
            for number, optimizer in enumerate(self.optimizers):
                names = self._names
                whole = [group["params"] for group in self._groups(optimizer, names)]
                load_optimizer(optimizer, names, stored, number, whole)
        return stored.values

    def wait(self) -> None:
        """Wait until the last checkpoint is written. Raises OSError if it was not, in every process."""
        if self._saver is not None:
            self._saver.wait()

    def teardown(self) -> None:
        """Wait for the last checkpoint."""
        self.wait()
        super().teardown()

    @property
    def _elsewhere(self) -> Mapping[str, Any]:
        """The shapes of tensors of the task that only other processes have."""
        return {}

    @property
    def _names(self) -> dict[int, str]:
        """{id of a parameter: its name in the whole task}."""
        assert self.model is not None
        return {id(parameter): name for name, parameter in self.model.named_parameters()}

    def _groups(self, optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> list[dict[str, Any]]:
        """The parameter groups of the whole task, with names in place of parameters."""
        return optimizer_groups(optimizer, names)


class StoredCheckpoint:
    """A checkpoint on disk, a file or a folder, of which any part of any tensor can be read.

    values: what is not a tensor of the model or of an optimizer. shapes: of all whole tensors, by name.
    Raises: LoadError, or what torch.load raises, for a damaged one.
    """

    def __init__(self, path: Path):
        self.path = path
        self._shards = ShardReader(path) if path.is_dir() else None
        values = dict(torch.load(path / META if path.is_dir() else path, weights_only=True, mmap=True))
        self._tensors: dict[str, Tensor] = {}
        self.groups: list[list[dict[str, Any]]] = values.pop("optimizer_groups", [])
        if self._shards is None:
            self._tensors = {MODEL + name: x for name, x in values.pop("state_dict").items()}
            for number, state in enumerate(values.pop("optimizer_states", [])):
                self._take_state(number, state)
        self.values: dict[str, Any] = values
        self.shapes: dict[str, tuple[int, ...]] = {name: tuple(x.shape) for name, x in self._tensors.items()}
        if self._shards is not None:  # as they were written, also if a file is missing
            self.shapes = values.get("shapes") or self._shards.shapes

    @property
    def names(self) -> list[str]:
        """The names of all tensors."""
        return list(self._tensors if self._shards is None else self._shards.shapes)

    def read(self, name: str, part: tuple[slice, ...] | None = None) -> Tensor:
        """A part of a tensor, or all of it. A scalar is also read as the vector of one value that FSDP2 has."""
        if self._shards is not None:
            fits = part is not None and len(part) == len(self._shards.shapes.get(name, ()))
            return self._shards.read(name, part if fits else None)
        if name not in self._tensors:
            raise RunError(f"{self.path} has no tensor {name!r}")
        tensor = self._tensors[name]
        return tensor if part is None or len(part) != tensor.ndim else tensor[part]

    def state_of(self, number: int, parameters: list[list[str]]) -> dict[str, dict[str, str]]:
        """{name of a parameter: {key of its state: name of the tensor}} of an optimizer.

        parameters: the names of its parameters, by group: the file of one process has numbers instead of names.
        """
        prefix = OPTIMIZER.format(number)
        found = states_of(name.removeprefix(prefix) for name in self.names if name.startswith(prefix))
        if self._shards is None:
            ids = [str(i) for group in self.groups[number] for i in group["params"]]
            named = dict(zip(ids, (name for group in parameters for name in group), strict=True))
        else:
            named = {name: name for name in found}
        return {named[own]: {key: f"{prefix}{own}.{key}" for key in keys} for own, keys in found.items()}

    def _take_state(self, number: int, state: Mapping[str, Any]) -> None:
        self.groups.append(state["param_groups"])
        for own, values in state["state"].items():
            self._tensors |= {f"{OPTIMIZER.format(number)}{own}.{key}": x for key, x in values.items()}


def load_module(module: nn.Module, stored: StoredCheckpoint, elsewhere: Mapping[str, Any] | None = None) -> None:
    """Set the part of this process of all tensors of a module. Raises RunError for the checkpoint of another one.

    elsewhere: the shapes of tensors that only other processes have.
    """
    state = module.state_dict()
    shapes = dict(elsewhere or {}) | {name: own.shape for name, own in state.items()}
    # FSDP2 has vectors of one value for scalars
    here = {name: tuple(shape) or (1,) for name, shape in shapes.items() if math.prod(shape)}
    there = {n.removeprefix(MODEL): tuple(s) or (1,) for n, s in stored.shapes.items() if n.startswith(MODEL)}
    check_shapes(stored.path, there, here)
    for name, own in state.items():
        fill(own, lambda part, name=name: stored.read(MODEL + name, part))  # type: ignore[misc]


def check_shapes(path: Path, there: Shapes, here: Shapes, hint: str = "") -> None:
    """Raise RunError for a checkpoint whose tensors have other names or shapes than those of the model here."""
    for name in there | here:
        if there.get(name) != here.get(name):
            raise RunError(f"{path} holds the weights of another model ({name}: {there.get(name, 'missing')} there, "
                           f"{here.get(name, 'missing')} here){hint}")  # fmt: skip


def load_optimizer(optimizer: torch.optim.Optimizer, names: Mapping[int, str], stored: StoredCheckpoint,
                   number: int, whole: list[list[str]] | None = None) -> None:  # fmt: skip
    """Set the state of an optimizer, the part of this process, and its groups.

    whole: the names of all parameters in each group, where this process has those of some layers only.
    """
    groups = optimizer_groups(optimizer, names)
    by_name = {names[id(p)]: p for group in optimizer.param_groups for p in group["params"]}
    order = {name: place for place, name in enumerate(by_name)}
    state: dict[int, dict[str, Tensor]] = {}
    for name, keys in stored.state_of(number, whole or [group["params"] for group in groups]).items():
        if name in order:
            state[order[name]] = {
                key: _state_tensor(by_name[name], key, stored, tensor) for key, tensor in keys.items()
            }
    restored = [
        {**old, "params": [order[name] for name in new["params"]]}
        for old, new in zip(stored.groups[number], groups, strict=True)
    ]
    optimizer.load_state_dict({"state": state, "param_groups": restored})


def _state_tensor(parameter: nn.Parameter, key: str, stored: StoredCheckpoint, name: str) -> Tensor:
    """A tensor of an optimizer's state: sharded like its parameter, but for the number of steps."""
    if key == "step":
        return stored.read(name)
    values = torch.zeros_like(parameter, requires_grad=False)
    fill(values, lambda part: stored.read(name, part))
    return values


def whole_checkpoint(path: Path) -> dict[str, Any]:
    """The folder of a sharded run as Lightning's checkpoint of one process: whole tensors, optimizers by number."""
    stored = StoredCheckpoint(path)
    states = []
    for number, groups in enumerate(stored.groups):
        order = {name: place for place, name in enumerate(n for group in groups for n in group["params"])}
        keys = stored.state_of(number, [])
        state = {order[name]: {key: stored.read(x) for key, x in found.items()} for name, found in keys.items()}
        numbered = [{**group, "params": [order[name] for name in group["params"]]} for group in groups]
        states.append({"state": state, "param_groups": numbered})
    return stored.values | {"state_dict": model_tensors(stored), "optimizer_states": states}


def model_tensors(stored: StoredCheckpoint) -> dict[str, Tensor]:
    """The whole tensors of the task."""
    return {name.removeprefix(MODEL): stored.read(name) for name in stored.names if name.startswith(MODEL)}
