"""Initialization: each initial value is a pure function of (seed, parameter name, shape).

So models that differ only in attention share all other initial values, a new head is the same wherever a checkpoint is
loaded, and sharded and single-process runs start equal. `initialize` covers torch's layers; a module with other
parameters defines `initialize(generator_for)`, where `generator_for("w")` is the generator for its parameter or buffer
`w`.
"""

import hashlib
import math
from collections.abc import Callable, Set
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from zoo.utils import renamed

Initializer = Callable[[str], torch.Generator]  # parameter name -> generator
STD = 0.02  # of embeddings and tokens
OLD_METHODS = [old for old, new in renamed.NAMES["zoo.nn"].items() if new == "zoo.nn.initialize"]


def parameter_generator(seed: int, name: str, shape: tuple[int, ...] = ()) -> torch.Generator:
    """The random generator of one parameter."""
    digest = hashlib.blake2b(f"{seed}/{name}/{tuple(shape)}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big"))


def initialize(model: nn.Module, seed: int, only: Set[str] | None = None) -> None:
    """Initialize all parameters and buffers in place, or only those named in `only` (a new head of a loaded model).

    Modules of other packages (custom cores) keep the values that their constructor set, unless their class has
    `initialize`, its own or inherited. A tensor with several names (a tied embedding) is initialized once, under its
    first name. Raises ValueError for a module whose method still has its old name, NotImplementedError for parameters
    without a rule.
    """
    initialized: set[int] = set()
    for path, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False)) | dict(module.named_buffers(recurse=False))
        names = {key: f"{path}.{key}" if path else key for key in own}

        def generator_for(key: str, own: dict[str, Tensor] = own, names: dict[str, str] = names) -> torch.Generator:
            return parameter_generator(seed, names[key], own[key].shape)

        if not own or (only is not None and only.isdisjoint(names.values())):
            continue
        check_method_name(module)
        if not has_rule(module):
            continue
        selected = {key for key, t in own.items() if (only is None or names[key] in only) and id(t) not in initialized}
        kept = {key: t.detach().clone() for key, t in own.items() if key not in selected}
        initialized.update(id(t) for t in own.values())
        with torch.no_grad():
            initialize_module(module, generator_for)
            for key, value in kept.items():
                own[key].copy_(value)


def has_rule(module: nn.Module) -> bool:
    """Whether `initialize` sets the values of a module; a custom one without the method, which it may also inherit,
    keeps those of its constructor."""
    built_in = type(module).__module__.split(".")[0] in ("zoo", "torch")
    return hasattr(module, "initialize") or (built_in and not getattr(module, "foreign", False))


def check_method_name(module: nn.Module) -> None:
    """Raise ValueError where a class defines the method under its old name and so would not be initialized by it."""
    for cls in type(module).__mro__:
        if "initialize" in vars(cls):
            return
        if old := [name for name in OLD_METHODS if name in vars(cls)]:
            raise ValueError(
                f"{cls.__name__} defines `{old[0]}`, which is no longer called: rename the method to `initialize`"
            )


def initialize_module(module: nn.Module, generator_for: Initializer) -> None:
    """Initialize the parameters and buffers that a module owns directly."""
    own: Any = module
    if hasattr(own, "initialize"):
        own.initialize(generator_for)
        return
    if isinstance(module, nn.LayerNorm | nn.RMSNorm | nn.GroupNorm):
        nn.init.ones_(own.weight)
    elif isinstance(module, nn.Embedding):
        trunc_normal_(own.weight, STD, generator_for("weight"))
    elif isinstance(module, nn.RNNBase):  # as torch does
        for name, weight in module.named_parameters():
            uniform_(weight, module.hidden_size**-0.5, generator_for(name))
        return
    elif isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
        # the published 0.02 at a fan-in of 768, and more for narrow layers, which learn too slowly from 0.02
        trunc_normal_(own.weight, (3 * own.weight[0].numel()) ** -0.5, generator_for("weight"))
    else:
        name = type(module).__name__
        raise NotImplementedError(f"{name} owns parameters but does not define initialize(generator_for)")
    if getattr(own, "bias", None) is not None:
        nn.init.zeros_(own.bias)


def normal_(tensor: Tensor, std: float, generator: torch.Generator) -> None:
    tensor.copy_(torch.empty(tensor.shape).normal_(0.0, std, generator=generator))


def uniform_(tensor: Tensor, limit: float, generator: torch.Generator) -> None:
    tensor.copy_(torch.empty(tensor.shape).uniform_(-limit, limit, generator=generator))


@torch.no_grad()
def trunc_normal_(tensor: Tensor, std: float, generator: torch.Generator) -> None:
    """Truncated normal: what lies beyond two standard deviations is sampled again.

    Sampled on the CPU, so equal on every device. `nn.init.trunc_normal_` has other values for a seed before torch 2.12;
    these are those since then.
    """
    here = tensor.device.type == "cpu" and tensor.dtype == torch.float32
    fresh = tensor if here else torch.empty(tensor.shape)
    most = torch.tensor(2 * std).item()  # in float32
    fresh.normal_(0.0, std, generator=generator)
    while (beyond := fresh.abs() > most).any():
        again = torch.empty_like(fresh).normal_(0.0, std, generator=generator)
        fresh.copy_(torch.where(beyond, again, fresh))
    if not here:
        tensor.copy_(fresh)


def orthogonal_gaussian(tensor: Tensor, generator: torch.Generator) -> None:
    """Rows [F, P] that are each Gaussian, N(0, 1), and orthogonal within blocks of P (Choromanski et al. 2021, eq. 8).

    The signs of R make Q uniform over rotations, and norms sampled independently of the directions make each row
    Gaussian. Without either the kernel estimate is biased.
    """
    rows, dim = tensor.shape
    blocks = []
    for _ in range(math.ceil(rows / dim)):
        q, r = torch.linalg.qr(torch.empty(dim, dim).normal_(generator=generator))
        blocks.append((q * r.diagonal().sign()).mT)
    norms = torch.empty(rows, dim).normal_(generator=generator).norm(dim=1, keepdim=True)
    tensor.copy_(torch.cat(blocks)[:rows] * norms)


class skip_init(TorchFunctionMode):
    """Context in which torch's `nn.init` functions do nothing: constructors allocate, `initialize` follows."""

    paused = False

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if not skip_init.paused and getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


class allow_init:
    """Context for constructors of custom modules, which initialize themselves: `nn.init` works as usual."""

    def __enter__(self) -> None:
        self.before, skip_init.paused = skip_init.paused, True

    def __exit__(self, *_: object) -> None:
        skip_init.paused = self.before
